import numpy as np
import pytest
import torch

from data_pipeline.recipes.speech import prosody
from data_pipeline.recipes.speech.teachers import num_states

SECOND = 16_000
TIME = np.arange(2 * SECOND) / SECOND


def voice(hz: float, top: int = 8) -> np.ndarray:
    return sum(np.sin(2 * np.pi * hz * k * TIME) / k for k in range(1, top)).astype(np.float32)


@pytest.mark.parametrize("hz", [75, 120, 220, 400, 580])
def test_the_pitch_of_a_harmonic_sound_is_its_fundamental(hz):
    rng = np.random.default_rng(0)
    tone_S4 = prosody.prosody(voice(hz) + 0.01 * rng.standard_normal(len(TIME)))[3:-3]
    np.testing.assert_allclose(np.exp(tone_S4[:, 0]), hz, rtol=0.002)
    assert tone_S4[:, 1].min() > 0.95


def test_noise_and_silence_are_not_voiced():
    noise_S4 = prosody.prosody(np.random.default_rng(0).standard_normal(SECOND))
    assert (noise_S4[:, 1] < prosody.VOICED).all()
    silence_S4 = prosody.prosody(np.zeros(SECOND, np.float32))
    assert np.isfinite(silence_S4).all() and not silence_S4[:, 1].any()


def test_energy_and_tilt_follow_the_sound_and_not_its_level():
    rng = np.random.default_rng(0)
    half = np.where(TIME < 1, 1.0, 0.1)
    tone_S4 = prosody.prosody(half * voice(150))
    assert len(tone_S4) == num_states(len(TIME))
    loud, soft = tone_S4[10:40, 2].mean(), tone_S4[60:90, 2].mean()
    assert loud - soft == pytest.approx(np.log(100), abs=0.05)
    np.testing.assert_allclose(prosody.prosody(5 * half * voice(150)), tone_S4, atol=0.01)
    dark, bright = (prosody.prosody(x)[5:-5, 3].mean() for x in (voice(150, 4), voice(150, 20)))
    assert dark > bright + 1
    assert prosody.prosody(rng.standard_normal(SECOND))[:, 3].mean() < bright


def test_the_pitch_of_speech_is_that_of_torchaudio(shared_data):
    """Two methods, one without and one with smoothing over time: they agree where both are sure."""
    from torchaudio.functional import detect_pitch_frequency

    from data_pipeline.recipes.speech.corpora import read_corpus, read_sound

    calm = [u for u in read_corpus("ravdess", shared_data) if u.label == "neutral"][:6]
    near = []
    for utterance in calm:
        sound_T = read_sound(utterance.path)
        tone_S4 = prosody.prosody(sound_T)
        other_S = detect_pitch_frequency(
            torch.from_numpy(sound_T), SECOND, 0.02, 9, freq_low=60, freq_high=600
        ).numpy()
        states = min(len(tone_S4), len(other_S))
        voiced = tone_S4[:states, 1] > prosody.VOICED
        error = np.abs(tone_S4[:states, 0] - np.log(other_S[:states]))[voiced]
        near.append((error < 0.1).mean())
    assert np.mean(near) > 0.75, near
