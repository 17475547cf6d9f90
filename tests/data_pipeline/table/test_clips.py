import csv
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from data_pipeline.extraction.added_streams import read_clips
from data_pipeline.runs.claim import table_bytes
from data_pipeline.runs.tasks import cut_tasks
from data_pipeline.schema import Clip, check_id, clip_id, region_box
from data_pipeline.table.clips import (
    ClipTableError,
    clips_from_folder,
    load_clips,
    read_clip_table,
)


def read(path: Path):
    rejects = []
    return read_clip_table(path, rejects.append), rejects


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_every_column_reaches_the_clip(tmp_path):
    table = write(
        tmp_path / "t.csv",
        "video,start,end,text,speaker,recording,label,corpus\n"
        'a/x.mp4,1.5,3,"  Hello,\n there ",anna,dialog 1,sad,film\n',
    )
    [clip], rejects = read(table)
    assert rejects == []
    assert clip.video == str(tmp_path / "a/x.mp4")
    assert (clip.start, clip.end, clip.text) == (1.5, 3.0, "Hello, there")
    assert (clip.speaker, clip.recording, clip.label, clip.corpus) == (
        "anna",
        "dialog 1",
        "sad",
        "film",
    )
    check_id(clip.id)
    assert clip.id.endswith("-001500") and "x" in clip.id


def test_two_people_of_one_picture_are_two_clips(tmp_path):
    table = "video,start,region\na.mp4,1,left\na.mp4,1, Right \na.mp4,1,0.5  0 1 0.75\na.mp4,1,\n"
    clips, rejects = read(write(tmp_path / "t.csv", table))
    assert rejects == [] and len({clip.id for clip in clips}) == 4
    assert [clip.region for clip in clips] == ["left", "right", "0.5 0 1 0.75", None]
    assert region_box(clips[2].region) == (0.5, 0.0, 1.0, 0.75)
    assert clips[3].id == clip_id(tmp_path.name, "a", 1.0), "as without the column"


@pytest.mark.parametrize(
    "region", ["middle", "0 0 1", "0 0 1 1 1", "0.5 0 0.5 1", "0 0 2 1", "-0.1 0 1 1", "0 0 nan 1"]
)
def test_a_region_that_is_none_costs_its_row_alone(tmp_path, region):
    rows = f"video,region\na.mp4,{region}\nb.mp4,left\n"
    [clip], [reject] = read(write(tmp_path / "t.csv", rows))
    assert clip.video.endswith("b.mp4") and reject.reason == "bad_region"
    assert f"region is {region!r}; expected left, right or `x0 y0 x1 y1`" in reject.detail


def test_a_clip_without_a_region_is_written_as_before_there_were_regions(tmp_path):
    """So that the digests and tables of extractions that were made then still fit."""
    old = "id video start end text speaker recording label corpus".split()
    whole, half = Clip(id="a", video="a.mp4"), Clip(id="b", video="a.mp4", region="left")
    assert list(whole.to_dict()) == old and list(half.to_dict()) == [*old, "region"]
    assert table_bytes([whole]).split(b"\n")[0].decode().split(",") == old
    assert table_bytes([whole, half]).split(b"\n")[0].decode().split(",") == [*old, "region"]
    (tmp_path / "clips.csv").write_bytes(table_bytes([whole, half]))
    assert list(read_clips(tmp_path).values()) == [whole, half]
    one, other = (
        cut_tasks([clip], 1, {})[0].digest for clip in (half, replace(half, region="right"))
    )
    assert one != other


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_delimiters_and_byte_order_marks(tmp_path, delimiter, bom):
    text = delimiter.join(["Video ", "text"]) + "\r\n" + delimiter.join(["a.mp4", "hi"]) + "\r\n"
    [clip], _ = read(write(tmp_path / "t.csv", bom + text.encode()))
    assert clip.text == "hi"


def test_only_video_is_required_and_the_rest_has_defaults(tmp_path):
    folder = tmp_path / "My films"
    folder.mkdir()
    clips, _ = read(write(folder / "t.csv", "video\nsub/a.mp4\nb.mp4\n"))
    assert [c.recording for c in clips] == ["sub/a", "b"]
    assert [c.corpus for c in clips] == ["My_films"] * 2
    assert clips[0].text is None and clips[0].label is None and clips[0].end is None
    assert clips[1].id == "My_films-b-000000"


