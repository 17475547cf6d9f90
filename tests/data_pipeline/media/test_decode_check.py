"""The decoder against a plain reading, on videos of many kinds made on the spot."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from toy_videos import make, number_of, read

from data_pipeline.media import decode_check, frames
from data_pipeline.media.container import MediaError
from data_pipeline.media.decode_check import check_file, main
from data_pipeline.media.demux import scan
from data_pipeline.media.entry import Entries
from data_pipeline.media.frames import decode_video
from data_pipeline.media.mpeg_clock import MpegClock

OPEN = "open-gop=1:keyint=20:min-keyint=20:scenecut=0:bframes=3"
REFRESH = "intra-refresh=1:keyint=25:bframes=0"
X265 = "log-level=none:pools=none:frame-threads=1"
B = {"bf": "2", "g": "12"}

KINDS = {
    "closed.mp4": {"video_options": {"g": "25"}},
    "open.mp4": {"video_options": {"x264-params": OPEN}},
    "open.mkv": {"video_options": {"x264-params": OPEN + ":b-pyramid=normal"}},
    "open.ts": {"video_options": {"x264-params": OPEN}},
    "refresh.mp4": {"video_options": {"x264-params": REFRESH}},
    "refresh.ts": {"video_options": {"x264-params": REFRESH}},
    "hevc.mp4": {"video": "libx265", "video_options": {"x265-params": f"{OPEN}:{X265}"}},
    "hevc.ts": {"video": "libx265", "video_options": {"x265-params": f"{OPEN}:{X265}"}},
    "asp.mp4": {"video": "mpeg4", "video_options": B},
    "asp.mkv": {"video": "mpeg4", "video_options": B},
    "asp.avi": {"video": "mpeg4", "video_options": B, "audio": "mp3"},
    "mpeg2.ts": {"video": "mpeg2video", "video_options": B, "audio": "mp2"},
    "mpeg2.mpg": {"video": "mpeg2video", "video_options": B, "audio": "mp2"},
    "wmv2.wmv": {"video": "wmv2", "video_options": {"g": "12"}, "audio": "wmav2"},
    "vp9.webm": {"video": "libvpx-vp9", "audio": "libopus", "audio_rate": 48000},
    "pieces.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "turned.mov": {"rotation": 90},
    "flash.flv": {"video": "flv1", "video_options": {"g": "12"}, "audio": "mp3"},
    "uneven.mp4": {
        "times": [k / 25 + 0.011 * (k % 3) for k in range(150)],
        "video_options": {"g": "20"},
    },
}


@pytest.mark.parametrize("name", KINDS)
def test_every_picture_is_that_of_a_plain_reading(tmp_path, monkeypatch, name):
    monkeypatch.setattr(
        "data_pipeline.media.container._SEEK_SECONDS", 0.3
    )  # so that short files are sought in
    path = make(tmp_path / name, **{"seconds": 6.0, **KINDS[name]})
    row = check_file(path, name, num_starts=20)
    assert (row.starts, row.pictures_differ, row.times_differ) == (20, 0, 0), row
    assert row.compared > 450


@pytest.mark.slow
def test_every_picture_of_the_odd_files_is_that_of_a_plain_reading(shared_data, tmp_path):
    assert main([str(shared_data / "odd_media"), "--output", str(tmp_path / "out" / "table")]) == 0
    table = (tmp_path / "out" / "table.csv").read_text().splitlines()
    assert table[0].startswith("file,container,codec,frames") and len(table) > 15
    assert "0 pictures and 0 times differ" in (tmp_path / "out" / "table.md").read_text()


def test_a_picture_of_another_time_is_found_out(tmp_path, monkeypatch, capsys):
    path = make(tmp_path / "a.mp4")
    late = []

    def delayed(*args):
        for seconds, frame in decode_video(*args):
            late.append(frame)
            yield seconds, late[-min(2, len(late))]

    monkeypatch.setattr("data_pipeline.media.clip_media.decode_video", delayed)
    assert main([str(tmp_path), "--starts", "2"]) == 1
    row = check_file(path, "a", num_starts=2)
    assert row.pictures_differ > 20 and row.times_differ == 0
    assert "50 pictures and 0 times differ" not in capsys.readouterr().out


def test_an_intra_refresh_has_no_entry_but_its_first_picture(tmp_path):
    def entries(path):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            is_entry = Entries(stream)
            packets = [p for p in container.demux(stream) if p.size]
            return [k for k, p in enumerate(packets) if is_entry(p)], [
                k for k, p in enumerate(packets) if p.is_keyframe
            ]

    for name in ("refresh.mp4", "refresh.ts"):
        sure, said = entries(make(tmp_path / name, seconds=3.0, **KINDS[name]))
        assert sure == [0]
    assert len(said) > 1  # MPEG-TS says more than is true
    for name in ("open.mp4", "open.ts", "hevc.mp4", "hevc.ts"):
        sure, said = entries(make(tmp_path / name, seconds=3.0, **KINDS[name]))
        assert sure == said and len(sure) > 2


def test_a_file_that_calls_every_picture_a_key_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipeline.media.container._SEEK_SECONDS", 0.3)
    options = {"bf": "2", "g": "40"}
    path = make(tmp_path / "a.mp4", seconds=6.0, video="mpeg4", video_options=options)
    data = bytearray(path.read_bytes())
    at = data.index(b"stss")
    data[at : at + 4] = b"free"  # without the table of key pictures all are
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert all(p.is_keyframe for p in container.demux(video=0) if p.size)
    row = check_file(path, "a.mp4", num_starts=20)
    assert (row.pictures_differ, row.times_differ) == (0, 0), row


@pytest.fixture
def decoded(monkeypatch):
    """The timestamps of all frames that are decoded, also those that nobody is given."""
    decoded = []
    whole = frames._Pass._whole

    def counted(self, packets):
        for frame in whole(self, packets):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(frames._Pass, "_whole", counted)
    return decoded


@pytest.mark.parametrize("name", ["open.ts", "mpeg2.ts", "mpeg2.mpg", "open.mkv", "asp.avi"])
def test_a_clip_late_in_a_long_file_is_not_decoded_from_the_beginning(tmp_path, decoded, name):
    path = make(tmp_path / name, seconds=24.0, size=(96, 64), **KINDS[name])
    found = scan(path, 20.0, 21.0, 100.0)
    assert len(list(decode_video(path, found))) == 25
    assert len(decoded) < 150  # of 500


@pytest.mark.parametrize("name", ["refresh.mp4", "refresh.ts"])
def test_a_file_that_cannot_be_sought_is_decoded_once_for_clips_in_order(
    tmp_path, monkeypatch, decoded, name
):
    monkeypatch.setattr("data_pipeline.media.container._SEEK_SECONDS", 0.3)
    path = make(tmp_path / name, seconds=8.0, **KINDS[name])
    starts = (2.0, 3.0, 4.5, 6.0, 2.0)  # the last one goes back
    for start in starts:
        _, pictures, seconds = read(path, start=start, end=start + 1.0)
        first = round(25 * start) - (0 if name == "refresh.mp4" else 1)
        assert len(pictures) == 25 and abs(number_of(pictures[0]) - first) <= 1
        assert seconds[0] < 0.04
    assert len(decoded) < 7.2 * 25 + 3.2 * 25
    with pytest.raises(MediaError):  # another file by the same name
        path.write_bytes(b"")
        read(path, start=4.0, end=5.0)


def test_the_index_of_an_mpeg_file_is_made_once_for_its_clips(tmp_path, monkeypatch):
    path = make(tmp_path / "a.ts", seconds=8.0)
    made = []
    build = MpegClock.__init__

    def counted(self, name):
        made.append(name)
        build(self, name)

    monkeypatch.setattr(MpegClock, "__init__", counted)
    for start in (1.0, 3.0, 6.0):
        assert len(read(path, start=start, end=start + 1.0)[1]) == 25
    assert made == [str(path)]
    make(path, seconds=4.0)  # another file under the same name
    read(path)
    assert len(made) == 2


def test_a_folder_without_videos_and_a_path_there_is_not(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("words")
    for path, what in ((tmp_path, "no video in"), (tmp_path / "x", "no file or folder")):
        with pytest.raises(SystemExit):
            main([str(path)])
        assert what in capsys.readouterr().err


def test_files_that_cannot_be_decoded_are_rows_with_a_reason(shared_data):
    picture = shared_data / "odd_media" / "face.jpg"
    row = check_file(picture, "face.jpg")
    assert row.starts == 0 and row.note.startswith("unreadable_video")


def interlaced(path: Path, codec: str, options: dict) -> Path:
    """A bar that moves four pixels a field, the upper field first."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 192, 96, "yuv420p"
        if codec != "libx264":
            stream.codec_context.flags |= 1 << 18 | 1 << 29  # interlaced DCT and motion
        for number in range(30):
            picture = np.full((96, 192, 3), 40, np.uint8)
            for field in (0, 1):
                left = 8 * number % 150 + 4 * field
                picture[field::2, left : left + 24] = 220
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return path


