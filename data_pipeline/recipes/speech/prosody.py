"""Pitch, voicing, energy and tilt of speech, one row a state of the encoder.

    prosody_S4 = prosody(sound_T)     # columns COLUMNS

Pitch is the strongest peak of the autocorrelation of a windowed frame divided by that of its window
(Boersma 1993: "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise
ratio of a sampled sound"), in one pass without path tracking: as a regression target it may be
wrong in a few frames. Energy is relative to the sound's own level, so a gain changes nothing.

Shapes: T samples, S states, W samples of a frame.
"""

import numpy as np

from data_pipeline.recipes.speech.teachers import FIELD, HOP, num_states
from data_pipeline.schema import SAMPLE_RATE

COLUMNS = ("log_f0", "voicing", "energy", "tilt")
FRAME = 1024
"""Samples of a frame, 64 ms: three periods of the lowest pitch, under a Hann window."""
LOWEST_HZ, HIGHEST_HZ = 60.0, 600.0
OCTAVE_COST = 0.02
"""A peak must be stronger by this much an octave to win over a higher pitch."""
VOICED = 0.5
"""Voicing from which a frame has a pitch."""
TILT_HZ = 1000.0
"""Tilt is the energy below this frequency over that between it and 5 kHz, as a logarithm."""


def frames(sound_T: np.ndarray) -> np.ndarray:
    """[S, FRAME] around the middle of each state, zeros beyond the ends, each of zero mean."""
    before = FRAME // 2 - FIELD // 2
    padded = np.pad(sound_T.astype(np.float32), (before, FRAME))
    starts = np.arange(num_states(len(sound_T))) * HOP
    frame_SW = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[starts]
    return frame_SW - frame_SW.mean(1, keepdims=True)


def prosody(sound_T: np.ndarray) -> np.ndarray:
    """[S, 4] float32: natural logarithm of the pitch in Hz (that of the strongest peak, voiced or
    not), voicing in 0 to 1, logarithm of the energy over the sound's mean energy, and tilt."""
    window_W = np.hanning(FRAME).astype(np.float32)
    power_SK = np.abs(np.fft.rfft(frames(sound_T) * window_W, 2 * FRAME)) ** 2
    own_K = np.fft.irfft(np.abs(np.fft.rfft(window_W, 2 * FRAME)) ** 2)
    auto_SK = np.fft.irfft(power_SK, axis=1)
    floor = 1e-4 * sound_T.var() * own_K[0] + 1e-9  # silence is not voiced
    first, last = int(SAMPLE_RATE / HIGHEST_HZ), int(np.ceil(SAMPLE_RATE / LOWEST_HZ))
    lag_L = np.arange(first - 1, last + 2)
    relative_SL = auto_SK[:, lag_L] / (auto_SK[:, :1] + floor) * (own_K[0] / own_K[lag_L])
    inner = relative_SL[:, 1:-1]
    peak_SL = (inner >= relative_SL[:, :-2]) & (inner >= relative_SL[:, 2:])
    score_SL = np.where(peak_SL, inner - OCTAVE_COST * np.log2(lag_L[1:-1] / first), -1.0)
    best_S = score_SL.argmax(1)
    row_S = np.arange(len(best_S))
    left, middle, right = (relative_SL[row_S, best_S + k] for k in (0, 1, 2))
    bend = np.minimum(left - 2 * middle + right, -1e-6)
    lag_S = lag_L[best_S + 1] + np.clip(0.5 * (left - right) / bend, -0.5, 0.5)
    hz_K = np.fft.rfftfreq(2 * FRAME, 1 / SAMPLE_RATE)
    low_S = power_SK[:, (hz_K >= 50) & (hz_K < TILT_HZ)].sum(1)
    high_S = power_SK[:, (hz_K >= TILT_HZ) & (hz_K < 5000)].sum(1)
    energy_S = auto_SK[:, 0] / (own_K[0] * (sound_T.var() + 1e-9))
    columns = [
        np.log(SAMPLE_RATE / lag_S),
        np.clip(middle, 0, 1),
        np.log(energy_S + 1e-4),
        np.log((low_S + 1e-3 * floor) / (high_S + 1e-3 * floor)),
    ]
    return np.stack(columns, 1).astype(np.float32)
