"""Voice activity: when somebody speaks.

Two detectors behind one function. `silero` is a learned one (silero-vad, its ONNX model, a frame
of 32 ms); `energy` is the plain twin, the log-energy threshold of MEmoBERT's preprocessing. The
energy twin calls anything loud a voice, music included, so `silero` is the default.
"""

import functools
import logging
from dataclasses import dataclass

import numpy as np
import torch

from data_pipeline.schema import SAMPLE_RATE

log = logging.getLogger(__name__)

# Hysteresis of silero's own get_speech_timestamps: a span opens at ON and closes below OFF.
SILERO_ON, SILERO_OFF = 0.5, 0.35
SILERO_HOP = 512  # samples; the model takes no other frame at 16 kHz
SHORTEST_SPAN_SECONDS = 0.1
SHORTEST_PAUSE_SECONDS = 0.1

ENERGY_FRAME, ENERGY_HOP, ENERGY_FFT = 400, 160, 512  # 25 ms, 10 ms
ENERGY_OFFSET, ENERGY_SLOPE = 5.5, 0.5
ENERGY_CONTEXT, ENERGY_PROPORTION = 5, 0.6
PREEMPHASIS = 0.97


@dataclass(frozen=True, kw_only=True)
class VoiceActivity:
    """Where a clip holds a voice."""

    spans: list[tuple[float, float]]
    """Start and end of each piece of voice, in seconds from the clip's start, in order."""

    @property
    def seconds(self) -> float:
        """Seconds of voice."""
        return sum(end - start for start, end in self.spans)

    def voiced_at(self, seconds_N: np.ndarray) -> np.ndarray:
        """[N] bool: whether each of these times lies in a span."""
        inside_N = np.zeros(len(seconds_N), bool)
        for start, end in self.spans:
            inside_N |= (seconds_N >= start) & (seconds_N < end)
        return inside_N


def voice_activity(sound_T: np.ndarray | None, detector: str = "silero") -> VoiceActivity:
    """When somebody speaks in `sound_T`, mono float32 [T] at 16 kHz; None is a clip without sound.

    Deterministic, on one thread. Raises ValueError on an unknown detector, on sound that is not
    one-dimensional and on values that are not finite.
    """
    if detector not in DETECTORS:
        raise ValueError(f"no voice detector {detector!r}; there are {', '.join(DETECTORS)}")
    hop, find_voice = DETECTORS[detector]
    if sound_T is None:
        sound_T = np.zeros(0, np.float32)
    if sound_T.ndim != 1 or not np.isfinite(sound_T).all():
        raise ValueError(
            f"sound of shape {sound_T.shape}, finite: {bool(np.isfinite(sound_T).all())}; "
            "expected [T], mono at 16 kHz, finite"
        )
    if len(sound_T) == 0:
        voiced_K = np.zeros(0, bool)
    else:
        voiced_K = find_voice(np.ascontiguousarray(sound_T, np.float32))
    spans = _spans(voiced_K, hop / SAMPLE_RATE, len(sound_T) / SAMPLE_RATE)
    voice = VoiceActivity(spans=spans)
    log.debug("voice by %s: %.2f s in %d spans", detector, voice.seconds, len(spans))
    return voice


@functools.cache
def _silero():
    # Importing silero_vad sets torch to one thread for the whole process: keep the caller's count.
    num_threads = torch.get_num_threads()
    from silero_vad import load_silero_vad

    torch.set_num_threads(num_threads)
    log.info("voice activity: silero-vad, ONNX, one thread")
    return load_silero_vad(sequence=True)


def _silero_voice(sound_T: np.ndarray) -> np.ndarray:
    """[K] bool: which hops hold a voice; hop k covers [k, k + 1) hops of sound."""
    prob_K = np.asarray(_silero().audio_forward(sound_T), np.float32)
    voiced_K = np.zeros(len(prob_K), bool)
    speaking = False
    for k, prob in enumerate(prob_K):
        speaking = prob >= (SILERO_OFF if speaking else SILERO_ON)
        voiced_K[k] = speaking
    return voiced_K


def _energy_voice(sound_T: np.ndarray) -> np.ndarray:
    """A frame is voiced if 60 % of the 11 around it are above 5.5 + 0.5 * mean log energy.

    The reference meant this smoothing, but its loop tested the frame itself for each neighbour,
    so it did nothing. Energies are of 16-bit sound, which its 5.5 supposes; they are floored at
    one least significant bit, or digital silence (log 0) would drag the mean, and the threshold
    with it, below the hiss of a room. Steady noise of more than about 5e-4 of full scale is above
    its own threshold (E > 5.5 + E / 2 for E > 11): there this detector hears a voice throughout.
    """
    emphasized_T = np.append(sound_T[:1], sound_T[1:] - PREEMPHASIS * sound_T[:-1]) * 32768.0
    num_frames = max(1, -(-(len(sound_T) - ENERGY_FRAME) // ENERGY_HOP) + 1)
    padded_T = np.zeros((num_frames - 1) * ENERGY_HOP + ENERGY_FRAME)
    padded_T[: len(emphasized_T)] = emphasized_T[: len(padded_T)]
    frames_KW = np.lib.stride_tricks.sliding_window_view(padded_T, ENERGY_FRAME)[::ENERGY_HOP]
    power_KB = np.abs(np.fft.rfft(frames_KW, ENERGY_FFT)) ** 2 / ENERGY_FFT
    log_energy_K = np.log(np.maximum(power_KB.sum(axis=1), 1.0))
    loud_K = log_energy_K > ENERGY_OFFSET + ENERGY_SLOPE * log_energy_K.mean()
    window = np.ones(2 * ENERGY_CONTEXT + 1)
    # The ends have fewer neighbours: divide by how many there are.
    share_K = _same(loud_K.astype(float), window) / _same(np.ones(num_frames), window)
    return share_K >= ENERGY_PROPORTION


def _same(x_K: np.ndarray, window_W: np.ndarray) -> np.ndarray:
    half = len(window_W) // 2
    return np.convolve(x_K, window_W)[half : half + len(x_K)]


def _spans(voiced_K: np.ndarray, hop_seconds: float, duration: float) -> list[tuple[float, float]]:
    """Runs of voiced hops in seconds; short pauses are bridged, then short spans dropped."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], voiced_K, [False]]).astype(np.int8)))
    spans: list[tuple[float, float]] = []
    for first, last in edges.reshape(-1, 2):
        start, end = float(first * hop_seconds), min(float(last * hop_seconds), duration)
        if spans and start - spans[-1][1] < SHORTEST_PAUSE_SECONDS:
            start = spans.pop()[0]
        spans.append((start, end))
    return [(a, b) for a, b in spans if b - a >= SHORTEST_SPAN_SECONDS]


DETECTORS = {"silero": (SILERO_HOP, _silero_voice), "energy": (ENERGY_HOP, _energy_voice)}