def test_files_of_one_recording_get_ids_of_their_own(tmp_path):
    clips, rejects = read(
        write(tmp_path / "t.csv", "video,recording,corpus\na.mp4,s1,grid\nb.mp4,s1,grid\n")
    )
    assert [c.id for c in clips] == ["grid-s1-a-000000", "grid-s1-b-000000"]
    assert rejects == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.mp4,x,,,", "bad_number"),
        ("a.mp4,nan,,,", "bad_number"),
        ("a.mp4,,00:01,,", "bad_number"),
        ("a.mp4,1e307,,,", "bad_number"),
        ("a.mp4,0,1e14,,", "bad_number"),
        ("a.mp4,1500000,1503000,,", "bad_number"),
        ("a.mp4,-1,,,", "negative_start"),
        ("a.mp4,2,2,,", "empty_span"),
        ("a.mp4,2,1,,", "empty_span"),
        (",1,2,hello,", "no_video_named"),
        ("/,1,2,hello,", "no_video_named"),
        ("a.mp4,,,,../../etc/passwd", "unsafe_id"),
        ("a.mp4,,,,a.b", "unsafe_id"),
        ("a.mp4,,,,ok,more", "extra_cells"),
        ('a.mp4,,,"he said "no",",', "malformed_row"),
        ("a.mp4,,,zero\0byte,", "zero_byte"),
    ],
)
def test_a_bad_row_is_one_reject_and_the_next_goes_on(tmp_path, row, reason):
    table = write(tmp_path / "t.csv", f"video,start,end,text,id\n{row}\nb.mp4,,,fine,\n")
    clips, rejects = read(table)
    assert [c.text for c in clips] == ["fine"]
    assert [(r.clip, r.stage, r.reason) for r in rejects] == [("t.csv:2", "table", reason)]
    assert rejects[0].detail


def test_a_quote_that_swallows_lines_is_named_with_all_of_them(tmp_path):
    rows = 'a.mp4,"he said\nb.mp4,two\nc.mp4,three\nd.mp4,"no" more\ne.mp4,fine\n'
    clips, [reject] = read(write(tmp_path / "t.csv", "video,text\n" + rows))
    assert [c.text for c in clips] == ["fine"] and reject.reason == "malformed_row"
    assert "lines 2 to 5 were read as one row; a quotation mark opens in line 2" in reject.detail


def test_milliseconds_are_suspected(tmp_path):
    _, [reject] = read(write(tmp_path / "t.csv", "video,start\na.mp4,1500000\n"))
    assert "start is 1500000; expected seconds; is it milliseconds?" in reject.detail


def test_bytes_that_are_not_utf8_spoil_their_row_only(tmp_path):
    table = write(tmp_path / "t.csv", b"video,text\na.mp4,caf\xe9\nb.mp4,caf\xc3\xa9\n")
    clips, rejects = read(table)
    assert [c.text for c in clips] == ["café"]
    assert [(r.clip, r.reason) for r in rejects] == [("t.csv:2", "not_utf8")]
    assert r"caf\xe9" in rejects[0].detail


def test_two_rows_with_one_id_are_one_clip_and_one_reject(tmp_path):
    table = write(tmp_path / "t.csv", "video,id\na.mp4,x\nb.mp4,y\nc.mp4,x\n")
    clips, rejects = read(table)
    assert [c.id for c in clips] == ["x", "y"]
    [reject] = rejects
    assert reject.reason == "duplicate_id"
    assert "t.csv:4" in reject.detail and "t.csv:2" in reject.detail


def test_the_same_span_twice_is_a_duplicate_too(tmp_path):
    clips, rejects = read(write(tmp_path / "t.csv", "video,start\na.mp4,1\na.mp4,1\na.mp4,2\n"))
    assert len(clips) == 2 and [r.reason for r in rejects] == ["duplicate_id"]


def test_a_name_never_leaves_the_output_folder(tmp_path):
    table = write(
        tmp_path / "t.csv", "video,recording,corpus\n../../x.mp4,,../evil\na.mp4,../../etc,c\n"
    )
    clips, rejects = read(table)
    assert rejects == []
    above, named = clips
    assert re.fullmatch(r"evil-.*_x-[0-9a-f]{8}-000000", above.id)
    assert re.fullmatch(r"c-etc-a-[0-9a-f]{8}-000000", named.id)
    for clip in clips:
        check_id(clip.id)


def test_a_missing_video_column_names_what_is_there_and_what_is_near(tmp_path):
    table = write(tmp_path / "t.csv", "vidoe,text\na.mp4,hi\n")
    with pytest.raises(
        ClipTableError, match=r"no column `video`, .*; found vidoe, text; is 'vidoe'"
    ):
        read(table)


def test_an_unknown_column_is_carried_along_with_a_notice(tmp_path, caplog):
    table = write(tmp_path / "t.csv", "video,lable,Colour,\na.mp4,sad,red,x\nb.mp4,,,\n")
    with caplog.at_level(logging.INFO):
        [clip, without], _ = read(table)
    assert clip.label is None
    assert clip.columns == (("lable", "sad"), ("colour", "red"))
    assert without.columns == () and "columns" not in without.to_dict()
    assert Clip.from_dict(clip.to_dict()) == clip
    assert "'lable' is carried along; is 'label' meant?" in caplog.text
    assert "'colour' is carried along" in caplog.text