def combing(picture: np.ndarray) -> float:
    """Neighbouring lines that differ more than lines two apart."""
    grey = picture.mean(axis=-1)
    one, two = np.abs(np.diff(grey, axis=0))[:-1], np.abs(grey[2:] - grey[:-2])
    return float(one.mean() - two.mean())


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mkv", "libx264", {"x264-params": "tff=1:keyint=10"}),
        ("a.ts", "mpeg2video", {"g": "10", "b": "2000000"}),
    ],
)
def test_interlaced_video_is_made_whole(tmp_path, monkeypatch, name, codec, options):
    monkeypatch.setattr("data_pipeline.media.container._SEEK_SECONDS", 0.2)
    path = interlaced(tmp_path / name, codec, options)
    with av.open(str(path)) as container:
        stored = [f for f in container.decode(video=0)]
    assert stored[3].interlaced_frame
    assert combing(stored[3].to_ndarray(format="rgb24")) > 2.0
    media, pictures, _ = read(path)
    assert len(pictures) == 30 and max(map(combing, pictures)) < 0.5
    row = check_file(path, name, num_starts=20)
    assert (row.pictures_differ, row.times_differ) == (0, 0)
    assert read(path, "decord")[0].decoder.startswith("pyav: the video is interlaced")


def test_what_is_not_interlaced_goes_through_untouched(tmp_path):
    path = make(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        stored = list(container.decode(video=0))
    graph = frames._Weave(stored[0])
    out = [frame for f in stored for _, frame in graph.push(0.0, f)]
    out += [frame for _, frame in graph.finish()]
    assert len(out) == len(stored) and all(a is b for a, b in zip(out, stored, strict=True))
    for a, (_, b) in zip(stored, decode_video(path, scan(path, 0.0, None, 10.0)), strict=True):
        assert (a.to_ndarray() == b.to_ndarray()).all()


def test_decord_by_itself_is_told_apart(tmp_path):
    """The check sees what was wrong: decord's seek in MPEG-4 with B-frames."""
    if decode_check._try_decord(Path("none"), None, [(0.0, 1.0)])[1] is None:
        pytest.importorskip("decord")
    path = make(tmp_path / "asp.mp4", seconds=6.0, **KINDS["asp.mp4"])
    row = check_file(path, "asp.mp4", num_starts=20)
    assert row.decord_differ > 20
