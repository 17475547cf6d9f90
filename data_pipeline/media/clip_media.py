"""One clip's frames, with their true times, and its sound.

    media = open_clip(clip)
    media.sound_T                       float32 [T], 16 kHz mono, index 0 = the clip's start
    for window in media.windows():      at most 10 s and 256 MB of frames at a time
        window.frames_NHW3, window.seconds_N

A first pass over the packets of the clip's span (data_pipeline.media.demux) decodes the sound,
reads every frame's time and finds out whether the file breaks off. PyAV then decodes the frames
(data_pipeline.media.frames), as fast as decord and right in every file of docs/results/decoding.md.
`decoder="decord"` has decord decode them, where each of its pictures proves to be PyAV's
(data_pipeline.media.decord_frames). `media.decoder` says which did and why.

Time 0 of a file is the earliest of its streams' beginnings, as in players.
"""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from data_pipeline.media.container import MediaError, why_unreadable
from data_pipeline.media.decord_frames import DecordUnfitError, check_pictures, open_decord
from data_pipeline.media.demux import Scan, scan
from data_pipeline.media.frames import decode_video
from data_pipeline.media.upright import orientation_of
from data_pipeline.schema import Box, Clip, region_box

__all__ = ["ClipMedia", "FrameWindow", "MediaError", "open_clip"]

MIN_SECONDS = 0.2
"""Shorter clips hold neither a word nor two face frames."""
MAX_SECONDS = 1800.0
"""Longer clips are films that nobody cut; half an hour of sound alone is 115 MB."""
MAX_WINDOW_BYTES = 256_000_000


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameWindow:
    """Neighbouring frames of a clip: at most `window_seconds` and MAX_WINDOW_BYTES of them."""

    frames_NHW3: np.ndarray
    """uint8 RGB, upright."""
    seconds_N: np.ndarray
    """float64, each frame's own time from the clip's start."""
    index_N: np.ndarray
    """int64, counted over all windows of the clip."""


def open_clip(
    clip: Clip,
    *,
    frames_per_second: float = 25.0,
    window_seconds: float = 10.0,
    max_height: int = 720,
    decoder: str = "pyav",
    max_seconds: float = MAX_SECONDS,
    audio_track: int | None = None,
) -> "ClipMedia":
    """Open `clip`, decode its sound, get ready to decode its frames.

    frames_per_second: at most so many; of a faster video the frame nearest to each tick is given.
    max_height: taller frames are scaled down to it. decoder: "pyav" or "decord". audio_track: the
    sound track, from 0 on; None is FFmpeg's choice.

    A file without picture, or with none in the clip's span, gives a ClipMedia with has_video False.

    Raises MediaError: missing_file, unreadable_video, no_video (no sound either), empty_range (the
    clip starts after the file's end), too_short, too_long, too_large, no_audio_track.
    """
    if decoder not in ("decord", "pyav"):
        raise ValueError(f"no decoder {decoder!r}; there are decord and pyav")
    path = Path(clip.video)
    if not os.path.exists(path):  # unlike Path.exists it takes names that are too long for a file
        shown = f"{path}"[:300]
        raise MediaError("missing_file", f"no file {shown}; paths are relative to the clip table")
    if not path.is_file():
        raise MediaError("unreadable_video", f"{path} is no file; expected a video")
    try:
        found = scan(path, clip.start, clip.end, max_seconds, audio_track)
    except (av.FFmpegError, OSError) as error:
        raise MediaError("unreadable_video", why_unreadable(path, error)) from error
    if found.end - found.start < MIN_SECONDS:
        raise MediaError(
            "too_short",
            f"{found.end - found.start:.3f} s of {path.name}; expected at least {MIN_SECONDS:g} s",
        )
    scale = min(1.0, max_height / max(1, found.height))
    size = (found.width, found.height)
    return ClipMedia(
        path=path,
        scan=found,
        size=size if scale == 1.0 else (_even(size[0] * scale), _even(size[1] * scale)),
        frames_per_second=frames_per_second,
        window_seconds=window_seconds,
        decoder=decoder,
        box=None if clip.region is None else region_box(clip.region),
    )