def test_a_further_column_that_is_no_text_costs_no_row(tmp_path):
    table = tmp_path / "t.csv"
    table.write_bytes(b"video,note\na.mp4,caf\xe9\nb.mp4,a\0b\n")
    clips, rejects = read(table)
    assert [dict(clip.columns)["note"] for clip in clips] == ["caf\ufffd", "a\ufffdb"]
    assert not rejects


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"video,text\n", "no row"),
        (b"video,text\n,\n\n", "no row"),
        (b"video,text,text\na,b,c\n", "more than one column text"),
        (b'video,text\na.mp4,"open\nb.mp4,x\n', "quotation mark"),
        ("video\na.mp4\n".encode("utf-16"), "UTF-16"),
        (bytes(range(256)), "no column `video`"),
    ],
)
def test_a_bad_table_is_an_error_that_says_why(tmp_path, content, message):
    with pytest.raises(ClipTableError, match=message):
        read(write(tmp_path / "t.csv", content))


def test_no_table_at_all(tmp_path):
    with pytest.raises(ClipTableError, match="no clip table"):
        load_clips(tmp_path / "nothing.csv", [])


def test_parquet_gives_the_same_clips_as_csv(tmp_path):
    frame = pd.DataFrame(
        {
            "video": ["a.mp4", "b.mp4", "c.mp4"],
            "start": [0.25, None, 1.0],
            "end": [1.0, None, 0.5],
            "text": ["hi  there", None, "x"],
            "extra": [1, 2, 3],
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    frame.to_csv(tmp_path / "t.csv", index=False)
    from_parquet, rejects = read(tmp_path / "t.parquet")
    from_csv, _ = read(tmp_path / "t.csv")
    assert from_parquet == from_csv
    assert len(from_csv) == 2 and [r.reason for r in rejects] == ["empty_span"]
    assert rejects[0].clip == "t.parquet:3"


def test_parquet_with_bytes_that_are_not_utf8(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.Array.from_buffers(
        pa.string(),
        2,
        pa.array([b"caf\xe9", b"fine"]).buffers(),
    )
    pq.write_table(pa.table({"video": ["a.mp4", "b.mp4"], "text": text}), tmp_path / "t.parquet")
    clips, rejects = read(tmp_path / "t.parquet")
    assert [c.text for c in clips] == ["fine"]
    assert [r.reason for r in rejects] == ["not_utf8"]


def test_what_is_no_parquet(tmp_path):
    with pytest.raises(ClipTableError, match="no Parquet file"):
        read(write(tmp_path / "t.parquet", b"video\na.mp4\n"))


def test_rows_are_clips_plus_rejects(tmp_path):
    rows = [["a.mp4", "0"], ["a.mp4", "0"], ["", "1"], ["b.mp4", "x"], ["c.mp4", ""]]
    (tmp_path / "film").mkdir()
    with open(tmp_path / "film/t.csv", "w", newline="") as file:
        csv.writer(file).writerows([["video", "start"], *rows])
    clips, rejects = read(tmp_path / "film/t.csv")
    assert [c.id for c in clips] == ["film-a-000000", "film-c-000000"]
    assert [(r.clip, r.reason) for r in rejects] == [
        ("t.csv:3", "duplicate_id"),
        ("t.csv:4", "no_video_named"),
        ("t.csv:5", "bad_number"),
    ]


@pytest.mark.parametrize(("line", "delimiter"), [("sep=;", ";"), ('"sep=;"', ";"), ("sep=|", "|")])
def test_the_delimiter_line_of_a_spreadsheet_is_no_header(tmp_path, line, delimiter):
    rows = [["video", "start"], ["a.mp4", "0,5"], ["b.mp4", "1"]]
    text = "\r\n".join([line, *map(delimiter.join, rows)])
    clips, [reject] = read(write(tmp_path / "t.csv", text))
    assert [c.start for c in clips] == [1.0]
    assert (reject.clip, reject.reason) == ("t.csv:3", "bad_number")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.xlsx",
            b"PK\x03\x04rest",
            r"t\.xlsx is a workbook .*; expected CSV.*save it as CSV UTF-8",
        ),
        ("t.csv", b"PK\x03\x04rest", "is a workbook"),
        ("t.xls", b"\xd0\xcf\x11\xe0rest", "is an old Excel workbook"),
        (
            "t.jsonl",
            b'{"video": "a.mp4"}\n',
            r"is JSON Lines.*read_json\(.*t\.jsonl', lines=True\)",
        ),
        ("t.json", b' [{"video": "a.mp4"}]', r"is JSON;.*read_json\(.*t\.json'\)\.to_csv"),
        ("t.csv.gz", b"\x1f\x8brest", "compressed by gzip"),
    ],
)
def test_tables_of_another_kind_are_named_with_the_way_out(tmp_path, name, content, message):
    with pytest.raises(ClipTableError, match=message):
        read(write(tmp_path / name, content))


