"""Videos are made on the spot. Each frame carries its number as 10 black or white squares, so a
test can read which frame it was given; the sound is a tone that begins at a known time."""

import re
import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from toy_videos import RATE, make, number_of, picture, read, tone_start

from data_pipeline.media import clip_media as media_module
from data_pipeline.media.clip_media import MediaError, open_clip
from data_pipeline.media.decord_frames import open_decord
from data_pipeline.media.plain_reader import digest, read_plainly
from data_pipeline.schema import Clip, region_box

CONTAINERS = {
    "h264.mp4": {},
    "h265.mp4": {"video": "libx265", "video_options": {"x265-params": "log-level=none"}},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "av1.mp4": {"video": "libsvtav1", "video_options": {"svtav1-params": "lp=1"}},
    "prores.mov": {"video": "prores_ks", "pix_fmt": "yuv422p10le", "audio": "pcm_s16le"},
    "vp9.webm": {"video": "libvpx-vp9", "audio": "libopus", "audio_rate": 48000},
    "vp8.webm": {"video": "libvpx", "audio": "libopus", "audio_rate": 48000},
    "odd444.mkv": {"size": (163, 97), "pix_fmt": "yuv444p", "audio": "ac3", "layout": "5.1"},
    "ffv1.mkv": {"video": "ffv1", "audio": "flac"},
    "mpeg4.avi": {"video": "mpeg4", "audio": "mp3"},
    "flash.flv": {"video": "flv1", "audio": "mp3"},
    "mpeg1.mpg": {"video": "mpeg1video", "audio": "mp2"},
    "h264.ts": {},
    "mpeg2.ts": {"video": "mpeg2video", "audio": "mp2"},
    "wmv.wmv": {"video": "wmv2", "audio": "wmav2"},
}


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize("region", [None, "left", "right", "0.1 0.233 0.55 0.767", "1e-9 0 2e-9 1"])
def test_a_region_is_cut_out_of_the_upright_picture(tmp_path, decoder, rotation, region):
    path = make(tmp_path / "a.mp4", rotation=rotation, size=(162, 98), seconds=0.4)
    whole, frames, seconds = read(path, decoder)
    media, part, times = read(path, decoder, region=region)
    assert media.decoder.startswith(decoder) and np.array_equal(times, seconds)
    width, height = (98, 162) if rotation else (162, 98)
    assert frames.shape[1:] == (height, width, 3)
    columns, rows = {
        None: ((0, width), (0, height)),
        "left": ((0, width // 2), (0, height)),
        "right": ((width // 2, width), (0, height)),
        "0.1 0.233 0.55 0.767": ((10, 54), (38, 124)) if rotation else ((16, 89), (23, 75)),
        "1e-9 0 2e-9 1": ((0, 1), (0, height)),
    }[region]
    assert np.array_equal(part, frames[:, slice(*rows), slice(*columns)])
    assert (media.width, media.height) == (part.shape[2], part.shape[1])
    if decoder == "pyav" and region != "1e-9 0 2e-9 1":
        box = region_box(region) if region else (0, 0, 1, 1)
        plain = read_plainly(path, width, height, box)
        assert plain.digests == [digest(frame) for frame in part]


@pytest.mark.parametrize("name", CONTAINERS)
def test_both_decoders_give_every_frame_at_its_time(tmp_path, name):
    path = make(tmp_path / name, tone_at=1.0, **CONTAINERS[name])
    found = {}
    for decoder in ("decord", "pyav"):
        media, frames, seconds = read(path, decoder)
        assert [number_of(f) for f in frames] == list(range(50)), media.decoder
        # FFmpeg's AVI writer leaves a hole of one frame behind the first.
        assert np.diff(seconds)[1:] == pytest.approx(np.full(48, 0.04), abs=1.1e-3)
        assert frames.shape[1:] == (media.height, media.width, 3)
        # The tone begins at the 25th frame, wherever the container puts its time 0.
        assert tone_start(media.sound_T) == pytest.approx(seconds[25], abs=0.045)
        assert not media.truncated and media.notes == [] and media.cut_seconds is None
        found[decoder] = media, frames, seconds
    (with_decord, a, s), (_, b, t) = found["decord"], found["pyav"]
    assert s == pytest.approx(t, abs=1e-6)
    assert np.abs(a.astype(int) - b).mean() < 1.0
    unfit = name.endswith((".ts", ".mpg")) or name == "av1.mp4"
    assert with_decord.decoder.startswith("pyav: " if unfit else "decord"), with_decord.decoder


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_span_far_into_a_file_gives_its_own_frames_and_sound(tmp_path, name):
    path = make(tmp_path / name, seconds=8.0, tone_at=6.5, **CONTAINERS[name])
    # MPEG streams begin their clock with the first sound packet, a little before the picture.
    _, _, whole = read(path, "pyav", start=0.0, end=1.0)
    first = whole[1] - 0.04
    found = {}
    for decoder in ("decord", "pyav"):
        media, frames, seconds = read(path, decoder, start=6.0 + first, end=7.0 + first)
        assert [number_of(f) for f in frames] == list(range(150, 175)), media.decoder
        assert seconds[0] == pytest.approx(0.0, abs=2e-3)
        assert tone_start(media.sound_T) == pytest.approx(0.5, abs=0.05)
        assert media.duration == pytest.approx(1.0) and len(media.sound_T) == 16_000
        found[decoder] = frames
    assert np.abs(found["decord"].astype(int) - found["pyav"]).mean() < 1.0


@pytest.mark.parametrize("rotation", [90, 180, 270])
@pytest.mark.parametrize("max_height", [720, 48])
def test_a_phone_video_comes_upright(tmp_path, rotation, max_height):
    path = make(tmp_path / "phone.mp4", rotation=rotation, seconds=0.4)
    found = {}
    for decoder in ("decord", "pyav"):
        media, frames, _ = read(path, decoder, max_height=max_height)
        assert media.decoder.startswith(decoder)
        assert frames.shape[1:] == (media.height, media.width, 3)
        found[decoder] = frames
    assert np.abs(found["decord"].astype(int) - found["pyav"]).mean() < 1.5
    upright = np.rot90(picture(0, 160, 96), rotation // 90)
    if max_height == 720:
        assert np.abs(found["pyav"][0].astype(int) - upright).mean() < 8
    else:
        assert found["pyav"].shape[1] == 48


ORIENTATIONS = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [
    (0, b, c, 0) for b in (1, -1) for c in (1, -1)
]


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_the_whole_display_matrix_is_applied(tmp_path, matrix):
    """(x, y) is shown at (a x + c y, b x + d y): mirrors as well as turns."""
    path = make(tmp_path / "front.mp4", seconds=0.4)
    a, b, c, d = (65536 * k for k in matrix)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    assert struct.unpack(">9i", data[at : at + 36]) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    stored = picture(0, 160, 96)
    y, x = np.indices(stored.shape[:2])
    to_x, to_y = matrix[0] * x + matrix[2] * y, matrix[1] * x + matrix[3] * y
    shown = np.empty((96, 160, 3) if matrix[0] else (160, 96, 3), np.uint8)
    shown[to_y - to_y.min(), to_x - to_x.min()] = stored
    for decoder in ("decord", "pyav"):
        media, frames, _ = read(path, decoder)
        assert frames.shape[1:] == shown.shape == (media.height, media.width, 3)
        assert np.abs(frames[0].astype(int) - shown).mean() < 8, media.decoder


def test_a_mirrored_phone_video_comes_mirrored(shared_data):
    mirrored, plain = (
        read(shared_data / "odd_media" / name)[1] for name in ("mirrored.mp4", "plain.mp4")
    )
    assert (mirrored == plain[:, :, ::-1]).all()


def test_an_avi_gives_all_frames_in_even_steps(tmp_path):
    """It stores when to decode a picture; FFmpeg makes up when to show it, back and forth."""
    path = make(tmp_path / "a.avi", video="mpeg4", video_options={"bf": "2", "g": "12"}, audio=None)
    media, frames, seconds = read(path)
    assert [number_of(f) for f in frames] == list(range(50))
    assert np.diff(seconds) == pytest.approx(np.full(49, 0.04), abs=1e-6)
    assert media.notes == []


def test_a_packed_avi_gives_all_frames_in_even_steps(shared_data):
    """101 chunks: three are empty, 33 hold two pictures and are followed by one of six bytes."""
    media, frames, seconds = read(shared_data / "odd_media" / "xvid_packed.avi")
    assert len(frames) == 98
    assert np.diff(seconds) == pytest.approx(np.full(97, 0.04), abs=1e-6)


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("name", ["h264.ts", "mpeg2.ts", "mpeg1.mpg"])
@pytest.mark.parametrize("options", [{}, {"bf": "2", "g": "10"}])
def test_the_clock_of_joined_recordings_is_carried_on(tmp_path, name, options):
    """The second begins its clock anew; its tone sounds with its own picture."""
    kind = CONTAINERS[name] | {"video_options": options}
    one = make(tmp_path / f"1{name}", seconds=3.0, tone_at=9.0, **kind)
    two = make(tmp_path / f"2{name}", seconds=4.0, tone_at=1.0, **kind)
    path = joined(tmp_path / name, one, two)
    media, frames, seconds = read(path)
    numbers = [number_of(f) for f in frames]
    assert numbers == [*range(75), *range(100)]
    steps = np.diff(seconds)
    # FFmpeg puts the last of a program stream's pictures, which has no time, a step too late.
    assert np.delete(steps, (73, 74)) == pytest.approx(np.full(172, 0.04), abs=2e-3)
    assert steps[73:75].max() < 0.085
    assert tone_start(media.sound_T) == pytest.approx(seconds[75 + 25], abs=0.06)
    assert re.search(r"recordings were joined at (2.9|3.0)\d s", media.notes[0])
    assert not media.truncated
    media, frames, seconds = read(path, start=5.5, end=6.5)
    assert len(frames) == 25 and 60 <= number_of(frames[0]) <= 64


def test_joined_recordings_whose_clocks_do_not_fit_are_rejected(tmp_path):
    one, two = (make(tmp_path / n, seconds=3.0, audio="mp2") for n in ("1.ts", "2.ts"))
    # The second one's sound goes on where the first one's ended, its picture starts anew.
    shift = 3 * 90_000
    data = bytearray(two.read_bytes())
    for at in range(0, len(data), 188):
        begin = data.find(b"\0\0\1\xc0", at, at + 188)
        if begin >= 0 and data[begin + 7] & 128:
            field = data[begin + 9 : begin + 14]
            pts = (field[0] >> 1 & 7) << 30 | field[1] << 22 | (field[2] >> 1) << 15
            pts = (pts | field[3] << 7 | field[4] >> 1) + shift
            data[begin + 9 : begin + 14] = bytes(
                [0x21 | pts >> 29 & 14, pts >> 22 & 255, pts >> 14 & 254 | 1]
                + [pts >> 7 & 255, pts << 1 & 254 | 1]
            )
    two.write_bytes(data)
    with pytest.raises(MediaError) as error:
        read(joined(tmp_path / "a.ts", one, two))
    assert error.value.reason == "unreadable_video"
    assert "clocks of picture and sound restart apart" in error.value.detail


def test_a_face_is_not_put_to_the_speech_of_another(shared_data):
    """joined.ts: two people one after the other; 60 frames of each, and no hole between them."""
    media, frames, seconds = read(shared_data / "odd_media" / "joined.ts")
    assert len(frames) == 120 and media.duration == pytest.approx(4.81, abs=0.03)
    assert np.diff(seconds) == pytest.approx(np.full(119, 0.04), abs=2e-3)
    change = np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert int(np.argmax(change)) == 59


def test_wide_pixels_are_made_square(tmp_path):
    path = make(tmp_path / "dvd.mkv", size=(360, 288), aspect=Fraction(64, 45), seconds=0.4)
    for decoder in ("decord", "pyav"):
        media, frames, _ = read(path, decoder)
        assert frames.shape[1:3] == (288, 512), media.decoder


VFR = [0.0, 0.04, 0.08, 0.2, 0.21, 0.22, 0.5, 0.533, 0.567, 1.2, 1.24, 1.5]


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_variable_frame_rate_keeps_true_times(tmp_path, decoder):
    path = make(tmp_path / "vfr.mp4", times=VFR, seconds=1.6)
    media, frames, seconds = read(path, decoder, frames_per_second=1000.0)
    assert media.decoder.startswith(decoder)
    assert seconds == pytest.approx(VFR, abs=1e-3)
    assert [number_of(f) for f in frames] == list(range(len(VFR)))


def nearest_to_ticks(times, rate):
    ticks = times[0] + np.arange(0, (times[-1] - times[0]) * rate + 0.5) / rate
    distance = np.round(np.abs(np.array(times) - ticks[:, None]), 6)  # of two, the earlier
    return sorted(set(np.argmin(distance, axis=1).tolist()))


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("rate", [10.0, 5.0, 12.0])
@pytest.mark.parametrize("times", [VFR, [i / 25 for i in range(60)]])
def test_fewer_frames_are_the_nearest_to_each_tick(tmp_path, decoder, rate, times):
    path = make(tmp_path / "v.mp4", times=times, seconds=2.4)
    _, frames, seconds = read(path, decoder, frames_per_second=rate)
    expected = nearest_to_ticks(times, rate)
    assert [number_of(f) for f in frames] == expected
    assert seconds == pytest.approx([times[i] for i in expected], abs=1e-3)


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
def test_sound_that_starts_late_is_not_moved_forward(tmp_path, name):
    path = make(tmp_path / name, sound=(0.5, 2.0), tone_at=0.5)
    media, _, seconds = read(path)
    assert tone_start(media.sound_T) == pytest.approx(0.5 + seconds[0], abs=0.03)
    assert (media.sound_T[: 16 * 450] == 0).all()


def test_sound_that_starts_late_within_a_span(tmp_path):
    path = make(tmp_path / "late.mp4", sound=(0.5, 2.0), tone_at=0.5)
    media, _, _ = read(path, start=0.3, end=1.5)
    assert tone_start(media.sound_T) == pytest.approx(0.2, abs=0.03)


def test_sound_that_ends_early_is_not_filled_up(tmp_path):
    media, frames, _ = read(make(tmp_path / "a.mp4", sound=(0.0, 1.0)))
    assert len(frames) == 50 and media.duration == pytest.approx(2.0, abs=0.03)
    assert len(media.sound_T) / 16_000 == pytest.approx(1.0, abs=0.05)


def test_sound_longer_than_the_picture(tmp_path):
    path = make(tmp_path / "a.mp4", seconds=1.0, sound=(0.0, 3.0))
    media, frames, _ = read(path)
    assert len(frames) == 25 and media.duration == pytest.approx(3.0, abs=0.05)
    media, frames, _ = read(path, start=2.0, end=3.0)
    assert not media.has_video and media.width == 0 and len(frames) == 0
    assert len(media.sound_T) == pytest.approx(16_000, abs=100)
    assert "no picture" in media.notes[0]


def test_a_hole_in_the_sound_stays_a_hole(tmp_path):
    path = tmp_path / "hole.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for begin, level in ((0, 8000), (32_000, 16_000)):
            data = np.full((1, 16_000), level, np.int16)
            frame = av.AudioFrame.from_ndarray(data, format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = 16_000, begin, Fraction(1, 16_000)
            for packet in [*stream.encode(frame), *(stream.encode() if begin else [])]:
                out.mux(packet)
    media, _, _ = read(path)
    mean = [media.sound_T[k * 16_000 + 800 : (k + 1) * 16_000 - 800].mean() for k in range(3)]
    assert mean == pytest.approx([8000 / 32768, 0.0, 16_000 / 32768], abs=1e-3)


def test_no_sound_is_none(tmp_path):
    media, frames, _ = read(make(tmp_path / "mute.mp4", audio=None))
    assert media.sound_T is None and len(frames) == 50


def test_a_file_with_sound_only_gives_its_sound(tmp_path):
    media, frames, _ = read(make(tmp_path / "a.mp3", video=None, audio="mp3", tone_at=0.5))
    assert not media.has_video and (media.width, media.height) == (0, 0) and len(frames) == 0
    assert tone_start(media.sound_T) == pytest.approx(0.5, abs=0.06)
    assert media.decoder.startswith("none")


@pytest.mark.parametrize("name", ["a.mp3", "a.flac"])
def test_a_span_of_a_file_with_sound_only(tmp_path, name):
    path = make(tmp_path / name, video=None, audio=name[2:], seconds=20.0, tone_at=13.0)
    media, _, _ = read(path, start=12.5, end=14.0)
    assert tone_start(media.sound_T) == pytest.approx(0.5, abs=0.06)
    assert len(media.sound_T) == 24_000


def test_a_cover_picture_is_no_video(tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as out:
        a = out.add_stream("aac", rate=44100, layout="mono")
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), "fltp", "mono")
        frame.rate = 44100
        art = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        for packet in [*cover.encode(art), *cover.encode(), *a.encode(frame), *a.encode()]:
            out.mux(packet)
    media, _, _ = read(path)
    assert not media.has_video and len(media.sound_T) > 15_000


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi", "cut.flv"])
def test_a_cut_file_gives_what_is_there_and_says_so(tmp_path, decoder, name):
    options = {"movflags": "faststart"} if name == "cut.mp4" else {}
    codecs = {
        "cut.avi": {"video": "mpeg4", "audio": "mp3"},
        "cut.flv": {"video": "flv1", "audio": "mp3"},
    }
    path = make(tmp_path / name, seconds=8.0, container_options=options, **codecs.get(name, {}))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    media, frames, seconds = read(path, decoder)
    assert media.truncated and media.decoder.startswith("pyav"), media.decoder
    assert "breaks off" in media.notes[0]
    assert 2.0 < media.cut_seconds < 6.5 and media.promised_seconds == pytest.approx(8.0, abs=0.1)
    numbers = np.array([number_of(f) for f in frames])
    assert 60 < len(numbers) < 180
    # None repeated, none guessed; the frame that the last one leans on may stand alone.
    assert (np.diff(numbers) > 0).all() and numbers[-1] < len(numbers) + 3
    assert seconds[1:] == pytest.approx((numbers[1:] - 1) / RATE + seconds[1], abs=2e-3)
    assert len(media.sound_T) / 16_000 < 6.5


def test_a_span_before_the_cut_is_whole(tmp_path):
    path = make(tmp_path / "a.mkv", seconds=8.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    media, frames, _ = read(path, start=1.0, end=2.0)
    assert not media.truncated and len(frames) == 25 and media.cut_seconds is None
    assert read(path, start=1.0, end=7.0)[0].cut_seconds == pytest.approx(4.8, abs=0.5)
    with pytest.raises(MediaError, match="breaks off") as error:
        read(path, start=7.0, end=8.0)
    assert error.value.reason == "empty_range"


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("filler", ["zeros", "noise"])
def test_broken_pictures_in_the_middle_are_left_out(tmp_path, decoder, codec, filler):
    path = make(tmp_path / "a.mp4", seconds=4.0, video=codec, video_options={"g": "10"})
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    for position, size in packets[43:48]:
        noise = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
        data[position : position + size] = bytes(size) if filler == "zeros" else noise
    path.write_bytes(data)
    media, frames, seconds = read(path, decoder)
    numbers = [number_of(f) for f in frames]
    assert len(numbers) == 95 and media.sound_T is not None
    assert seconds == pytest.approx(np.array(numbers) / RATE, abs=2e-3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "unreadable_video"), (b"these are no pictures" * 999, "unreadable_video")],
)
def test_what_is_no_video(tmp_path, content, reason):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError) as error:
        read(path)
    assert error.value.reason == reason and "a.mp4" in error.value.detail


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("ffconcat version 1.0\nfile good.mp4\n", "concat"),
        ("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\ngood.mp4\n#EXT-X-ENDLIST\n", None),
        ("v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n", None),
    ],
)
def test_a_file_that_names_other_files_is_not_followed(tmp_path, content, kind):
    make(tmp_path / "good.mp4")
    path = tmp_path / "list.mp4"
    path.write_text(content)
    with pytest.raises(MediaError) as error:
        read(path)
    assert error.value.reason == "unreadable_video"
    if kind:
        assert f"is a list of other files ({kind}); expected the video" in error.value.detail


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.mp4 is empty, 0 bytes; copy it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 2\n", "Git LFS pointer"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>404", "is a web page"),
        (b"PK\x03\x04rest", "is a ZIP archive"),
        (b"\x1f\x8b\x08rest", "is compressed by gzip"),
        (b"%PDF-1.4", "is a PDF"),
        ("jpg", "a.mp4 is a picture (JPEG); expected a video or sound"),
        ("png", "is a picture (PNG)"),
        ("webp", "is a picture (WebP)"),
        ("bmp", "is a picture (BMP)"),
        ("tiff", "is a picture (TIFF)"),
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "own"])
def test_what_a_file_is_that_is_no_video(tmp_path, content, message, name):
    path = tmp_path / name
    if isinstance(content, str):
        path = tmp_path / (name if name == "a.mp4" else f"own.{content}")
        kind = {"jpg": "JPEG"}.get(content, content.upper())
        Image.fromarray(picture(1, 160, 96)).save(path, kind)
    else:
        path.write_bytes(content)
    with pytest.raises(MediaError) as error:
        read(path)
    assert error.value.reason == "unreadable_video"
    assert message.replace("a.mp4", path.name) in error.value.detail


