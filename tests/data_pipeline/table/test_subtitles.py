"""Subtitle files of every kind that users bring: each word once, at its time."""

import re

import pytest

from data_pipeline.table.subtitles import SubtitleError, clips_from_subtitles

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


def test_a_line_that_cannot_be_read_is_a_reject_and_the_others_go_on(tmp_path):
    file = tmp_path / "film.srt"
    whole = "1\n00:00:01,000 --> 00:00:03,000\ncafé\n\n"
    file.write_bytes(whole.encode() + b"2\n00:00:04,000 --> 00:00:06,000\ncaf\xe9\n")
    rows, rejects = clips_from_subtitles("film.mp4", file)
    assert [row["text"] for row in rows] == ["café"]
    assert [(r.clip, r.reason) for r in rejects] == [("film.srt:6", "not_utf8")]


def test_a_file_without_lines(tmp_path):
    file = tmp_path / "film.srt"
    file.write_text("just words\n")
    with pytest.raises(SubtitleError, match="no subtitle line"):
        clips_from_subtitles("film.mp4", file)


ROLLING = """WEBVTT
Kind: captions
Language: en

00:00:00.240 --> 00:00:02.310 align:start position:0%
 
my<00:00:00.480><c> fellow</c><00:00:00.800><c> americans</c><00:00:01.300><c> tonight</c>

00:00:02.310 --> 00:00:02.320 align:start position:0%
my fellow americans tonight
 

00:00:02.320 --> 00:00:04.550 align:start position:0%
my fellow americans tonight
i<00:00:02.560><c> want</c><00:00:02.800><c> to</c><00:00:03.000><c> speak</c>

00:00:04.550 --> 00:00:04.560 align:start position:0%
i want to speak
 

00:00:04.560 --> 00:00:07.000 align:start position:0%
i want to speak
with<00:00:05.000><c> you</c><00:00:05.500><c> about</c><00:00:06.000><c> it</c>

00:00:07.000 --> 00:00:07.010 align:start position:0%
with you about it
 
"""
SPOKEN = [
    ("0.240", "2.310", "my fellow americans tonight"),
    ("2.320", "4.550", "i want to speak"),
    ("4.560", "7.000", "with you about it"),
]


def spoken(tmp_path, text: str, name: str = "x.srt"):
    (tmp_path / name).write_text(text)
    rows, rejects = clips_from_subtitles("x.mp4", tmp_path / name)
    return [(row["start"], row["end"], row["text"]) for row in rows], rejects


def srt(*cues: tuple[str, str, str]) -> str:
    return "\n".join(
        f"{n}\n00:00:{a},000 --> 00:00:{b},000\n{text}\n" for n, (a, b, text) in enumerate(cues, 1)
    )


def test_rolling_captions_say_each_word_once_at_its_time(tmp_path):
    assert spoken(tmp_path, ROLLING, "x.vtt") == (SPOKEN, [])


def test_rolling_captions_turned_into_subrip_without_their_marks(tmp_path):
    bare = re.sub(r"<[^>]*>|align.*", "", ROLLING.partition("en\n\n")[2])
    assert spoken(tmp_path, bare.replace(".", ",")) == (SPOKEN, [])
    echoes = r"00:00:0(2.310|4.550|7.000) -->.*\n.*\n \n\n?"
    assert spoken(tmp_path, re.sub(echoes, "", bare)) == (SPOKEN, [])


def test_three_lines_that_roll_and_a_line_that_grows_word_by_word(tmp_path):
    rolling = srt(("01", "03", "a b"), ("03", "05", "a b\nc d"), ("05", "07", "a b\nc d\ne f"))
    rolling += "\n" + srt(("07", "09", "c d\ne f\ng h"))
    rows, _ = spoken(tmp_path, rolling)
    assert [text for *_, text in rows] == ["a b", "c d", "e f", "g h"]
    growing = srt(("01", "02", "so"), ("02", "03", "so we"), ("03", "04", "so we go"))
    growing += "\n" + srt(("04", "06", "so we go\nhome"))
    rows, _ = spoken(tmp_path, growing)
    assert rows == [("1.000", "4.000", "so we go"), ("4.000", "6.000", "home")]


def test_what_is_said_twice_stays_twice(tmp_path):
    chant = srt(("01", "02", "Go!"), ("02", "03", "Go!"), ("03", "04", "Go!"))
    assert [text for *_, text in spoken(tmp_path, chant)[0]] == ["Go!"] * 3
    talk = srt(
        ("01", "03", "No."), ("03", "05", "No.\nGo."), ("05", "07", "Why?"), ("07", "09", "So.")
    )
    assert [t for *_, t in spoken(tmp_path, talk)[0]] == ["No.", "No. Go.", "Why?", "So."]
    later = srt(("01", "03", "No."), ("05", "07", "No.\nGo."))
    assert [text for *_, text in spoken(tmp_path, later)[0]] == ["No.", "No. Go."]


@pytest.mark.parametrize("name", ["yt.en.vtt", "CAM.SRT", "u16.srt"])
def test_real_subtitles(shared_data, name):
    rows, rejects = clips_from_subtitles("x.mp4", shared_data / "odd_media/subtitles" / name)
    found = [(row["start"], row["end"], row["text"]) for row in rows]
    assert found == (SPOKEN if name == "yt.en.vtt" else [("1.000", "4.000", "hello there")])
    assert rejects == []


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
def test_encodings_that_are_read(tmp_path, encoding):
    text = srt(("01", "03", "Où est le café – là-bas ?"))
    (tmp_path / "x.srt").write_bytes(text.encode(encoding))
    rows, rejects = clips_from_subtitles("x.mp4", tmp_path / "x.srt")
    assert [row["text"] for row in rows] == ["Où est le café – là-bas ?"] and rejects == []


@pytest.mark.parametrize(
    ("encoding", "words"),
    [("cp1251", "Привет, как дела?"), ("cp1253", "Καλημέρα"), ("gbk", "你好")],
)
def test_letters_of_an_unknown_code_page_are_not_guessed(tmp_path, encoding, words):
    (tmp_path / "x.srt").write_bytes(srt(("01", "03", words)).encode(encoding))
    rows, rejects = clips_from_subtitles("x.mp4", tmp_path / "x.srt")
    assert rows == [] and [r.reason for r in rejects] == ["not_utf8"]
