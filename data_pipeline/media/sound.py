"""Sound packets to 16 kHz mono on the clip's own clock: index 0 is the clip's start.

A recording's sound may start late, stop for a while, or end early, and only the timestamps say so.
Each stretch of sound without a jump in its timestamps is resampled by itself and laid down where
its time says; what lies between two stretches, or before the first, is silence (zeros). decord's
AudioReader gives the samples without their times, hence PyAV.

Channels are mixed with the weights of FFmpeg, made to sum to 1 over those that are not dead: so
nothing is clipped, and a lone microphone keeps its level. Where the mix loses the sound, as the
channels cancel (a microphone wired the wrong way round) or as it lies in one that mixes leave out,
the loudest channel is taken, and a note says so.
"""

import functools
from dataclasses import dataclass, field

import av
import numpy as np

from data_pipeline.schema import SAMPLE_RATE

MAX_JITTER_SECONDS = 0.04
"""Timestamps of containers with a millisecond clock wander by less; more is a real jump."""
MIN_MIXED_SHARE = 0.25
"""Of the energy that channels without relation would leave in the mix: less is cancellation. Two
channels fall below it at a correlation of -0.75; spaced microphones stay above -0.5."""
DEAD_SHARE = 1e-4
"""Of the loudest channel's energy, -40 dB: a channel with less has no part in the mix."""


@dataclass
class _Stretch:
    """Sound without a jump: C channels at 16 kHz from `begin` on, by the timestamps."""

    begin: float
    layout: str
    parts: list[np.ndarray] = field(default_factory=list)

    def samples_CT(self) -> np.ndarray:
        num_channels = len(mix_weights(self.layout))
        return np.concatenate([np.zeros((num_channels, 0), np.float32), *self.parts], axis=1)


class SoundTrack:
    """Collects decoded audio frames in order of time; `samples` gives the clip's sound."""

    def __init__(self, start_seconds: float, end_seconds: float) -> None:
        """Keep sound from `start_seconds` to `end_seconds` of the timestamps that will come."""
        self._start, self._end = start_seconds, end_seconds
        self._stretches: list[_Stretch] = []
        self._resampler: av.AudioResampler | None = None
        self._format: tuple[str, str, int] | None = None
        self._next_seconds = start_seconds
        self.last_seconds = -np.inf
        """Time up to which sound was given; -inf before any."""
        self.notes: list[str] = []
        """What `samples` found odd, in sentences."""

    def add(self, frame: av.AudioFrame) -> None:
        """Append one decoded frame; a frame without a time follows the one before it."""
        if not frame.samples:
            return
        begin = self._next_seconds if frame.time is None else frame.time
        end = begin + frame.samples / frame.sample_rate
        self.last_seconds = max(self.last_seconds, end)
        if end <= self._start or begin >= self._end:
            return
        layout = (frame.format.name, frame.layout.name, frame.sample_rate)
        jump = abs(begin - self._next_seconds) > MAX_JITTER_SECONDS
        if self._resampler is None or jump or layout != self._format:
            self._flush()
            self._resampler = av.AudioResampler("flt", frame.layout.name, SAMPLE_RATE)
            self._format = layout
            self._stretches.append(_Stretch(begin, frame.layout.name))
        self._next_seconds = end
        # The resampler counts by itself; timestamps that jitter would make it drop samples.
        frame.pts = None
        self._keep(self._resampler.resample(frame))

    def samples(self, num_seconds: float) -> np.ndarray | None:
        """float32 [T], 16 kHz mono, T at most `num_seconds` long; None when there was no sound.

        It ends where the sound does: silence is filled in before and between, never after.
        """
        self._flush()
        num_samples = round(num_seconds * SAMPLE_RATE)
        sound_T = np.zeros(num_samples, dtype=np.float32)
        last = 0
        weights = self._weights()
        for stretch in self._stretches:
            x_CT = stretch.samples_CT()
            x_T = weights[stretch.layout] @ x_CT
            first = round((stretch.begin - self._start) * SAMPLE_RATE)
            x_T = x_T[max(0, -first) :]
            first = max(0, first)
            x_T = x_T[: max(0, num_samples - first)]
            sound_T[first : first + len(x_T)] = x_T
            last = max(last, first + len(x_T) if len(x_T) else 0)
        return np.clip(sound_T[:last], -1.0, 1.0) if last else None

    def _weights(self) -> dict[str, np.ndarray]:
        """Layout to what of each of its channels goes into the mix, [C] float32."""
        weights = {}
        for layout in sorted({stretch.layout for stretch in self._stretches}):
            stretches = [s.samples_CT() for s in self._stretches if s.layout == layout]
            weights[layout], note = _weigh(layout, stretches)
            if note:
                self.notes.append(note)
        return weights

    def _flush(self) -> None:
        if self._resampler is not None:
            self._keep(self._resampler.resample(None))
            self._resampler = None

    def _keep(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            # Samples one after the other: PyAV has no more than 7 planes.
            x_CT = frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T
            np.nan_to_num(x_CT, copy=False, posinf=1.0, neginf=-1.0)  # broken float PCM
            self._stretches[-1].parts.append(x_CT)


def _weigh(layout: str, stretches: list[np.ndarray]) -> tuple[np.ndarray, str]:
    """The weights of channels that hold `stretches`, [C, T] each, and what is odd about them."""
    weights_C = mix_weights(layout)
    energy_C = sum((x_CT.astype(np.float64) ** 2).sum(axis=1) for x_CT in stretches)
    loudest = int(np.argmax(energy_C))
    alone_C = np.eye(len(weights_C), dtype=np.float32)[loudest]
    if not energy_C[loudest]:
        return weights_C, ""
    weights_C = weights_C * (energy_C >= DEAD_SHARE * energy_C[loudest])
    if not weights_C.any():
        return alone_C, f"{layout} sound: only channel {loudest}, which mixes leave out, has any"
    weights_C = weights_C / weights_C.sum()
    mixed = sum(float(((weights_C @ x_CT) ** 2).sum()) for x_CT in stretches)
    if mixed < MIN_MIXED_SHARE * (weights_C**2 * energy_C).sum():
        return alone_C, f"{layout} sound: its channels cancel, so channel {loudest} alone is taken"
    return weights_C, ""


@functools.cache
def mix_weights(layout: str) -> np.ndarray:
    """[C] float32: FFmpeg's share of each channel of `layout` in a mono mix, summing to 1.

    FFmpeg itself lets the mix of float samples grow: of a stereo recording by 3 dB, into clipping.
    """
    num_channels = av.AudioLayout(layout).nb_channels
    if num_channels == 1:
        return np.ones(1, np.float32)
    weights = []
    for channel in range(num_channels):
        one_TC = np.zeros((64, num_channels), np.float32)
        one_TC[:, channel] = 1.0
        frame = av.AudioFrame.from_ndarray(one_TC.reshape(1, -1), format="flt", layout=layout)
        frame.rate = SAMPLE_RATE
        mixed = av.AudioResampler("flt", "mono", SAMPLE_RATE).resample(frame)
        weights.append(mixed[0].to_ndarray()[0, 32])
    weights_C = np.array(weights, np.float32)
    return weights_C / weights_C.sum()