def test_pictures_one_after_the_other_are_a_video(tmp_path):
    path = make(tmp_path / "a.mjpeg", video="mjpeg", pix_fmt="yuvj420p", audio=None)
    _, frames, _ = read(path)
    assert [number_of(frame) for frame in frames] == list(range(50))


@pytest.mark.parametrize(("codec", "ending"), [("libx264", "h264"), ("libx265", "hevc")])
def test_a_bare_stream_says_that_it_has_no_times(tmp_path, codec, ending):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    path = make(tmp_path / f"a.{ending}", video=codec, audio=None, video_options=options)
    with pytest.raises(MediaError) as error:
        read(path)
    assert error.value.detail == (
        f"a.{ending} is a bare stream of {ending} pictures without times; say how many a second: "
        f"ffmpeg -framerate 25 -i a.{ending} a.mp4"
    )


@pytest.mark.parametrize("size", [(2, 2), (16, 16), (24, 24), (16, 160), (48, 48), (160, 16)])
def test_frames_of_a_few_pixels(tmp_path, size):
    path = make(tmp_path / "a.mkv", video="ffv1", size=(160, 96))
    with av.open(str(tmp_path / "small.mkv"), "w") as out:
        stream = out.add_stream("ffv1", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for frame in av.open(str(path)).decode(video=0):
            out.mux(stream.encode(frame.reformat(*size)))
        out.mux(stream.encode())
    _, with_decord, _ = read(tmp_path / "small.mkv")
    _, with_pyav, _ = read(tmp_path / "small.mkv", "pyav")
    assert with_decord.shape == with_pyav.shape == (50, size[1], size[0], 3)
    assert np.abs(with_decord.astype(int) - with_pyav).mean() < 1.5


@pytest.mark.parametrize("name", ["raw.h264", "face.jpg", "1001_IEO_ANG_HI.flv"])
def test_real_files_that_are_no_videos(shared_data, name):
    with pytest.raises(MediaError, match="without times|picture .JPEG|Git LFS"):
        read(shared_data / "odd_media" / name)


def test_an_mp4_without_its_index(tmp_path):
    path = make(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:-2000])  # moov lies at the end
    with pytest.raises(MediaError) as error:
        read(path)
    assert error.value.reason == "unreadable_video"


