"""`eeg`: differential entropy of the electroencephalogram, in five bands, channel by channel.

The clip table's column `eeg` names the recording, relative to the table, in a format that
data_pipeline.features.recording reads. Of it the clip's `start` to `end` is taken, and nothing
beyond. Each band is cut out by a Butterworth filter of order 4, run forth and back, to whose edges
a clip's first and last second belong; a Gaussian signal of variance v, in microvolts squared, has
the differential entropy

    h = 1/2 log(2 pi e v)

(Duan, Zhu and Lu, NER 2013), the feature of SEED and SEED-IV, whose bands these are.

Channels and rate are settings, since a stream has one width, and stand in its passport. A recording
of others is refused, neither resampled nor filled up.

Shapes: C channels, T samples, N windows, B bands.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.config import Positive
from data_pipeline.features.extractors import Evidence, StreamAbsent
from data_pipeline.features.recording import Recording, check_mne, open_recording
from data_pipeline.schema import FeatureSpec, Stream

NEEDS = frozenset({"row"})
STREAMS = ("eeg",)
COLUMN, RATE_COLUMN = "eeg", "eeg_rate"
"""Of the clip table: the recording; and samples a second of an .npy, by default the settings'."""
BANDS = {
    "delta": (1.0, 4.0),
    "theta": (4.0, 8.0),
    "alpha": (8.0, 14.0),
    "beta": (14.0, 31.0),
    "gamma": (31.0, 50.0),
}
"""Edges in Hz."""
ORDER = 4
FLAT_MICROVOLTS = 1e-3
"""A channel that deviates by less is not connected: an amplifier's own noise is a hundred times as
much."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    channels: tuple[str, ...] = ()
    """Electrodes as the recordings name them, case aside, in the order in which they are to stand;
    a recording may have others beside. Of an .npy these are the rows."""
    rate_hz: Positive = 200.0
    """Samples a second of the recordings; SEED and SEED-IV are given at 200."""
    window_seconds: Positive = 1.0
    """Of signal to a row; windows do not overlap."""

    def __post_init__(self) -> None:
        names = [name.lower() for name in self.channels]
        if not names or len(set(names)) < len(names) or "" in names:
            raise ValueError(
                f"channels is {list(self.channels)}; expected names of electrodes, none twice, "
                "such as channels=[Fp1, Fp2, T7, T8]"
            )
        if self.rate_hz <= 2 * BANDS["gamma"][1]:
            raise ValueError(
                f"rate_hz is {self.rate_hz:g}; expected more than {2 * BANDS['gamma'][1]:g}, twice "
                "the upper edge of gamma"
            )
        if self.window_seconds < 1 or not (self.window_seconds * self.rate_hz).is_integer():
            raise ValueError(
                f"window_seconds is {self.window_seconds:g}; expected at least 1, a period of the "
                f"slowest wave, and whole samples of {self.rate_hz:g} Hz"
            )


class Eeg:
    """Differential entropies [N, C * B] float32: the bands of each channel in turn"""

    def __init__(self, settings: Settings) -> None:
        check_mne()
        self.settings = settings
        bands = ",".join(f"{name}{low:g}-{high:g}" for name, (low, high) in BANDS.items())
        spec = FeatureSpec(
            name="differential-entropy",
            weights_sha256="",
            layer=0,
            pooling=1,
            rate_hz=1 / settings.window_seconds,
            width=len(settings.channels) * len(BANDS),
            preprocessing=f"{settings.rate_hz:g}Hz-window{settings.window_seconds:g}s-"
            f"butterworth{ORDER}-{bands}-microvolts-{','.join(settings.channels)}",
            dtype="float32",
        )
        self.passport = {"eeg": spec}

    def __call__(self, evidence: Evidence) -> dict[str, Stream]:
        """Raises StreamAbsent where the clip's row names no recording, or one of no use."""
        clip, columns = evidence.clip, dict(evidence.clip.columns)
        if COLUMN not in columns:
            raise StreamAbsent("no_eeg", f"the column {COLUMN} of its row is empty, or not there")
        path = Path(columns[COLUMN])
        recording = open_recording(path, self.settings.channels, self._rate_told(columns))
        if not math.isclose(recording.rate_hz, self.settings.rate_hz, rel_tol=1e-6):
            raise StreamAbsent(
                "eeg_rate",
                f"{path.name} has {recording.rate_hz:g} samples a second, expected "
                f"streams.eeg.rate_hz={self.settings.rate_hz:g}; resample it",
            )
        signal_CT = recording.between(clip.start, clip.end)
        window = int(self.settings.window_seconds * self.settings.rate_hz)
        _check_signal(signal_CT, self.settings.channels, recording, window)
        values_ND = differential_entropy(signal_CT, self.settings.rate_hz, window)
        seconds_N = self.passport["eeg"].seconds(len(values_ND))
        return {"eeg": Stream(values_ND=values_ND, seconds_N=seconds_N)}

    def _rate_told(self, columns: dict[str, str]) -> float:
        """Of an .npy, which does not tell."""
        told = columns.get(RATE_COLUMN)
        try:
            return self.settings.rate_hz if told is None else float(told)
        except ValueError:
            raise StreamAbsent(
                "eeg_rate", f"{RATE_COLUMN} is {told!r}; expected samples a second, such as 200"
            ) from None


