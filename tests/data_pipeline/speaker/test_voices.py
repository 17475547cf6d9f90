"""Voices told apart: groups, neighbours, and the encoder against resemblyzer's own code."""

import sys
import types

import numpy as np
import pytest

from data_pipeline.media.clip_media import open_clip
from data_pipeline.schema import Clip
from data_pipeline.speaker.voices import (
    VoiceEncoderError,
    embed_voices,
    load_voice_encoder,
    tell_apart,
)


def unit(*values):
    return np.array(values) / np.linalg.norm(values)


def test_near_ones_are_one_voice_in_order_of_appearance():
    a, b = unit(1, 0.1, 0), unit(0, 0.1, 1)
    assert tell_apart([b, b, a, unit(1, 0.2, 0), b], [2.0] * 5) == [0, 0, 1, 1, 0]
    assert tell_apart([a], [1.0]) == [0]
    assert tell_apart([], []) == []


def test_what_is_too_short_takes_its_neighbours_voice():
    a, b = unit(1, 0, 0), unit(0, 0, 1)
    seconds = [0.5, 2, 0.5, 0.5, 0.5, 2]
    assert tell_apart([None, a, None, None, None, b], seconds) == [0, 0, 0, 0, 1, 1]
    assert tell_apart([None, None], [0.5, 0.5]) == [None, None]


def test_what_is_short_makes_no_voice_of_its_own():
    a, b, far = unit(1, 0, 0), unit(0, 0, 1), unit(0.3, 1, 0.2)
    assert tell_apart([a, far, b], [2, 1, 2]) == [0, 0, 1]
    assert tell_apart([a, far, b], [2, 2, 2]) == [0, 1, 2]


def test_without_weights_it_says_what_to_install():
    with pytest.raises(VoiceEncoderError, match=r"pip install -e .\[diarize\]"):
        load_voice_encoder("package:no_such_package")


@pytest.fixture(scope="module")
def encoder():
    try:
        return load_voice_encoder()
    except VoiceEncoderError as error:
        pytest.skip(str(error))


def test_an_embedding_of_resemblyzers_own_code_comes_out(encoder):
    second_T = np.arange(48000) / 16000
    sound_T = 0.15 * np.sin(2 * np.pi * (120 + 40 * second_T) * second_T)
    sound_T *= 1 + np.sin(2 * np.pi * 5 * second_T)
    sound_T = (sound_T + 0.1 * np.sign(np.sin(2 * np.pi * 150 * second_T))).astype(np.float32)
    largest = {125: 0.2027, 49: 0.1809, 48: 0.1792, 133: 0.1776, 215: 0.1697, 82: 0.1628}
    vector_E = encoder.embed(sound_T)
    assert [vector_E[at] for at in largest] == pytest.approx(list(largest.values()), abs=2e-4)


def test_embeddings_are_those_of_resemblyzer(encoder, shared_data, monkeypatch):
    for name in ("webrtcvad", "scipy.ndimage.morphology"):  # of its preprocessing, not used here
        module = types.ModuleType(name)
        module.binary_dilation = None
        monkeypatch.setitem(sys.modules, name, module)
    resemblyzer = pytest.importorskip("resemblyzer")
    theirs = resemblyzer.VoiceEncoder("cpu", verbose=False)
    for path in sorted((shared_data / "grid_multi/clips").iterdir())[:3]:
        sound_T = open_clip(Clip(id="x", video=str(path))).sound_T
        loud_T = resemblyzer.audio.normalize_volume(sound_T, -30, increase_only=True)
        expected = theirs.embed_utterance(loud_T)
        assert float(encoder.embed(sound_T) @ expected) > 0.999


def test_two_people_are_two_voices(encoder, shared_data):
    clips = sorted((shared_data / "grid_multi/clips").iterdir())[:2]
    found = []
    for path in clips:
        sound_T = open_clip(Clip(id="x", video=str(path))).sound_T
        found += embed_voices(encoder, sound_T, [(0.5, 1.6), (1.2, 2.4), (0, 0.3)])
    assert tell_apart(found, [1.1, 1.2, 0.3] * 2) == [0, 0, 0, 1, 1, 1]
