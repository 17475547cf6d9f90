import numpy as np
import pytest
import soundfile
import torch

from data_pipeline.schema import SAMPLE_RATE
from data_pipeline.speaker.voice import DETECTORS, VoiceActivity, voice_activity


@pytest.fixture(scope="module")
def speech_T(shared_data) -> np.ndarray:
    """A sentence of a real person, 16 kHz."""
    path = sorted((shared_data / "ravdess_audio").rglob("*.opus"))[0]
    sound_T, rate = soundfile.read(path, dtype="float32")
    assert rate == SAMPLE_RATE and sound_T.ndim == 1
    return sound_T


def noise(seconds: float, level: float = 1e-4) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (level * rng.standard_normal(int(seconds * SAMPLE_RATE))).astype(np.float32)


def share_voiced(voice: VoiceActivity, start: float, end: float) -> float:
    return float(voice.voiced_at(np.arange(start, end, 0.01)).mean())


@pytest.mark.parametrize("detector", DETECTORS)
def test_finds_speech_between_two_silences(speech_T, detector):
    core_T = speech_T[np.flatnonzero(np.abs(speech_T) > 0.02 * np.abs(speech_T).max())[0] :]
    core_T = core_T[: int(1.2 * SAMPLE_RATE)]
    voice = voice_activity(np.concatenate([noise(2), core_T, noise(2)]), detector)
    assert share_voiced(voice, 0.0, 1.8) == 0
    assert share_voiced(voice, 2.1, 3.1) > 0.7
    assert share_voiced(voice, 3.5, 5.2) == 0


def test_the_two_detectors_agree_on_clean_speech(speech_T):
    sound_T = np.concatenate([noise(1), speech_T, noise(1)])
    at = np.arange(0, len(sound_T) / SAMPLE_RATE, 0.01)
    silero, energy = (voice_activity(sound_T, d).voiced_at(at) for d in ("silero", "energy"))
    assert (silero == energy).mean() > 0.8


def test_only_silero_knows_noise_from_voice():
    loud = np.concatenate([noise(1), noise(1, level=0.2), noise(1)])
    assert voice_activity(loud, "energy").seconds > 0.8
    assert voice_activity(loud, "silero").seconds == 0


def test_context_removes_single_clicks_and_bridges_single_gaps():
    """The reference's context loop tested the frame itself and so did nothing."""
    click_T = noise(2)
    click_T[SAMPLE_RATE : SAMPLE_RATE + 160] = 0.5
    assert voice_activity(click_T, "energy").spans == []
    tone_T = np.concatenate([noise(1), noise(1, level=0.2), noise(1)])
    tone_T[int(1.5 * SAMPLE_RATE) : int(1.53 * SAMPLE_RATE)] *= 1e-3
    assert len(voice_activity(tone_T, "energy").spans) == 1


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("samples", [0, 1, 100, 399, 400, 401, 4000])
def test_short_and_silent_sound_has_no_voice(detector, samples):
    voice = voice_activity(np.zeros(samples, np.float32), detector)
    assert voice.spans == [] and voice.seconds == 0


def test_no_sound_is_no_voice():
    assert voice_activity(None).spans == []


def test_bad_input_is_told():
    with pytest.raises(ValueError, match="silero, energy"):
        voice_activity(np.zeros(10, np.float32), "loudness")
    with pytest.raises(ValueError, match="mono"):
        voice_activity(np.zeros((2, 10), np.float32))
    with pytest.raises(ValueError, match="finite"):
        voice_activity(np.array([np.nan], np.float32))


def test_is_deterministic_and_leaves_torch_threads_alone(speech_T):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    first, second = voice_activity(speech_T), voice_activity(speech_T)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert first.spans == second.spans


def test_spans_lie_within_the_sound(speech_T):
    for detector in DETECTORS:
        spans = np.array(voice_activity(speech_T, detector).spans)
        assert (spans[:, 0] < spans[:, 1]).all() and (spans[1:, 0] > spans[:-1, 1]).all()
        assert spans[0, 0] >= 0 and spans[-1, 1] <= len(speech_T) / SAMPLE_RATE