def _check_signal(
    signal_CT: np.ndarray, channels: Sequence[str], recording: Recording, window: int
) -> None:
    """Raise StreamAbsent for less than a window, and for channels that say nothing."""
    if signal_CT.shape[1] < window:
        raise StreamAbsent(
            "eeg_too_short",
            f"{signal_CT.shape[1] / recording.rate_hz:.2f} s of {recording.name}, expected at "
            f"least a window of {window / recording.rate_hz:g} s",
        )
    finite_C = np.isfinite(signal_CT).all(1)
    if not finite_C.all():
        raise StreamAbsent(
            "eeg_not_finite", _spoilt("NaN or infinite", finite_C, channels, recording)
        )
    alive_C = (_windows(signal_CT, window).std(-1) >= FLAT_MICROVOLTS).all(1)
    if not alive_C.all():
        raise StreamAbsent("eeg_flat", _spoilt("flat", alive_C, channels, recording))


def _spoilt(what: str, good_C: np.ndarray, channels: Sequence[str], recording: Recording) -> str:
    names = ", ".join(name for name, good in zip(channels, good_C, strict=True) if not good)
    return (
        f"{what} in {recording.name}: {names}; leave the clip out, interpolate these channels, or "
        "leave them out of streams.eeg.channels"
    )


def differential_entropy(signal_CT: np.ndarray, rate_hz: float, window: int) -> np.ndarray:
    """[N, C * B] float32 of microvolts [C, T], `window` samples a row; a rest is left out."""
    from scipy.signal import butter, sosfiltfilt

    entropy_CNB = []
    for edges in BANDS.values():
        sos = butter(ORDER, edges, btype="bandpass", fs=rate_hz, output="sos")
        variance_CN = _windows(sosfiltfilt(sos, signal_CT, axis=1), window).var(-1)
        entropy_CNB.append(0.5 * np.log(2 * math.pi * math.e * variance_CN))
    by_row_NCB = np.stack(entropy_CNB, -1).transpose(1, 0, 2)
    return by_row_NCB.reshape(len(by_row_NCB), -1).astype(np.float32)


def _windows(signal_CT: np.ndarray, window: int) -> np.ndarray:
    """[C, N, window], without the rest."""
    num = signal_CT.shape[1] // window
    return signal_CT[:, : num * window].reshape(len(signal_CT), num, window)


def load(settings: Settings, device: str) -> Eeg:
    return Eeg(settings)
