"""Filter banks: where a tone lies, and when."""

import numpy as np
import pytest

from data_pipeline.config import check_settings
from data_pipeline.features.extractors import Evidence, extract
from data_pipeline.features.fbank import Settings, load


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    times_T = np.arange(round(16_000 * seconds)) / 16_000
    return (0.3 * np.sin(2 * np.pi * hertz * times_T)).astype(np.float32)


def mel(hertz: float) -> float:
    return 1127 * np.log(1 + hertz / 700)


@pytest.mark.parametrize("hertz", [300, 1000, 4000])
@pytest.mark.parametrize("bins", [40, 80])
def test_a_tone_is_loudest_in_its_band(hertz, bins):
    """Kaldi: equal triangles on the mel scale, from 20 Hz to half the sample rate."""
    fbank = load(Settings(mel_bins=bins), "cpu")
    stream = fbank(Evidence(sound_T=tone(hertz)))["fbank"]
    width = (mel(8000) - mel(20)) / (bins + 1)
    band = (mel(hertz) - mel(20)) / width - 1
    loudest = stream.values_ND.astype(np.float32).mean(0).argmax()
    assert abs(loudest - band) <= 1


def test_frames_are_whole_and_evenly_spaced():
    fbank = load(Settings(shift_ms=20.0), "cpu")
    stream = fbank(Evidence(sound_T=tone(440)))["fbank"]
    assert len(stream) == (1000 - 25) // 20 + 1
    assert stream.seconds_N == pytest.approx(np.arange(len(stream)) / 50)
    assert stream.values_ND.dtype == np.dtype(fbank.passport["fbank"].dtype) == np.float16
    again = fbank(Evidence(sound_T=tone(440)))["fbank"]
    assert np.array_equal(stream.values_ND, again.values_ND)  # no dither


def test_silence_is_finite_and_too_short_a_sound_gives_nothing():
    fbank = load(Settings(), "cpu")
    assert np.isfinite(
        fbank(Evidence(sound_T=np.zeros(16_000, np.float32)))["fbank"].values_ND
    ).all()
    assert fbank(Evidence(sound_T=tone(440, 0.024))) == {}
    assert extract("fbank", fbank, Evidence()) == {}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mel_bins": 3}, "streams.fbank.mel_bins: Input should be greater than or equal to 4"),
        ({"shift_ms": float("inf")}, "streams.fbank.shift_ms: Input should be a finite number"),
        ({"shift_ms": 3.3}, "expected whole samples of 16000 Hz"),
    ],
)
def test_settings_out_of_range_are_told(wrong, message):
    with pytest.raises(ValueError, match=message):
        check_settings(Settings, wrong, "streams", "fbank")
