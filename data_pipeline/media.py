"""One clip's frames, with their true times, and its sound.

    media = open_clip(clip)
    media.sound_T                       float32 [T], 16 kHz mono, index 0 = the clip's start
    for window in media.windows():      at most 10 s and 256 MB of frames at a time
        window.frames_NHW3, window.seconds_N

A first pass with PyAV goes over the packets of the clip's span: it decodes the sound, reads every
frame's time and finds out whether the file breaks off. Then decord decodes the frames, unless it
cannot do so rightly. It does not open AV1; it starts half a second late in MPEG streams; it repeats
frames without a word where data are missing; and it decodes the rest of the file into memory while
one works on a frame. So its times and its first picture are held against those of the first pass,
and where they differ, or the file is cut or long, PyAV decodes the frames. `media.decoder` says
which did and why. Both give the same frames (tests/data_pipeline/test_media.py).

Time 0 of a file is the earliest of its streams' beginnings, as in players.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from data_pipeline.demux import MediaError, Scan, decode_video, scan, why_unreadable
from data_pipeline.schema import Clip

__all__ = ["ClipMedia", "FrameWindow", "MediaError", "open_clip"]

MIN_SECONDS = 0.2
"""Shorter clips hold neither a word nor two face frames."""
MAX_SECONDS = 1800.0
"""Longer clips are films that nobody cut; half an hour of sound alone is 115 MB."""
MAX_WINDOW_BYTES = 256_000_000
_NO_INDEX = ("mpeg", "mpegts")
"""File formats in which decord, which seeks before it reads, loses the first frames."""
MAX_DECORD_BYTES = 256_000_000
"""Of all frames of a file: decord decodes on in the background and keeps what nobody fetched."""


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
    decoder: str = "decord",
    max_seconds: float = MAX_SECONDS,
    audio_track: int | None = None,
) -> "ClipMedia":
    """Open `clip`, decode its sound, get ready to decode its frames.

    frames_per_second: at most so many; of a faster video the frame nearest to each tick is given.
    max_height: taller frames are scaled down to it. decoder: "decord" or "pyav". audio_track: the
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
    ) -> None:
        self.path = path
        self.duration = scan.end - scan.start
        """Seconds."""
        self.has_video = bool(scan.frame_seconds)
        self.width, self.height = size if self.has_video else (0, 0)
        """Of the frames that `windows` gives; 0 without video."""
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
        self._frame_bytes = 3 * self.width * self.height
        self._by_decord = False
        self._reader: Any = None
        if self.has_video:
            self._choose_decoder(decoder)

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
            frames_NHW3[len(seconds)] = frame_HW3
            seconds.append(second)
        if seconds:
            yield _window(frames_NHW3, seconds, first)
        elif first == 0:
            raise MediaError("unreadable_video", f"{self.path.name}: no frame can be decoded")

    def _choose_decoder(self, decoder: str) -> None:
        if decoder == "pyav":
            self.decoder = "pyav: asked for"
        elif self.truncated:
            self.decoder = "pyav: the file breaks off, where decord would repeat frames"
        elif not self._scan.times_known:
            self.decoder = "pyav: some frames carry no time, which decord would guess"
        elif self._scan.container in _NO_INDEX:
            self.decoder = "pyav: MPEG streams have no index, and decord starts late in them"
        elif self._scan.file_frames * self._frame_bytes > MAX_DECORD_BYTES:
            self.decoder = "pyav: the file is long, and decord would hold all its frames"
        else:
            try:
                self._reader = self._open_decord()
            except _DecordUnfitError as error:
                self.decoder = f"pyav: {error}"
            else:
                self._by_decord = True
                self.decoder = "decord: asked for"

    def _open_decord(self) -> Any:
        """decord's reader, at the span's first frame."""
        try:
            import decord
        except ImportError:
            raise _DecordUnfitError("decord is not installed") from None
        decord.logging.set_level(decord.logging.QUIET)
        try:
            # One thread: decord's own choice, 0, was the slowest, and extraction runs a process
            # a core anyway.
            reader = decord.VideoReader(
                str(self.path), num_threads=1, width=self.width, height=self.height
            )
            if len(reader) * self._frame_bytes > MAX_DECORD_BYTES:
                raise _DecordUnfitError("the file is long, and decord would hold all its frames")
            stamps = reader.get_frame_timestamp(range(len(reader)))[:, 0]
            # decord counts from the video's first frame, not from the file's time 0.
            seconds = stamps.astype(np.float64) + self._scan.video_start
            wanted = self._scan.frame_seconds
            first = int(np.argmin(np.abs(seconds - wanted[0])))
            found = seconds[first : first + len(wanted)]
            if len(found) < len(wanted) or np.abs(found - wanted).max() > 2e-3:
                raise _DecordUnfitError("decord's frame times are not the file's")
            # The times being right, the pictures can still be others.
            at = self._scan.first_frame.time - self._scan.origin
            reader.seek_accurate(int(np.argmin(np.abs(seconds - at))))
            theirs, ours = reader.next().asnumpy(), self._upright(self._scan.first_frame)
            if theirs.shape != ours.shape:  # it pads the rows of small frames
                raise _DecordUnfitError("decord's pictures are of another size")
            if np.abs(theirs.astype(np.int16) - ours).mean() > 1.0:
                raise _DecordUnfitError("decord's pictures do not belong to their times")
            reader.seek_accurate(first)
        except (RuntimeError, decord.DECORDError, StopIteration) as error:
            raise _DecordUnfitError(f"decord cannot read it ({_last_words(error)})") from error
        return reader

    def _frames(self) -> Iterator[tuple[float, np.ndarray]]:
        """(seconds from the clip's start, frame [H, W, 3]) of the frames nearest to the ticks."""
        if self._by_decord:
            try:
                # All of them before the first is given: where decord stops half way, and it stops
                # at another frame each time, PyAV does the whole clip, and a rerun the same.
                found = list(self._frames_decord())
            except _DecordUnfitError as error:
                self.decoder = f"pyav: {error}"
                self._by_decord = False
            else:
                yield from found
                return
        yield from self._frames_pyav()

    def _frames_decord(self) -> Iterator[tuple[float, np.ndarray]]:
        from decord import DECORDError

        # A reader serves one pass: its memory goes when the pass ends.
        reader, self._reader = self._reader or self._open_decord(), None
        ticks = _Ticks(self._rate)
        seconds = self._scan.frame_seconds
        picks = [k - 1 for k, second in enumerate(seconds) if ticks.passes_previous(second)]
        if ticks.passes_previous(None):
            picks.append(len(seconds) - 1)
        at = 0
        for k in picks:
            try:
                # Not get_batch: it took three times as long, and holds its frames twice.
                if k > at:
                    reader.skip_frames(k - at)
                frame_HW3 = reader.next().asnumpy()
            except (RuntimeError, DECORDError, StopIteration) as error:
                raise _DecordUnfitError(f"decord gave up ({_last_words(error)})") from error
            at = k + 1
            yield seconds[k] - self._scan.start, frame_HW3

    def _frames_pyav(self) -> Iterator[tuple[float, np.ndarray]]:
        ticks = _Ticks(self._rate)
        previous: tuple[float, av.VideoFrame] | None = None
        for second, frame in decode_video(self.path, self._scan):
            if ticks.passes_previous(second):
                yield previous[0] - self._scan.start, self._upright(previous[1])
            previous = second, frame
        if previous is not None and ticks.passes_previous(None):
            yield previous[0] - self._scan.start, self._upright(previous[1])

    def _upright(self, frame: av.VideoFrame) -> np.ndarray:
        """RGB [height, width, 3]; scaled first, then turned, as the file's display matrix says."""
        turns = round(frame.rotation / 90) % 4
        width, height = (self.width, self.height)[:: -1 if turns % 2 else 1]
        rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation="BILINEAR")
        return np.rot90(rgb.to_ndarray(), turns)


class _DecordUnfitError(Exception):
    """Why decord cannot decode this clip."""


def _last_words(error: Exception) -> str:
    """What decord complains of, without its source lines and stack trace."""
    lines = str(error).strip().splitlines()
    return lines[0].rpartition("Check failed: ")[2][-100:] if lines else "the end came early"


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


def _even(x: float) -> int:
    return max(2, 2 * round(x / 2))