def test_neither_a_folder_nor_an_endless_device_is_a_video(tmp_path):
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(MediaError) as error:
            read(path)
        assert error.value.reason == "unreadable_video" and "is no file" in error.value.detail


def test_missing_file(tmp_path):
    with pytest.raises(MediaError) as error:
        read(tmp_path / "nothing.mp4")
    assert error.value.reason == "missing_file" and "nothing.mp4" in error.value.detail
    with pytest.raises(MediaError) as error:
        read(tmp_path / ("x" * 5000))
    assert error.value.reason == "missing_file" and len(error.value.detail) < 400


def test_neither_picture_nor_sound(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text("1\n00:00:01,000 --> 00:00:02,000\nwords\n")
    with pytest.raises(MediaError) as error:
        read(path)
    assert error.value.reason == "no_video"


def test_spans_that_cannot_be(tmp_path):
    path = make(tmp_path / "a.mp4")
    for start, end, reason in (
        (5.0, 6.0, "empty_range"),
        (500.0, None, "empty_range"),
        (1.9, None, "too_short"),
        (1.0, 1.1, "too_short"),
    ):
        with pytest.raises(MediaError) as error:
            read(path, start=start, end=end)
        assert error.value.reason == reason
    media, frames, _ = read(path, start=1.0, end=99.0)
    assert media.duration == pytest.approx(1.0, abs=0.03) and len(frames) == 25


def test_absurd_sizes_are_refused_before_decoding(tmp_path, monkeypatch):
    path = make(tmp_path / "a.mp4")
    with pytest.raises(MediaError) as error:
        read(path, max_seconds=1.5)
    assert error.value.reason == "too_long"
    assert len(read(path, max_seconds=1.5, end=1.0)[1]) == 25
    monkeypatch.setattr("data_pipeline.media.container.MAX_PIXELS", 1000)
    with pytest.raises(MediaError) as error:
        read(path)
    assert error.value.reason == "too_large"


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_windows_are_bounded(tmp_path, decoder, monkeypatch):
    path = make(tmp_path / "a.mp4", seconds=3.0)
    media = open_clip(Clip(id="x", video=str(path)), window_seconds=1.0, decoder=decoder)
    assert [len(w.seconds_N) for w in media.windows()] == [25, 25, 25]
    monkeypatch.setattr(media_module, "MAX_WINDOW_BYTES", 160 * 96 * 3 * 10)
    windows = list(media.windows())
    assert [len(w.seconds_N) for w in windows] == [10] * 7 + [5]
    assert [number_of(w.frames_NHW3[0]) for w in windows] == list(range(0, 75, 10))


def test_windows_can_be_read_twice(tmp_path):
    media = open_clip(Clip(id="x", video=str(make(tmp_path / "a.mp4"))))
    first, second = (np.concatenate([w.frames_NHW3 for w in media.windows()]) for _ in range(2))
    assert (first == second).all()


def test_tall_frames_are_scaled_down_alike(tmp_path):
    path = make(tmp_path / "a.mp4", size=(640, 360))
    both = [read(path, decoder, max_height=180)[1] for decoder in ("decord", "pyav")]
    assert both[0].shape == both[1].shape == (50, 180, 320, 3)
    assert np.abs(both[0].astype(int) - both[1]).mean() < 1.5


def test_a_decoder_there_is_not(tmp_path):
    with pytest.raises(ValueError, match="decord and pyav"):
        read(make(tmp_path / "a.mp4"), "ffmpeg")


@pytest.mark.parametrize(
    "name",
    [
        "grid_multi/clips/bbaf2n.mpg",
        "cremad/clips/1001_DFA_ANG_XX.flv",
        "ravdess_video/01-01-01-01-01-01-01.mp4",
    ],
)
def test_real_clips_decode_alike(shared_data, name):
    a, b = (read(shared_data / name, decoder, max_height=180) for decoder in ("decord", "pyav"))
    assert a[2] == pytest.approx(b[2], abs=1e-6)
    assert np.abs(a[1].astype(int) - b[1]).mean() < 1.5


def test_a_long_file_is_not_given_to_decord_which_would_hold_it_all(tmp_path, monkeypatch):
    path = make(tmp_path / "a.mp4", seconds=4.0)
    monkeypatch.setattr("data_pipeline.media.decord_frames.MAX_BYTES", 160 * 96 * 3 * 50)
    media, frames, _ = read(path, "decord", start=1.0, end=2.0)
    assert media.decoder.startswith("pyav: the file is long") and len(frames) == 25


def test_without_decord_pyav_decodes(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    media, frames, _ = read(make(tmp_path / "a.mp4"), "decord")
    assert media.decoder == "pyav: decord is not installed" and len(frames) == 50


class Reader:
    """decord's, but it gives up at, or repeats, the frame `fault`."""

    def __init__(self, reader, fault, repeats):
        self.reader, self.fault, self.repeats, self.at = reader, fault, repeats, 0

    def next(self):
        self.at += 1
        if self.at <= self.fault:
            self.last = self.reader.next()
        elif not self.repeats:
            raise RuntimeError("out of frames")
        return self.last


@pytest.mark.parametrize("repeats", [False, True])
def test_when_decord_goes_wrong_half_way_pyav_does_the_whole_clip(tmp_path, monkeypatch, repeats):
    path = make(tmp_path / "a.mp4")

    def open_faulty(*args):
        reader, stamps_N = open_decord(*args)
        return Reader(reader, 20, repeats), stamps_N

    monkeypatch.setattr(media_module, "open_decord", open_faulty)
    media, frames, _ = read(path, "decord", frames_per_second=12.5)
    # The last tick, 2.00 s, is half a step behind the last frame.
    assert [number_of(f) for f in frames] == [*range(0, 50, 2), 49]
    why = "pictures do not belong to their times" if repeats else "gave up (out of frames)"
    assert media.decoder.startswith("pyav: decord") and media.decoder.endswith(why)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_a_file_trimmed_without_encoding_anew_gives_every_frame_it_shows(tmp_path, decoder):
    """Its edit list hides the key frame that the first shown picture needs."""
    whole, trimmed = make(tmp_path / "whole.mp4", audio=None), tmp_path / "trimmed.mp4"
    with (
        av.open(str(whole)) as source,
        av.open(
            str(trimmed), "w", options={"avoid_negative_ts": "disabled", "use_editlist": "1"}
        ) as out,
    ):
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is None:
                continue
            shift = round(0.4 / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
            out.mux(packet)
    clip = open_clip(Clip(id="x", video=str(trimmed)), frames_per_second=RATE, decoder=decoder)
    numbers = [number_of(frame) for window in clip.windows() for frame in window.frames_NHW3]
    assert numbers == list(range(10, 50))
