"""A media file that is open: its format, its best streams, where to look in it.

Times of MPEG files come from data_pipeline.media.mpeg_clock.
"""

from pathlib import Path

import av
from av.stream import Disposition

from data_pipeline.media.file_kind import other_kind
from data_pipeline.media.mpeg_clock import MPEG, MpegClock, mpeg_clock

MAX_PIXELS = 8192 * 4352
SLACK_SECONDS = 1e-3
"""Many containers count in milliseconds: a frame this near to a span's bound lies on it."""
_SEEK_SECONDS = 5.0
"""Spans that start earlier are read from the beginning."""
_STEPS_BACK = (0.0, 1.0, 5.0, 15.0, 60.0)
"""Seconds before the wanted place to seek to, one after the other, until a seek comes out right."""
_DTS_ONLY = ("avi", "asf")
"""File formats that store when to decode a picture, not when to show it."""
DECLARING = ("mov", "matroska", "flv", "avi", "asf")
"""File formats whose header says how long they are; of others FFmpeg guesses, by bytes a second."""
_REFERRING = {"concat", "hls", "dash", "sdp"}
"""File formats that name other files or hosts, which a clip table must not make us read."""


class MediaError(Exception):
    """A clip without frames and sound to give; `reason` is a slug, `detail` a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def check_format(container, path: Path) -> None:
    is_film = path.suffix.lower() in (".mjpeg", ".mjpg")  # pictures one after the other
    if container.format.name.endswith(("_pipe", "image2")) and not is_film:
        kind = other_kind(path) or f"a picture ({container.format.name.removesuffix('_pipe')})"
        raise MediaError("unreadable_video", f"{path.name} is {kind}")
    names = set(container.format.name.split(",")) & _REFERRING
    if names:
        raise MediaError(
            "unreadable_video",
            f"{path.name} is a list of other files ({', '.join(sorted(names))}); expected the "
            "video itself",
        )


def why_unreadable(path: Path, error: Exception) -> str:
    """What keeps FFmpeg, which raised `error`, from reading `path`."""
    kind = other_kind(path)
    if kind is not None:
        return f"{path.name} is {kind}"
    what = getattr(error, "strerror", None) or str(error)
    return f"{path.name} ({path.stat().st_size:,} bytes): {what}"


def best_streams(container, path: Path, audio_track: int | None = None):
    """The best video (cover pictures are none) and audio stream, either of them or None.

    audio_track: the number of the audio stream instead of the best one.
    """
    video = container.streams.best("video")
    if video is not None and Disposition.attached_pic in video.disposition:
        video = None
    audio = container.streams.best("audio")
    if audio_track is not None and audio is not None:
        tracks = container.streams.audio
        if audio_track >= len(tracks):
            raise MediaError(
                "no_audio_track",
                f"{path.name} has no sound track media.audio_track={audio_track}; it has "
                f"{len(tracks)}, counted from 0",
            )
        audio = tracks[audio_track]
    for stream in (video, audio):
        if stream is not None and stream.codec_context is None:
            raise MediaError("unreadable_video", f"{path.name}: {stream.type} of an unknown codec")
    if video is None and audio is None:
        raise MediaError("no_video", f"{path.name} holds neither picture nor sound")
    if video is not None and video.codec_context.width * video.codec_context.height > MAX_PIXELS:
        size = f"{video.codec_context.width} x {video.codec_context.height}"
        raise MediaError(
            "too_large", f"{path.name} has frames of {size}; expected at most {MAX_PIXELS:,} pixels"
        )
    return video, audio


def describe_track(stream: av.AudioStream) -> str:
    """Codec, channels, language and title of a sound track: `aac, stereo, eng, Commentary`."""
    codec = stream.codec_context
    layouts = {"1 channels": "mono", "2 channels": "stereo"}  # as containers without names have it
    words = ["an unknown codec"]
    if codec is not None:
        words = [codec.name, layouts.get(codec.layout.name, codec.layout.name)]
    named = {key.lower(): value for key, value in stream.metadata.items()}
    words += [named[key] for key in ("language", "title") if named.get(key, "und") != "und"]
    return ", ".join(words)


def clock_of(container, path: Path) -> MpegClock | None:
    return mpeg_clock(path) if container.format.name in MPEG else None


def steps_back(start: float) -> tuple[float | None, ...]:
    """Where to look for a span: so many seconds before it, or (None) from the file's beginning."""
    return (*_STEPS_BACK, None) if start > _SEEK_SECONDS else (None,)


def seek(container, clock: MpegClock | None, streams: list, seconds: float) -> bool:
    """Go to the last whole picture before timestamp `seconds`; False where that cannot be done."""
    if clock is not None:
        return clock.seek(container, streams, seconds)
    try:
        container.seek(round(seconds * av.time_base), backward=True)
    except av.FFmpegError:
        return False
    return True


def read_packets(container, clock: MpegClock | None, streams: list, *, sought: bool):
    """The packets of `streams`, in the order of the file."""
    if clock is not None:
        return clock.packets(container, streams, sought=sought)
    return container.demux(streams)


def is_damaged(packet: av.Packet, clock: MpegClock | None) -> bool:
    return packet.is_corrupt if clock is None else clock.damaged(packet)


def stores_dts_only(container, stream) -> bool:
    """Packets tell when to decode a picture, and pictures are stored in another order than shown.

    FFmpeg then makes up times of showing that are neither in order nor in even steps.
    """
    return container.format.name in _DTS_ONLY and stream.codec_context.has_b_frames


def in_span(seconds: float, start: float, end: float) -> bool:
    return start - SLACK_SECONDS <= seconds < end - SLACK_SECONDS
