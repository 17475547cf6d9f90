"""Differential entropy of signals whose band powers are known, and what is refused."""

import math

import numpy as np
import pytest

from data_pipeline.config import ConfigError, check_settings
from data_pipeline.features.eeg import BANDS, Settings, differential_entropy, load
from data_pipeline.features.extractors import Evidence, StreamAbsent, extract
from data_pipeline.schema import Clip, SchemaError, check_passport

mne = pytest.importorskip("mne", reason="MNE is not installed: pip install -e .[eeg]")

RATE = 200
CHANNELS = ("Fp1", "T7", "Oz")
SETTINGS = Settings(channels=CHANNELS)
HERTZ = {"delta": 2, "theta": 6, "alpha": 11, "beta": 22, "gamma": 40}
"""Inside each band."""


def tones(amplitude_CB: np.ndarray, seconds: float = 12.0) -> np.ndarray:
    """Microvolts [C, T]: of each band one sinusoid, whose variance is amplitude squared, halved."""
    times_T = np.arange(round(seconds * RATE)) / RATE
    waves_BT = np.sin(2 * np.pi * np.array(list(HERTZ.values()))[:, None] * times_T + 0.3)
    return amplitude_CB @ waves_BT


def entropy(variance):
    return 0.5 * np.log(2 * math.pi * math.e * np.asarray(variance))


@pytest.fixture
def amplitude_CB():
    return np.random.default_rng(0).uniform(8, 20, size=(len(CHANNELS), len(BANDS)))


@pytest.fixture
def signal_CT(amplitude_CB):
    return tones(amplitude_CB)


def write(path, signal_CT, channels=CHANNELS, rate=RATE):
    """By the suffix; .npy as it is."""
    if path.suffix == ".npy":
        np.save(path, signal_CT)
        return path
    info = mne.create_info(list(channels), rate, "eeg")
    raw = mne.io.RawArray(1e-6 * signal_CT, info, verbose="error")
    if path.suffix == ".fif":
        raw.save(path, verbose="error")
        return path
    pytest.importorskip({".edf": "edfio", ".set": "eeglabio"}[path.suffix], reason="its writer")
    mne.export.export_raw(path, raw, verbose="error")
    return path


def clip(path=None, start=0.0, end=None, **columns):
    named = {} if path is None else {"eeg": str(path)}
    columns = tuple((named | columns).items())
    return Clip(id="one", video="/nowhere.mp4", start=start, end=end, columns=columns)


def stream_of(path, settings=SETTINGS, **of_clip):
    return load(settings, "cpu")(Evidence(clip=clip(path, **of_clip)))["eeg"]


def refused(path, settings=SETTINGS, **of_clip):
    """(reason, detail)."""
    with pytest.raises(StreamAbsent) as caught:
        stream_of(path, settings, **of_clip)
    return caught.value.args


def test_the_entropy_of_tones_is_that_of_their_power(tmp_path, amplitude_CB, signal_CT):
    """Whole periods to a window, so that the variance is exact but for the filters' flanks."""
    stream = stream_of(write(tmp_path / "a.npy", signal_CT))
    assert stream.values_ND.shape == (12, 15) and stream.values_ND.dtype == np.float32
    assert np.array_equal(stream.seconds_N, np.arange(12, dtype=np.float32))
    found_NCB = stream.values_ND[2:-2].reshape(-1, *amplitude_CB.shape)
    assert found_NCB == pytest.approx(
        np.broadcast_to(entropy(amplitude_CB**2 / 2), found_NCB.shape), abs=0.02
    )


def test_the_entropy_of_noise_is_that_of_its_power():
    """Gaussian noise inside one band, longer windows; the formula is that of such a signal."""
    rng = np.random.default_rng(1)
    for number, (low, high) in enumerate(BANDS.values()):
        spectrum_F = np.fft.rfft(rng.standard_normal(600 * RATE))
        hertz_F = np.fft.rfftfreq(600 * RATE, 1 / RATE)
        middle = (high - low) / 5  # off the flanks
        spectrum_F[(hertz_F < low + middle) | (hertz_F > high - middle)] = 0
        noise_T = np.fft.irfft(spectrum_F)
        noise_T *= 10 / noise_T.std()
        (found_D,) = differential_entropy(noise_T[None], RATE, 600 * RATE)
        assert found_D[number] == pytest.approx(entropy(100), abs=0.02)
        assert found_D[number] > np.delete(found_D, number).max() + 1


def test_all_formats_agree(tmp_path, signal_CT):
    plain = stream_of(write(tmp_path / "a.npy", signal_CT), start=2.0, end=7.0)
    assert len(plain) == 5
    for name in ("a_raw.fif", "a.edf", "a.set"):
        found = stream_of(write(tmp_path / name, signal_CT), start=2.0, end=7.0)
        assert np.array_equal(found.seconds_N, plain.seconds_N)
        np.testing.assert_allclose(found.values_ND, plain.values_ND, atol=2e-3, err_msg=name)


def test_nothing_but_the_clip_is_read(tmp_path, signal_CT):
    cut = stream_of(write(tmp_path / "cut.npy", signal_CT[:, 400:1000]))
    around = signal_CT.copy()
    around[:, :400], around[:, 1000:] = 5000, np.nan
    whole = stream_of(write(tmp_path / "whole.npy", around), start=2.0, end=5.0)
    assert np.array_equal(cut.values_ND, whole.values_ND)


