"""A folder of videos: which files are clips, and which of the files beside them is used."""

import os
from pathlib import Path

import pytest

from data_pipeline.table.clips import ClipTableError, load_clips

SRT = "1\n00:00:01,000 --> 00:00:02,500\nfrom {}\n"


@pytest.fixture
def put(tmp_path):
    """Make files; subtitles and texts say their own name."""

    def make(*names: str) -> Path:
        for name in names:
            kind = Path(name).suffix.lower()
            text = SRT.format(name) if kind in (".srt", ".vtt") else f"from {name}"
            (tmp_path / name).write_text(text)
        return tmp_path

    return make


def texts(folder: Path) -> list[str | None]:
    rejects = []
    clips = load_clips(folder, rejects)
    assert rejects == []
    return [clip.text for clip in clips]


@pytest.mark.parametrize(
    "name",
    ["a.srt", "a.SRT", "A.SRT", "a.Vtt", "a.en.vtt", "a.en-US.srt", "a.mp4.srt", "a.txt", "a.TXT"],
)
def test_what_lies_beside_a_video_is_found_by_its_name(put, name):
    assert texts(put("a.mp4", name)) == [f"from {name}"]
    assert texts(put("a.mp4") / "a.mp4") == [f"from {name}"]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("a.srt", "a.txt"),
        ("a.vtt", "a.txt"),
        ("a.de.srt", "a.txt"),
        ("a.srt", "a.vtt"),
        ("a.srt", "a.en.srt"),
        ("a.vtt", "a.en.srt"),
        ("a.en.vtt", "a.de.vtt"),
        ("a.de-orig.vtt", "a.en.vtt"),
        ("a.de.srt", "a.fr.srt"),
        ("a.en.srt", "a.en.sdh.srt"),
        ("a.en.sdh.srt", "a.de.srt"),
        ("a.de.srt", "a.en.forced.srt"),
        ("a.srt", "A.srt"),
    ],
)
def test_of_two_the_better_is_used_and_the_other_named(put, caplog, better, worse):
    assert texts(put("a.mp4", better, worse)) == [f"from {better}"]
    assert f"1 files are not used, as a better one lies beside the same video: {worse} " in (
        caplog.text
    )
    assert f"({better} is used)" in caplog.text and "subtitles before text" in caplog.text


def test_subtitles_without_a_usable_line_leave_it_to_the_text(put, caplog):
    folder = put("a.mp4", "a.txt")
    (folder / "a.srt").write_text("1\n00:00:01,000 --> 00:00:01,100\nno\n")
    assert texts(folder) == ["from a.txt"]
    (folder / "a.srt").write_text("nothing\n")
    assert texts(folder) == ["from a.txt"]
    assert "a.srt (a.txt is used)" in caplog.text


def test_a_text_that_may_not_be_read_costs_its_video_only(put, monkeypatch):
    folder = put("a.mp4", "a.txt", "b.mp4", "b.txt")
    real = Path.read_bytes

    def read_bytes(path):
        if path.name == "a.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    rejects = []
    assert [clip.text for clip in load_clips(folder, rejects)] == ["from b.txt"]
    assert [(reject.clip, reject.reason) for reject in rejects] == [("a.mp4", "unreadable_text")]


def test_subtitles_of_one_of_two_files_of_a_name(put):
    assert texts(put("a.mkv", "a.mp4", "a.mp4.srt")) == [None, "from a.mp4.srt"]
    assert texts(put("a.srt")) == ["from a.srt", "from a.mp4.srt"]


def test_names_that_hold_dots_and_texts_about_a_video(put, caplog):
    folder = put("Mr. B.mp4", "Mr. B.en.srt", "Mr. B.notes.txt", "Mr.mp4", "c.srt")
    assert texts(folder) == ["from Mr. B.en.srt", None]
    assert "2 files under" in caplog.text and "1 .txt, 1 .srt; e.g. Mr. B.notes.txt, c.srt" in (
        caplog.text
    )


def test_media_of_every_ending_is_a_clip_and_the_rest_is_counted(put, caplog):
    endings = "asf 3g2 f4v m2v qt MOD TOD divx m1v mpe mxf ogm y4m mp4v dv rmvb".split()
    folder = put(*(f"{n}.{ending}" for n, ending in enumerate(endings)), "x.jpg", "y.JPG", "z")
    clips = load_clips(folder, [])
    assert {Path(clip.video).suffix[1:] for clip in clips} == set(endings)
    assert "3 files under" in caplog.text and "2 .jpg, 1 without an ending" in caplog.text


def test_sound_files_are_clips_where_there_is_no_video(put, caplog):
    folder = put("a.wav", "b.opus", "b.txt")
    assert texts(folder) == [None, "from b.txt"]
    assert texts(folder / "b.opus") == ["from b.txt"]
    put("b.mp4")
    assert texts(folder) == ["from b.txt"]
    assert "2 files under" in caplog.text and "1 .wav, 1 .opus" in caplog.text


def test_a_folder_of_neither_says_what_it_holds(put, caplog):
    with pytest.raises(ClipTableError, match="no videos under"):
        load_clips(put("a.jpg", "b.csv"), [])
    assert "1 .jpg, 1 .csv" in caplog.text


@pytest.mark.parametrize("name", [" lead.mp4", "end .mp4", " .mp4"])
def test_spaces_belong_to_the_name_of_a_file(put, name):
    folder = put(name)
    [clip] = load_clips(folder, [])
    assert clip.video == str(folder / name)
    (folder / "clips.csv").write_text(f"video,text\n{name},hi\n b.mp4 ,ho\n")
    assert [clip.video for clip in load_clips(folder, [])] == [
        str(folder / name),
        str(folder / "b.mp4"),
    ]


def test_a_name_that_is_not_utf8_is_told_as_such(put):
    folder = put("a.mp4")
    odd = b"caf\xe9.mp4"
    Path(os.fsdecode(os.fsencode(folder) + b"/" + odd)).touch()
    rejects = []
    clips = load_clips(folder, rejects)
    assert [Path(clip.video).name for clip in clips] == ["a.mp4"]
    [reject] = rejects
    assert reject.reason == "name_not_utf8" and reject.clip == r"caf\udce9.mp4"
    assert r"the name of the file is not UTF-8: b'caf\xe9.mp4'; rename it" in reject.detail
    (folder / "clips.csv").write_bytes(b"video\n" + odd + b"\ngone\xe9.mp4\n")
    rejects = []
    assert load_clips(folder, rejects) == []
    assert [reject.reason for reject in rejects] == ["name_not_utf8", "not_utf8"]


def test_a_text_in_another_encoding_is_read_and_named(put, caplog):
    folder = put("a.mp4", "b.mp4")
    (folder / "a.txt").write_bytes("Café für zwei".encode("cp1252"))
    (folder / "b.txt").write_bytes("hello there".encode("utf-16"))
    assert texts(folder) == ["Café für zwei", "hello there"]
    assert "1 files are not UTF-8 and were read as Windows-1252: a.txt" in caplog.text


def test_real_folders_of_odd_names(shared_data):
    odd = shared_data / "odd_media"
    clips = load_clips(odd / "names", [])
    assert [Path(c.video).name for c in clips] == [" lead.mp4", "ok.mp4", "phone.3g2", "rec.asf"]
    assert all(os.path.exists(clip.video) for clip in clips)
    assert texts(odd / "twofiles") == ["hello there"]
    first = ["hello there"] * 2
    assert texts(odd / "subtitles") == [
        *first,
        "my fellow americans tonight",
        "i want to speak",
        "with you about it",
    ]
