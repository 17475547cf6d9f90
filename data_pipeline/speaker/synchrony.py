"""How well a mouth and a sound go together in time.

Canonical correlation analysis: two small linear maps, one of the mouth's picture and one of the
sound's spectrum, whose outputs rise and fall together in real speech. They tell more than that
both are lively: the lips close for b and p, the mouth opens for a, its corners spread for s. How
much a mouth moves goes with how loud the voice is for everybody who says a sentence of one length.
The maps are fitted by data_pipeline/recipes/lip_sync.py and ship in data_pipeline/assets/lip_sync.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from data_pipeline.files.weights import WeightsError, resolve_weights
from data_pipeline.schema import SAMPLE_RATE

RATE = 25.0  # per second: everything is compared on this grid, whatever the video's rate
MIN_SECONDS = 0.6  # a shorter stretch correlates with anything
LEAD_SECONDS, LAG_SECONDS = 0.24, 0.16  # most that lips may be ahead of the sound, or behind it
USUAL_LEAD_SECONDS = 0.04  # lips come a little before their sound
LAG_COST = 0.5  # of the score, a second away from the usual lead: most files are in step
SPECTRUM_SAMPLES, FFT, NUM_BANDS = 960, 1024, 20  # 60 ms
LOWEST_HZ, HIGHEST_HZ = 80.0, 7000.0
SMOOTHING_FRAMES = 0.7
PIXEL_STEP = 3  # the 36 x 48 patch is blurred and thinned to 12 x 16


@dataclass(frozen=True, kw_only=True, eq=False)
class LipSync:
    """The two maps. B basis pictures, C canonical pairs."""

    basis_PB: np.ndarray
    """[192, B] pictures that a mouth is written in."""
    mouth_VC: np.ndarray
    """[3 B + 1, C] map of the mouth's features."""
    sound_AC: np.ndarray
    """[40, C] map of the sound's features."""
    weight_C: np.ndarray
    """[C] share of each pair in the score: its correlation in training, summing to 1."""

    def score(
        self,
        mouth_FHW: np.ndarray,
        movement_F: np.ndarray,
        seconds_F: np.ndarray,
        sound_T: np.ndarray,
    ) -> float | None:
        """Weighted mean correlation of the pairs, -1 to 1, highest over the lags lips can have.

        A lag costs LAG_COST: a mouth that fits a sound by chance does so at any lag, and the best
        of eleven chances is high; one that belongs to it does so near the usual lead.
        None when the face or the sound beside it is too short to tell. A lag shifts the sound's
        window, not the video's, so that every lag is judged on the same frames.
        """
        grid_N = time_grid(seconds_F)
        if len(grid_N) < MIN_SECONDS * RATE:
            return None
        mouth_NV = mouth_features(mouth_FHW, movement_F, seconds_F, grid_N, self.basis_PB)
        mapped_NC = mouth_NV @ self.mouth_VC
        best = None
        for lag in np.arange(-round(LAG_SECONDS * RATE), round(LEAD_SECONDS * RATE) + 1) / RATE:
            # Beyond the ends of the sound nothing is known: those frames are left out.
            known_N = (grid_N + lag >= 0) & (grid_N + lag <= len(sound_T) / SAMPLE_RATE)
            if known_N.sum() < MIN_SECONDS * RATE:
                continue
            heard_NC = sound_features(sound_T, grid_N[known_N] + lag) @ self.sound_AC
            score = float(_correlation(mapped_NC[known_N], heard_NC) @ self.weight_C)
            score -= LAG_COST * abs(lag - USUAL_LEAD_SECONDS)
            best = score if best is None else max(best, score)
        return best


@functools.cache
def load_lip_sync() -> LipSync:
    """The maps that ship."""
    path = Path(resolve_weights("lip_sync")) / "model.safetensors"
    if not path.is_file():
        raise WeightsError(f"no {path}; make it with python -m data_pipeline.recipes.lip_sync")
    tensors = load_file(path)
    return LipSync(**{key: tensor.astype(np.float64) for key, tensor in tensors.items()})


def time_grid(seconds_F: np.ndarray) -> np.ndarray:
    """[N] times of the 25-per-second grid from the first frame to the last."""
    return np.arange(seconds_F[0], seconds_F[-1] + 1e-6, 1 / RATE, dtype=np.float64)