def test_channels_are_found_by_name_and_put_in_order(tmp_path, signal_CT):
    names = ("EOG", "OZ", "fp1", "t7")
    others = np.concatenate([signal_CT[:1] * 9, signal_CT[[2, 0, 1]]])
    path = write(tmp_path / "b_raw.fif", others, channels=names)
    plain = stream_of(write(tmp_path / "a.npy", signal_CT))
    np.testing.assert_allclose(stream_of(path).values_ND, plain.values_ND, atol=1e-4)
    reason, detail = refused(path, Settings(channels=("Fp1", "Cz", "Pz")))
    assert reason == "eeg_channels"
    assert "lacks Cz, Pz" in detail and "it has EOG, OZ, fp1, t7" in detail
    reason, detail = refused(write(tmp_path / "c.npy", others))
    assert reason == "eeg_channels" and "[4, 2400], expected [3, samples]" in detail


def test_another_rate_is_refused(tmp_path, signal_CT):
    path = write(tmp_path / "fast_raw.fif", signal_CT, rate=250)
    reason, detail = refused(path)
    assert (
        reason == "eeg_rate"
        and "has 250 samples a second, expected streams.eeg.rate_hz=200" in (detail)
    )
    path = write(tmp_path / "a.npy", signal_CT)
    assert refused(path, eeg_rate="128")[0] == "eeg_rate"
    assert "expected samples a second" in refused(path, eeg_rate="fast")[1]
    assert len(stream_of(path, eeg_rate="200")) == 12


@pytest.mark.parametrize(
    ("spoil", "reason", "message"),
    [
        (lambda x: x[1].fill(7.0), "eeg_flat", "flat in a.npy: T7;"),
        (lambda x: x[2, 390:610].fill(-3.0), "eeg_flat", "flat in a.npy: Oz;"),
        (lambda x: x[:2, 9:11].fill(np.nan), "eeg_not_finite", "NaN or infinite in a.npy: Fp1, T7"),
        (lambda x: x[0, :1].fill(np.inf), "eeg_not_finite", "Fp1"),
    ],
)
def test_channels_that_say_nothing_are_named(tmp_path, signal_CT, spoil, reason, message):
    spoil(signal_CT)
    found, detail = refused(write(tmp_path / "a.npy", signal_CT))
    assert found == reason and message in detail


def test_what_is_too_short_is_refused(tmp_path, signal_CT):
    path = write(tmp_path / "a.npy", signal_CT)
    for start, end, message in (
        (1.0, 1.3, "0.30 s of a.npy, expected at least a window of 1 s"),
        (12.0, None, "0.00 s"),
        (50.0, None, "0.00 s"),
        (10.0, 14.0, "the clip ends at 14.00 s, but a.npy at 12.00 s"),
    ):
        reason, detail = refused(path, start=start, end=end)
        assert reason == "eeg_too_short" and message in detail
    assert len(stream_of(path, start=10.0, end=12.2)) == 2  # a rounded time


def test_what_is_no_recording_is_refused(tmp_path):
    for name, content in (
        ("a.edf", b"hello"),
        ("a_raw.fif", b""),
        ("a.set", b"\0" * 400),
        ("a.npy", b"\x93NUMPY"),
        ("a.mp3", b"ID3"),
        ("objects.npy", None),
    ):
        path = tmp_path / name
        if content is None:
            np.save(path, np.array([{}, {}]), allow_pickle=True)
        else:
            path.write_bytes(content)
        reason, detail = refused(path)
        assert reason == "unreadable_eeg" and f"{name} is no recording" in detail
    assert refused(tmp_path / "gone.edf")[0] == "missing_eeg"
    assert refused(tmp_path)[0] == "missing_eeg"  # a folder
    assert refused(None)[0] == "no_eeg"
    assert extract("eeg", load(SETTINGS, "cpu"), Evidence()) == {}


def test_the_passport_tells_channels_rate_and_window():
    mine = load(SETTINGS, "cpu").passport
    assert mine["eeg"].rate_hz == 1 and mine["eeg"].width == 15
    for other in (
        Settings(channels=CHANNELS[::-1]),
        Settings(channels=("Fp1", "T7", "O1")),
        Settings(channels=CHANNELS, rate_hz=250.0),
        Settings(channels=CHANNELS, window_seconds=4.0),
    ):
        with pytest.raises(SchemaError, match="eeg.preprocessing: found '.*Fp1,T7,O"):
            check_passport(load(other, "cpu").passport | {}, mine, "it")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, r"channels is \[\]; expected names of electrodes"),
        ({"channels": ["Fz", "FZ"]}, "none twice"),
        ({"channels": ["Fz"], "rate_hz": 100.0}, "expected more than 100"),
        ({"channels": ["Fz"], "window_seconds": 0.5}, "expected at least 1"),
        ({"channels": ["Fz"], "window_seconds": 1.0001}, "whole samples of 200 Hz"),
    ],
)
def test_settings_out_of_range_are_told(wrong, message):
    with pytest.raises(ValueError, match=message):
        check_settings(Settings, wrong, "streams", "eeg")


def test_without_mne_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"MNE, which is not installed; pip install -e .\[eeg\]"):
        load(SETTINGS, "cpu")