def test_the_way_out_of_json_lines_works(tmp_path):
    rows = [{"video": "a.mp4", "text": 'he said "no", twice'}, {"video": "b.mp4", "start": 1.5}]
    table = write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(ClipTableError) as error:
        read(table)
    command = str(error.value).partition("python -c ")[2]
    subprocess.run([sys.executable, "-c", shlex.split(command)[0]], check=True)
    clips, _ = read(tmp_path / "t.csv")
    assert [(c.text, c.start) for c in clips] == [('he said "no", twice', 0.0), (None, 1.5)]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.MP4", "sub/a.mkv", "c.mov", "._b.mp4", "notes.doc", "d.avi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    write(tmp_path / "b.txt", "hello\n there ")
    write(tmp_path / "c.txt", "Привет".encode("cp1251"))
    return tmp_path


def test_a_folder_is_a_table(folder):
    rejects = []
    clips = clips_from_folder(folder, rejects.append)
    assert [Path(c.video).name for c in clips] == ["b.MP4", "d.avi", "a.mkv"]
    assert [c.recording for c in clips] == ["b", "d", "sub/a"]
    assert [c.text for c in clips] == ["hello there", None, None]
    assert [(r.clip, r.reason) for r in rejects] == [("c.mov", "not_utf8")]


def test_two_files_of_one_name_are_two_clips(folder):
    rejects = []
    before = {c.id for c in clips_from_folder(folder, rejects.append)}
    (folder / "sub/a.mp4").touch()
    clips = clips_from_folder(folder, rejects.append)
    assert {r.reason for r in rejects} == {"not_utf8"}
    names = [Path(c.video).name for c in clips]
    assert names == ["b.MP4", "d.avi", "a.mkv", "a.mp4"]
    assert {c.id for c in clips[:2]} < before  # the others keep theirs
    for clip in clips[2:]:
        check_id(clip.id)
        assert clip.recording == "sub/a" and Path(clip.video).suffix[1:] in clip.id


def test_folders_that_are_not_entered_are_named(folder, caplog, monkeypatch):
    (folder / "link").symlink_to(folder / "sub")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    rejects = []
    clips = clips_from_folder(folder, rejects.append)
    assert [Path(c.video).name for c in clips] == ["b.MP4", "d.avi"]
    assert ("sub", "unreadable_folder") in [(r.clip, r.reason) for r in rejects]
    assert f"{folder / 'link'} is a link to a folder, which is not followed" in caplog.text
    with pytest.raises(ClipTableError, match="cannot read the folder .*sub: Permission denied"):
        clips_from_folder(folder / "sub", rejects.append)


def test_subtitles_beside_a_video_cut_it_into_lines(folder):
    write(
        folder / "d.srt",
        "1\n00:00:01,000 --> 00:00:02,500\nHi\nyou.\n\n2\n00:00:03,000 --> 00:00:03,400\nNo\n",
    )
    rejects = []
    clips = [c for c in clips_from_folder(folder, rejects.append) if c.recording == "d"]
    assert [(c.start, c.end, c.text) for c in clips] == [(1.0, 2.5, "Hi you.")]
    assert ("d.srt:7", "short_line") in [(r.clip, r.reason) for r in rejects]


def test_subtitles_without_a_line_are_a_reject(folder):
    write(folder / "d.srt", "nothing here\n")
    rejects = []
    clips_from_folder(folder, rejects.append)
    assert ("d.avi", "no_lines") in [(r.clip, r.reason) for r in rejects]


def test_a_table_in_the_folder_is_used(folder):
    write(folder / "clips.csv", "video,label\nb.MP4,sad\n")
    [clip] = load_clips(folder, [])
    assert clip.label == "sad"


def test_one_video_is_a_clip(folder):
    [clip] = load_clips(folder / "b.MP4", [])
    assert clip.text == "hello there" and clip.recording == "b"


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(ClipTableError, match=r"no videos under .*\.mp4.*clips\.csv"):
        load_clips(tmp_path, [])


def test_parquet_carries_numbers_as_text_and_leaves_bytes_and_lists(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "video": ["a.mp4", "b.mp4"],
        "valence": [2.5, None],
        "image": [b"\x89PNG", b""],
        "votes": [[1, 2], []],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    clips, rejects = read(tmp_path / "t.parquet")
    assert [clip.columns for clip in clips] == [(("valence", "2.5"),), ()]
    assert not rejects
