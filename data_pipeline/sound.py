"""Sound packets to 16 kHz mono on the clip's own clock: index 0 is the clip's start.

A recording's sound may start late, stop for a while, or end early, and only the timestamps say so.
Each stretch of sound without a jump in its timestamps is resampled by itself and laid down where
its time says; what lies between two stretches, or before the first, is silence (zeros). decord's
AudioReader gives the samples without their times, hence PyAV.
"""

import av
import numpy as np

from data_pipeline.schema import SAMPLE_RATE

MAX_JITTER_SECONDS = 0.04
"""Timestamps of containers with a millisecond clock wander by less; more is a real jump."""


class SoundTrack:
    """Collects decoded audio frames in order of time; `samples` gives the clip's sound."""

    def __init__(self, start_seconds: float, end_seconds: float) -> None:
        """Keep sound from `start_seconds` to `end_seconds` of the timestamps that will come."""
        self._start, self._end = start_seconds, end_seconds
        self._stretches: list[tuple[float, list[np.ndarray]]] = []
        self._resampler: av.AudioResampler | None = None
        self._format: tuple[str, str, int] | None = None
        self._next_seconds = start_seconds
        self.last_seconds = -np.inf
        """Time up to which sound was given; -inf before any."""

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
            self._resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
            self._format = layout
            self._stretches.append((begin, []))
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
        for begin, parts in self._stretches:
            x_T = np.concatenate(parts) if parts else np.zeros(0, np.float32)
            first = round((begin - self._start) * SAMPLE_RATE)
            x_T = x_T[max(0, -first) :]
            first = max(0, first)
            x_T = x_T[: max(0, num_samples - first)]
            sound_T[first : first + len(x_T)] = x_T
            last = max(last, first + len(x_T) if len(x_T) else 0)
        np.nan_to_num(sound_T, copy=False, posinf=1.0, neginf=-1.0)  # broken float PCM
        return np.clip(sound_T[:last], -1.0, 1.0) if last else None

    def _flush(self) -> None:
        if self._resampler is not None:
            self._keep(self._resampler.resample(None))
            self._resampler = None

    def _keep(self, frames: list[av.AudioFrame]) -> None:
        self._stretches[-1][1].extend(frame.to_ndarray().reshape(-1) for frame in frames)
