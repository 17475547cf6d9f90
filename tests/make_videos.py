"""Makes videos of many kinds from real clips, to hold the decoder against a plain reading.

    python tests/make_videos.py runs/videos ../shared/data/grid_s1/clips
    python -m data_pipeline.media.decode_check runs/videos --output runs/decoding

Needs the program ffmpeg (5 or newer) with x264, x265, libxvid, libvpx, svtav1 and aom. Containers
by codecs by how pictures refer to each other: closed and open groups, intra refresh without any
random access picture, B-frames that refer to B-frames; 25 and 29.97 pictures a second, uneven
times, turned, interlaced, a clock that restarts, long files. What the tests themselves decode is
made with PyAV (test_decode_check.py).
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

NUM_CLIPS = 8
"""Of the folder, joined to one video of about 24 s."""
NTSC = ["-vf", "fps=30000/1001"]
UNEVEN = ["-vf", "select='not(eq(mod(n,7),3))*not(eq(mod(n,11),5))'", "-fps_mode", "vfr"]
FIELDS = ["-vf", "fps=50,tinterlace=interleave_top,fieldorder=tff", "-flags", "+ilme+ildct"]
AAC, MP3, MP2 = ["-c:a", "aac"], ["-c:a", "mp3"], ["-c:a", "mp2"]
X264, X265 = ["-c:v", "libx264", "-preset", "fast"], ["-c:v", "libx265", "-preset", "fast"]
PYRAMID = "b-pyramid=normal:bframes=4:b-adapt=0:keyint=48:min-keyint=48:scenecut=0"
OPEN = "open-gop=1:keyint=40:min-keyint=40:scenecut=0:bframes=3"
REFRESH = "intra-refresh=1:keyint=50:bframes=0"

VIDEOS = {
    "h264_closed.mp4": [*X264, "-g", "50", *AAC],
    "h264_open_pyramid.mp4": [*X264, "-x264-params", f"{OPEN}:b-pyramid=normal", *AAC],
    "h264_open_ntsc.mkv": [*NTSC, *X264, "-x264-params", OPEN, *AAC],
    "h264_open.ts": [*X264, "-x264-params", OPEN, *AAC],
    "h264_refresh.mp4": [*X264, "-x264-params", REFRESH, *AAC],
    "h264_refresh.mkv": [*X264, "-x264-params", REFRESH, *AAC],
    "h264_refresh.ts": [*X264, "-x264-params", REFRESH, *AAC],
    "h264_pyramid.flv": [*X264, "-x264-params", PYRAMID, *AAC],
    "h264_long_groups.mov": [*X264, "-x264-params", "keyint=600:scenecut=0", *AAC],
    "h264_uneven.mp4": [*UNEVEN, *X264, "-g", "60", *AAC],
    "h264_uneven.mkv": [*UNEVEN, *X264, "-x264-params", OPEN, *AAC],
    "h264_turned.mov": [*X264, "-g", "30", "-metadata:s:v", "rotate=90", *AAC],
    "h264_pieces.mp4": [*X264, "-g", "50", *AAC, "-movflags", "frag_keyframe+empty_moov"],
    "h264_fields.mp4": [*FIELDS, *X264, "-g", "25", *AAC],
    "h264.avi": [*X264, "-g", "50", *MP3],
    "hevc_open.mp4": [*X265, "-x265-params", f"{OPEN}:log-level=none", *AAC],
    "hevc_open.mkv": [*X265, "-x265-params", f"{OPEN}:log-level=none", *AAC],
    "hevc_open.ts": [*X265, "-x265-params", f"{OPEN}:log-level=none", *AAC],
    "hevc_refresh.mp4": [*X265, "-x265-params", "intra-refresh=1:log-level=none", *AAC],
    "mpeg4_b.mp4": ["-c:v", "mpeg4", "-bf", "2", "-g", "30", *AAC],
    "mpeg4_b_ntsc.mkv": [*NTSC, "-c:v", "mpeg4", "-bf", "2", "-g", "30", *AAC],
    "mpeg4_b.avi": ["-c:v", "mpeg4", "-bf", "2", "-g", "30", *MP3],
    "xvid_b.avi": ["-c:v", "libxvid", "-bf", "2", "-g", "40", *MP3],
    "mpeg4.avi": ["-c:v", "mpeg4", "-g", "30", *MP3],
    "mpeg2.mpg": ["-c:v", "mpeg2video", "-bf", "2", "-g", "15", "-b:v", "2M", *MP2],
    "mpeg2_ntsc.ts": [*NTSC, "-c:v", "mpeg2video", "-bf", "2", "-b:v", "2M", *MP2],
    "mpeg2_fields.ts": [*FIELDS, "-c:v", "mpeg2video", "-bf", "2", "-b:v", "4M", *MP2],
    "mpeg1.mpg": ["-c:v", "mpeg1video", "-bf", "2", "-b:v", "1M", *MP2],
    "wmv2.wmv": ["-c:v", "wmv2", "-g", "24", "-c:a", "wmav2"],
    "msmpeg4.avi": ["-c:v", "msmpeg4", "-g", "30", *MP3],
    "vp9.webm": ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "64"],
    "vp8.webm": ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-g", "64"],
    "av1.mp4": ["-c:v", "libsvtav1", "-preset", "10", "-g", "64", *AAC],
    "av1.mkv": ["-c:v", "libaom-av1", "-usage", "realtime", "-cpu-used", "8", "-g", "64"],
    "flv1.flv": ["-c:v", "flv1", "-g", "30", "-ar", "44100", *MP3],
    "mjpeg.mov": ["-c:v", "mjpeg", *AAC],
}
LONG = {
    "long_h264.ts": [*X264, "-preset", "ultrafast", "-x264-params", OPEN, *AAC],
    "long_mpeg2.mpg": ["-c:v", "mpeg2video", "-bf", "2", "-g", "15", "-b:v", "1M", *MP2],
}


def ffmpeg(*arguments: str) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True)


def make_videos(folder: Path, clips: list[Path], long_minutes: float = 0.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = folder / "clips.txt"
    names.write_text("".join(f"file '{clip.resolve()}'\n" for clip in clips))
    source = folder / "source.mkv"
    everything = ["-f", "concat", "-safe", "0", "-i", names]
    ffmpeg(*everything, *X264, "-qp", "8", "-g", "12", "-c:a", "flac", source)
    names.unlink()
    for name, how in VIDEOS.items():
        ffmpeg("-i", source, *how, folder / name)
    times = max(0, round(long_minutes * 60 / (3 * len(clips))) - 1)
    for name, how in LONG.items() if long_minutes else ():
        ffmpeg("-stream_loop", str(times), "-i", source, *how, folder / name)
    for name, parts in {
        "joined.ts": ("mpeg2_ntsc.ts", "mpeg2_fields.ts", "mpeg2_ntsc.ts"),
        "joined_h264.ts": ("h264_open.ts", "h264_refresh.ts"),
        "joined.mpg": ("mpeg2.mpg", "mpeg2.mpg"),
    }.items():
        (folder / name).write_bytes(b"".join((folder / part).read_bytes() for part in parts))
    source.unlink()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the videos go")
    parser.add_argument("clips", type=Path, help="a folder of short clips of one size")
    parser.add_argument("--long", type=float, default=0.0, help="minutes of two long MPEG files")
    args = parser.parse_args(argv)
    if shutil.which("ffmpeg") is None:
        parser.error("there is no ffmpeg; apt-get install ffmpeg")
    clips = sorted(args.clips.glob("*.mp4"))[:NUM_CLIPS]
    if len(clips) < NUM_CLIPS:
        parser.error(f"{args.clips} holds {len(clips)} .mp4; expected {NUM_CLIPS} or more")
    make_videos(args.folder, clips, args.long)
    return 0


if __name__ == "__main__":
    sys.exit(main())