class ClipMedia:
    """One opened clip. The sound is at hand; frames are decoded as `windows` is read."""

    def __init__(
        self,
        *,
        path: Path,
        scan: Scan,
        size: tuple[int, int],
        frames_per_second: float,
        window_seconds: float,
        decoder: str,
        box: Box | None = None,
    ) -> None:
        self.path = path
        self.duration = scan.end - scan.start
        """Seconds."""
        self.has_video = bool(scan.frame_seconds)
        self._size = size if self.has_video else (0, 0)
        self._columns, self._rows = _crop(self._size, box)
        self.width = self._columns.stop - self._columns.start
        self.height = self._rows.stop - self._rows.start
        """Of the frames that `windows` gives, which are the clip's region; 0 without video."""
        self.sound_T = scan.sound_T
        """float32 [T], 16 kHz mono, None without sound; zeros where a file has no sound yet."""
        self.audio_track, self.audio_tracks = scan.audio_track, scan.audio_tracks
        """Which sound track was taken, and what there are, in words."""
        self.truncated = scan.truncated
        """The file promises more than it holds; what it holds is given."""
        self.cut_seconds = scan.cut_seconds
        """Where, from the file's time 0, it breaks off within the clip; None where it does not."""
        self.promised_seconds = scan.promised_seconds
        """Length of the file by its own word; None is unknown."""
        self.notes = list(scan.notes)
        """Sentences for the log: what was odd about the file."""
        self.decoder = "none: there is no picture"
        """Which decoder gives the frames, and why."""
        self._scan = scan
        self._rate, self._window_seconds = frames_per_second, window_seconds
        self._reformatter = VideoReformatter()
        if self.has_video:
            unfit = self._why_not_decord() if decoder == "decord" else "asked for"
            self.decoder = f"pyav: {unfit}" if unfit else "decord: asked for"

    def windows(self) -> Iterator[FrameWindow]:
        """The clip's frames in order, none twice; the last frame of one window is not repeated.

        Raises MediaError unreadable_video when no frame at all can be decoded.
        """
        if not self.has_video:
            return
        shape = (self.height, self.width, 3)
        room = min(
            math.ceil(self._window_seconds * self._rate), MAX_WINDOW_BYTES // math.prod(shape)
        )
        frames_NHW3, seconds = np.empty((0, *shape), np.uint8), []
        first = 0
        for second, frame_HW3 in self._frames():
            if len(seconds) == room or (seconds and second - seconds[0] >= self._window_seconds):
                yield _window(frames_NHW3, seconds, first)
                first, seconds = first + len(seconds), []
            if not seconds:  # a new array: the reader may keep the last window
                frames_NHW3 = np.empty((max(1, room), *shape), np.uint8)
            frames_NHW3[len(seconds)] = frame_HW3[self._rows, self._columns]
            seconds.append(second)
        if seconds:
            yield _window(frames_NHW3, seconds, first)
        elif first == 0:
            raise MediaError("unreadable_video", f"{self.path.name}: no frame can be decoded")

    def _why_not_decord(self) -> str:
        """What is known before decord is tried; empty: nothing is against it."""
        if self.truncated:
            return "the file breaks off, where decord would repeat frames"
        if not self._scan.times_known:
            return "some frames carry no time, which decord would guess"
        if self._scan.first_frame.interlaced_frame:
            return "the video is interlaced, which decord leaves as it is"
        return ""

    def _frames(self) -> Iterator[tuple[float, np.ndarray]]:
        """(seconds from the clip's start, whole picture) of the frames nearest to the ticks."""
        if self.decoder.startswith("decord"):
            try:
                # All of them before the first is given: where decord stops half way, and it stops
                # at another frame each time, PyAV does the whole clip, and a rerun the same.
                found = list(self._frames_decord())
            except DecordUnfitError as error:
                self.decoder = f"pyav: {error}"
            else:
                yield from found
                return
        for seconds, frame in self._nearest(decode_video(self.path, self._scan)):
            yield seconds - self._scan.start, self._upright(frame)

    def _frames_decord(self) -> Iterator[tuple[float, np.ndarray]]:
        reader, stamps_N = open_decord(self.path, self._size, len(self._scan.frame_seconds))
        # decord counts from the video's first frame, not from the file's time 0.
        stamps_N = stamps_N + self._scan.video_start
        frames = decode_video(self.path, self._scan)
        truth = ((seconds, self._upright(frame)) for seconds, frame in frames)
        for seconds, frame_HW3 in self._nearest(check_pictures(reader, stamps_N, truth)):
            yield seconds - self._scan.start, frame_HW3

    def _nearest(self, timed: Iterable[tuple[float, Any]]) -> Iterator[tuple[float, Any]]:
        """Those of `timed` that are nearest to a tick."""
        ticks, previous = _Ticks(self._rate), None
        for seconds, frame in timed:
            if ticks.passes_previous(seconds):
                yield previous
            previous = seconds, frame
        if previous is not None and ticks.passes_previous(None):
            yield previous

    def _upright(self, frame: av.VideoFrame) -> np.ndarray:
        """RGB, the whole picture; scaled first, then turned, as the file's display matrix says."""
        orientation = orientation_of(frame)
        width, height = orientation.size(*self._size)
        rgb = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation="BILINEAR"
        )
        return orientation.apply(rgb.to_ndarray())


class _Ticks:
    """Picks, of a stream of frame times, the nearest to each tick of a grid; none twice.

    The grid starts at the first frame, so that a video of the asked-for rate gives every frame.
    Whether a frame is the nearest shows when the next one comes: the answer is one frame late.
    """

    def __init__(self, frames_per_second: float) -> None:
        self._rate = frames_per_second
        self._tick = 0
        self._first: float | None = None
        self._previous = 0.0

    def passes_previous(self, seconds: float | None) -> bool:
        """Give the next frame's time (None: no more); is the one before it a pick?"""
        if self._first is None:
            self._first = self._previous = seconds
            return False
        # Up to here the previous frame is the nearest one; behind the last, half a tick.
        reach = self._previous + 0.5 / self._rate
        if seconds is not None:
            reach = (self._previous + seconds) / 2
        # Half a millisecond, the rounding of containers that count in milliseconds.
        ahead = (reach + 5e-4 - self._first) * self._rate
        picked = self._tick <= ahead
        self._tick = max(self._tick, math.floor(ahead) + 1)
        if seconds is not None:
            self._previous = seconds
        return picked


def _window(frames_NHW3: np.ndarray, seconds: list[float], first: int) -> FrameWindow:
    return FrameWindow(
        frames_NHW3=frames_NHW3[: len(seconds)],
        seconds_N=np.array(seconds, dtype=np.float64),
        index_N=np.arange(first, first + len(seconds), dtype=np.int64),
    )


def _crop(size: tuple[int, int], box: Box | None) -> tuple[slice, slice]:
    """The columns and the rows whose middle lies in `box`, of a picture of `size`; one at least."""
    if box is None or 0 in size:
        return slice(0, size[0]), slice(0, size[1])
    x0, y0, x1, y1 = (math.ceil(k * side - 0.5) for k, side in zip(box, size * 2, strict=True))
    x0, y0 = min(x0, size[0] - 1), min(y0, size[1] - 1)
    return slice(x0, max(x1, x0 + 1)), slice(y0, max(y1, y0 + 1))


def _even(x: float) -> int:
    return max(2, 2 * round(x / 2))