def mouth_pictures(mouth_FHW: np.ndarray, seconds_F: np.ndarray, grid_N: np.ndarray) -> np.ndarray:
    """[N, 192] the mouth on the time grid: blurred, thinned, in units of its contrast, centered."""
    level_FHW = mouth_FHW.astype(np.float32)
    level_FHW -= level_FHW.mean(axis=(1, 2), keepdims=True)
    contrast = float(level_FHW.std(axis=(1, 2)).mean()) + 4.0
    small_FHW = gaussian_filter(level_FHW, (0, 1.5, 1.5))[:, 1::PIXEL_STEP, 1::PIXEL_STEP]
    small_FP = small_FHW.reshape(len(small_FHW), -1) / contrast
    at_N = np.interp(grid_N, seconds_F, np.arange(len(seconds_F)))
    low_N = np.floor(at_N).astype(int)
    high_N = np.minimum(low_N + 1, len(seconds_F) - 1)
    part_N1 = (at_N - low_N)[:, None]
    picture_NP = (1 - part_N1) * small_FP[low_N] + part_N1 * small_FP[high_N]
    return picture_NP - picture_NP.mean(axis=0)


def mouth_features(
    mouth_FHW: np.ndarray,
    movement_F: np.ndarray,
    seconds_F: np.ndarray,
    grid_N: np.ndarray,
    basis_PB: np.ndarray,
) -> np.ndarray:
    """[N, 3 B + 1] shape of the mouth, its change, the size of the change, and its movement."""
    shape_NB = mouth_pictures(mouth_FHW, seconds_F, grid_N) @ basis_PB
    change_NB = np.gradient(shape_NB, axis=0)
    moved_N1 = np.interp(grid_N, seconds_F, movement_F)[:, None]
    feature_NV = np.concatenate([shape_NB, change_NB, moved_N1, np.abs(change_NB)], axis=1)
    return gaussian_filter1d(feature_NV - feature_NV.mean(axis=0), SMOOTHING_FRAMES, axis=0)


def sound_features(sound_T: np.ndarray, seconds_N: np.ndarray) -> np.ndarray:
    """[N, 40] log mel spectrum around each of these times, less its mean, and its change."""
    half = SPECTRUM_SAMPLES // 2
    padded_T = np.pad(sound_T.astype(np.float64), half)
    first_N = np.clip(np.round(seconds_N * SAMPLE_RATE), 0, len(sound_T)).astype(np.int64)
    window_W, power = np.hanning(SPECTRUM_SAMPLES), []
    for start in range(0, len(first_N), 1024):  # half an hour at once would be 700 MB
        frame_BW = padded_T[first_N[start : start + 1024, None] + np.arange(SPECTRUM_SAMPLES)]
        power.append(np.abs(np.fft.rfft(frame_BW * window_W, FFT)) ** 2 @ _mel_bands().T)
    power_NB = np.concatenate(power)
    log_NB = np.log(power_NB + 1e-5 * power_NB.max() + 1e-9)
    log_NB = gaussian_filter1d(log_NB - log_NB.mean(axis=0), SMOOTHING_FRAMES, axis=0)
    return np.concatenate([log_NB, np.gradient(log_NB, axis=0)], axis=1)


@functools.cache
def _mel_bands() -> np.ndarray:
    """[20, 513] triangles, evenly spaced in mel = 1127 ln(1 + f / 700)."""
    mel = np.linspace(*(1127 * np.log1p(np.array([LOWEST_HZ, HIGHEST_HZ]) / 700)), NUM_BANDS + 2)
    edge = 700 * np.expm1(mel / 1127)
    low, middle, high = (x[:, None] for x in (edge[:-2], edge[1:-1], edge[2:]))
    hertz = np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT
    return np.clip(
        np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)), 0, None
    )


def _correlation(a_NC: np.ndarray, b_NC: np.ndarray) -> np.ndarray:
    """[C] Pearson's, column by column; 0 where one of the two does not vary."""
    a_NC, b_NC = a_NC - a_NC.mean(axis=0), b_NC - b_NC.mean(axis=0)
    power_C = np.sqrt((a_NC**2).sum(axis=0) * (b_NC**2).sum(axis=0))
    return np.where(power_C > 1e-12, (a_NC * b_NC).sum(axis=0) / np.maximum(power_C, 1e-12), 0.0)
