"""What a student hears in place of clean sound, and which of its states are masked.

    plain     half of the crops with noise or one weaker voice, a third tilted
    varied    noise at 0 to 20 dB, babble, a second voice, rooms, narrow bands, clipping, tilt;
              half of the crops stay clean

The teacher heard clean sound. Every disturbance keeps the length and, but for the tail of a room,
the place of what is said. Shapes: T samples, S states.
"""

from collections.abc import Sequence

import numpy as np
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

from data_pipeline.schema import SAMPLE_RATE

CLEAN_SHARE = 1 / 2


def mixed(sound_T: np.ndarray, noise_T: np.ndarray, decibels: float) -> np.ndarray:
    """The sound with noise `decibels` below it in power."""
    power = np.mean(sound_T**2) / (np.mean(noise_T**2) + 1e-9)
    return sound_T + noise_T * np.sqrt(power) * 10 ** (-decibels / 20)


def colored_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    return lfilter([1], [1, -rng.uniform(0, 0.97)], rng.standard_normal(length))


def rolled(sound_T: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.roll(sound_T, int(rng.integers(len(sound_T))))


def tilted(sound_T: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return lfilter([1, -rng.uniform(-0.6, 0.6)], [1], sound_T)


def in_a_room(sound_T: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise that decays by 60 dB in 0.1 to 0.6 s, under a direct sound of equal or more energy."""
    seconds = rng.uniform(0.1, 0.6)
    time_R = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tail_R = rng.standard_normal(len(time_R)) * 10 ** (-3 * time_R / seconds)
    tail_R *= rng.uniform(0.2, 1.0) / np.sqrt(np.sum(tail_R**2))
    tail_R[0] = 1.0
    return fftconvolve(sound_T, tail_R)[: len(sound_T)]


def narrowed(sound_T: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A telephone, or a recording without its highest octave."""
    low, high = ((300, 3400), (50, 4000), (80, 6000))[rng.integers(3)]
    return sosfilt(butter(4, (low, high), "bandpass", fs=SAMPLE_RATE, output="sos"), sound_T)


def clipped(sound_T: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    most = rng.uniform(0.3, 0.9) * np.abs(sound_T).max()
    return np.clip(sound_T, -most, most)


def plain(
    sound_T: np.ndarray, others: Sequence[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    kind = rng.integers(4)
    if kind == 0:
        sound_T = mixed(sound_T, colored_noise(len(sound_T), rng), rng.uniform(5, 35))
    elif kind == 1 and others:
        sound_T = mixed(sound_T, rolled(others[-1], rng), rng.uniform(12, 30))
    return tilted(sound_T, rng) if rng.random() < 1 / 3 else sound_T


def varied(
    sound_T: np.ndarray, others: Sequence[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    if rng.random() < CLEAN_SHARE:
        return sound_T
    if rng.random() < 0.25:
        sound_T = in_a_room(sound_T, rng)
    kind = rng.integers(4)
    if kind == 0:
        sound_T = mixed(sound_T, colored_noise(len(sound_T), rng), rng.uniform(0, 20))
    elif kind == 1 and len(others) >= 3:
        voices = [rolled(others[-1 - i], rng) for i in range(3)]
        sound_T = mixed(sound_T, np.sum(voices, 0), rng.uniform(3, 20))
    elif kind == 2 and others:
        sound_T = mixed(sound_T, rolled(others[-1], rng), rng.uniform(5, 20))
    if rng.random() < 0.2:
        sound_T = narrowed(sound_T, rng)
    if rng.random() < 0.3:
        sound_T = tilted(sound_T, rng)
    return clipped(sound_T, rng) if rng.random() < 0.1 else sound_T


KINDS = {"plain": plain, "varied": varied}


def disturb(
    kind: str, sound_T: np.ndarray, others: Sequence[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """The crop after `kind`, within 3 dB of the level it had: a whole sound has unit variance, of
    which a crop is a louder or a softer piece. `others` are crops of the same batch."""
    heard_T = KINDS[kind](sound_T, others, rng)
    gain = 10 ** (rng.uniform(-3, 3) / 20)
    if heard_T is not sound_T:
        gain *= np.sqrt(np.mean(sound_T**2) / (np.mean(heard_T**2) + 1e-9))
    return heard_T * gain


def span_mask(states: int, share: float, rng: np.random.Generator, span: int = 8) -> np.ndarray:
    """[S] bool, about `share` of the states masked in spans."""
    mask = np.zeros(states, bool)
    for start in rng.integers(0, states, size=round(share * states / span)):
        mask[start : start + span] = True
    return mask
