"""Recordings of the body's signals: EDF, FIF, SET or another format that MNE reads, and .npy.

An .npy is [channels, samples] in microvolts; it names no channels and tells no rate.

Shapes: C channels, T samples.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.config import ConfigError
from data_pipeline.features.extractors import StreamAbsent

MAX_MISSING_SECONDS = 0.25
"""A clip that ends so much behind its recording is still taken: tables round their times."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """A file, opened, of which nothing is read but what is asked for."""

    name: str
    rate_hz: float
    num_samples: int
    read: Callable[[int, int], np.ndarray]
    """(first, end) -> microvolts [C, T] of the channels asked for, in their order."""

    def between(self, start: float, end: float | None) -> np.ndarray:
        """Microvolts [C, T]; `end` None is the end of the file. Raises StreamAbsent."""
        seconds = self.num_samples / self.rate_hz
        if end is not None and end - seconds > MAX_MISSING_SECONDS:
            raise StreamAbsent(
                "eeg_too_short",
                f"the clip ends at {end:.2f} s, but {self.name} at {seconds:.2f} s; correct `end`",
            )
        last = self.num_samples if end is None else min(self.num_samples, self._sample(end))
        return self.read(min(self._sample(start), last), last)

    def _sample(self, seconds: float) -> int:
        return round(seconds * self.rate_hz)


def check_mne() -> None:
    """Raise ConfigError where the package is not there."""
    if importlib.util.find_spec("mne") is None:
        raise ConfigError(
            "recordings are read and written with MNE, which is not installed; "
            "pip install -e .[eeg]"
        )


def open_recording(path: Path, channels: Sequence[str], npy_rate_hz: float) -> Recording:
    """Raises StreamAbsent for what is not there, no recording, or one of other channels."""
    if not path.is_file():
        raise StreamAbsent("missing_eeg", f"no file {path}; paths are relative to the clip table")
    try:
        if path.suffix.lower() == ".npy":
            return _open_npy(path, channels, npy_rate_hz)
        return _open_with_mne(path, channels)
    except StreamAbsent:
        raise
    except Exception as error:  # MNE's readers raise whatever they stumble over
        raise StreamAbsent(
            "unreadable_eeg",
            f"{path.name} is no recording that can be read ({type(error).__name__}: {error}); "
            "expected EDF, FIF, SET, another format of mne.io.read_raw, or .npy",
        ) from error


def _open_npy(path: Path, channels: Sequence[str], rate_hz: float) -> Recording:
    values_CT = np.load(path, mmap_mode="r", allow_pickle=False)
    if values_CT.ndim != 2 or len(values_CT) != len(channels):
        raise StreamAbsent(
            "eeg_channels",
            f"{path.name} is {list(values_CT.shape)}, expected [{len(channels)}, samples]: a row "
            "for each of streams.eeg.channels",
        )
    return Recording(
        name=path.name,
        rate_hz=rate_hz,
        num_samples=values_CT.shape[1],
        read=lambda first, end: np.asarray(values_CT[:, first:end], dtype=np.float64),
    )


def _open_with_mne(path: Path, channels: Sequence[str]) -> Recording:
    import mne

    raw = mne.io.read_raw(path, preload=False, verbose="error")
    named = {name.lower(): name for name in raw.ch_names}
    absent = [name for name in channels if name.lower() not in named]
    if absent:
        raise StreamAbsent(
            "eeg_channels",
            f"{path.name} lacks {', '.join(absent)}, expected all of streams.eeg.channels; it has "
            f"{', '.join(raw.ch_names)}",
        )
    picks = [raw.ch_names.index(named[name.lower()]) for name in channels]
    return Recording(
        name=path.name,
        rate_hz=float(raw.info["sfreq"]),
        num_samples=raw.n_times,
        read=lambda first, end: 1e6 * raw[picks, first:end][0],
    )
