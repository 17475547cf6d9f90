"""The first pass over a media file: its packets' times, its sound, and whether it breaks off.

Containers say less than one hopes: durations are missing (live recordings) or estimated (MPEG),
edit lists hide packets that decoders then skip, a cut file still promises its full length. The
packets tell. Nothing but the sound and one frame is decoded here. Times of MPEG files come from
data_pipeline.media.mpeg_clock.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from data_pipeline.media.container import (
    DECLARING,
    SLACK_SECONDS,
    MediaError,
    best_streams,
    check_format,
    clock_of,
    describe_track,
    in_span,
    is_damaged,
    read_packets,
    seek,
    steps_back,
    stores_dts_only,
)
from data_pipeline.media.mpeg_clock import LostError
from data_pipeline.media.sound import SoundTrack
from data_pipeline.media.upright import orientation_of

_PREROLL_SECONDS = 0.5
"""Sound decoded before the span: the first packets after a seek come out wrong (MP3, AAC)."""
_MISSING_SECONDS = 0.25
"""A file that ends so much before its declared end is cut; durations are seldom off by more."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What the first pass found in a span. Times are in seconds from the file's time 0."""

    origin: float
    """The timestamp that is time 0: the earliest of the streams' beginnings, as in players."""
    start: float
    end: float
    """Of the span: as asked for, or where the file's data end."""
    frame_seconds: list[float]
    """Of every frame of the span that can be shown, sorted; as the packets say."""
    times_known: bool
    """Every video packet of the span says its time."""
    video_start: float
    """Of the first frame of the file."""
    first_frame: av.VideoFrame | None
    """The first that was decoded: the span's, or one before it."""
    truncated: bool
    """The file promises more than it holds."""
    cut_seconds: float | None
    """Where the file breaks off, if it surely does so before the end of the span."""
    promised_seconds: float | None
    """Where the file, by its own word, should end; None is unknown."""
    width: int
    """Of a frame as shown: upright, square pixels. 0 without picture."""
    height: int
    sound_T: np.ndarray | None
    """float32, 16 kHz mono, index 0 = start; None without sound in the span."""
    audio_track: int | None
    """Which of `audio_tracks` the sound is from; None without any."""
    audio_tracks: list[str]
    """The file's sound tracks, each in words."""
    notes: list[str]
    """What was odd, in sentences."""


def scan(
    path: Path,
    start: float,
    end: float | None,
    max_seconds: float,
    audio_track: int | None = None,
) -> Scan:
    """Read the packets from `start` to `end` (seconds; None = to the end of the file).

    audio_track: which sound track, from 0 on; None is the one that FFmpeg takes for the best.
    Raises MediaError no_video, unreadable_video, empty_range, too_long, too_large or
    no_audio_track, and PyAV's own errors for a file that it cannot open.
    """
    for back in steps_back(start):
        with av.open(str(path), metadata_errors="replace") as container:
            check_format(container, path)
            reading = _Reading(container, path, start, end, max_seconds, audio_track)
            try:
                if reading.read(back):
                    return reading.result()
            except LostError:
                if back is None:
                    raise MediaError(
                        "unreadable_video", f"{path.name} changed while it was read"
                    ) from None
    raise AssertionError("reading from the beginning cannot miss it")


class _Reading:
    """One pass over one opened file. Times in here are the file's own timestamps, in seconds."""

    def __init__(self, container, path, start, end, max_seconds, audio_track) -> None:
        self.container, self.path = container, path
        self.video, self.audio = best_streams(container, path, audio_track)
        self.origin = (container.start_time or 0) / av.time_base
        self.start = self.origin + start
        self.end = math.inf if end is None else self.origin + end
        self.max_seconds = max_seconds
        self.sound = SoundTrack(self.start, self.end)
        self.clock = clock_of(container, path)
        for stream in (self.video, self.audio):
            if self.clock is not None and stream is not None and stream.index in self.clock.strange:
                raise MediaError(
                    "unreadable_video", f"{path.name}: {self.clock.strange[stream.index]}"
                )
        self.first_frame: av.VideoFrame | None = None
        self.key_seconds: float | None = None
        self.frame_seconds: list[float] = []
        self.video_end = -math.inf
        self.video_reach = -math.inf  # with the packets that are hidden or repeat a picture
        self.num_video_packets = 0
        self.num_held_back = 0  # packets before the decoder gives the first picture
        self.times_known = True
        self.dts_only = self.video is not None and stores_dts_only(container, self.video)
        self.at_end = False
        self.broken = False
        self.failed = False
        self.num_bad_sound = 0
        self.declared_end = math.inf
        if self.clock is not None:
            ends = [self.clock.end(s) for s in self._streams()]
            self.declared_end = max((end for end in ends if end > -math.inf), default=math.inf)
        elif container.duration is not None:
            self.declared_end = self.origin + container.duration / av.time_base
        if self.declared_end < math.inf:
            self._check_length(min(self.end, self.declared_end))

    def _streams(self) -> list:
        return [s for s in (self.video, self.audio) if s is not None]

    def read(self, back: float | None) -> bool:
        """Go over the span from `back` seconds before it, or (None) from the beginning.

        False when the seek came out behind the span's start.
        """
        streams, sought = self._streams(), back is not None
        place = self.start - _PREROLL_SECONDS - (back or 0.0)
        if sought and not seek(self.container, self.clock, streams, place):
            return False
        reached = {s.index: -math.inf for s in streams}
        packets = read_packets(self.container, self.clock, streams, sought=sought)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                self.at_end = True
                break
            except av.FFmpegError:
                if self.num_video_packets == 0 and self.sound.last_seconds == -math.inf:
                    raise
                # What came before is good, and is used.
                self.at_end = self.broken = self.failed = True
                break
            if packet.stream is self.video:
                self._add_video(packet)
                late = (self.key_seconds or -math.inf) > self.start + SLACK_SECONDS
                if sought and late:
                    return False
            else:
                self._add_audio(packet)
            if packet.dts is not None:
                now = float(packet.dts * packet.time_base)
                reached[packet.stream.index] = now
                self._check_length(min(now, self.end))
                # A quarter second more lets the sound's decoder finish; a stream that is ten
                # seconds ahead of the other shows that the other has ended.
                past = [seconds >= self.end + 0.25 for seconds in reached.values()]
                if all(past) or max(reached.values()) >= self.end + 10.0:
                    break
        if sought and self.video is not None:
            return self.first_frame is not None and self.key_seconds is not None
        return not (sought and self.sound.last_seconds == -math.inf)

    def result(self) -> Scan:
        if self.num_video_packets and self.first_frame is None:
            raise MediaError(
                "unreadable_video",
                f"{self.path.name}: none of {self.num_video_packets} pictures can be decoded",
            )
        data_end = max(self.video_end, self.sound.last_seconds)
        if max(data_end, self.video_reach) == -math.inf and self.num_video_packets:
            name = self.container.format.name
            raise MediaError(
                "unreadable_video",
                f"{self.path.name} is a bare stream of {name} pictures without times; say how many "
                f"a second: ffmpeg -framerate 25 -i {self.path.name} {self.path.stem}.mp4",
            )
        if data_end == -math.inf and self.start < self.declared_end:
            raise MediaError(
                "unreadable_video",
                f"{self.path.name} ({self.path.stat().st_size:,} bytes) has a header but no "
                "picture or sound that can be read; it may be cut",
            )
        truncated = self._is_truncated(data_end)
        end = min(self.end, data_end)
        if end <= self.start:
            raise MediaError("empty_range", self._empty_range(data_end, truncated))
        sound_T = self.sound.samples(end - self.start)
        notes = list(self.sound.notes)
        if truncated:
            notes.append(f"the file breaks off at {data_end - self.origin:.2f} s")
        if self.num_bad_sound:
            notes.append(f"{self.num_bad_sound} sound packets cannot be decoded")
        if self.video is not None and not self.frame_seconds:
            notes.append("there is sound but no picture in this span")
        if self.clock is not None and self.clock.joins:
            joins = ", ".join(f"{t - self.origin:.2f}" for t in self.clock.joins[:5])
            notes.append(f"recordings were joined at {joins} s; their clocks are carried on")
        width, height = _shown_size(self.video, self.first_frame)
        cut = self._cut()
        return Scan(
            origin=self.origin,
            start=self.start - self.origin,
            end=end - self.origin,
            frame_seconds=[t - self.origin for t in sorted(self.frame_seconds)],
            times_known=self.times_known and getattr(self.first_frame, "time", None) is not None,
            video_start=self._video_start() - self.origin,
            first_frame=self.first_frame,
            truncated=truncated,
            cut_seconds=None if cut is None else cut - self.origin,
            promised_seconds=self._promised_seconds(),
            width=width,
            height=height,
            sound_T=sound_T,
            audio_track=_track_number(self.container, self.audio),
            audio_tracks=[describe_track(stream) for stream in self.container.streams.audio],
            notes=notes,
        )

    def _add_video(self, packet: av.Packet) -> None:
        if self.first_frame is None:
            try:
                self.first_frame = next(iter(packet.decode()), None)
                self.num_held_back += self.first_frame is None and packet.size > 0
            except av.FFmpegError:
                pass  # a broken picture; the next may be whole, and none at all is an error later
        if is_damaged(packet, self.clock):
            self.broken = True
            return
        rate = self.video.average_rate or self.video.guessed_rate or 25
        length = float(packet.duration * packet.time_base) if packet.duration else float(1 / rate)
        stamp = packet.dts if packet.pts is None or self.dts_only else packet.pts
        if stamp is not None:
            seconds = float(stamp * packet.time_base)
            if self.dts_only:  # a picture is shown when a later packet pushes it out
                seconds += self.num_held_back * length
            self.video_reach = max(self.video_reach, seconds + length)
        if not packet.size:
            return
        self.num_video_packets += 1
        if packet.pts is None or self.dts_only:
            self.times_known = False
        if stamp is None:
            return
        if self.key_seconds is None:
            if not packet.is_keyframe:
                return
            self.key_seconds = seconds
        if packet.is_discard:  # an edit list hides it: decoders read it and drop its picture
            return
        if seconds < self.key_seconds:
            return  # refers to pictures before the first whole one
        self.video_end = max(self.video_end, seconds + length)
        if in_span(seconds, self.start, self.end):
            self.frame_seconds.append(seconds)

    def _add_audio(self, packet: av.Packet) -> None:
        if is_damaged(packet, self.clock):
            self.broken = True
            return
        if packet.pts is not None:
            if float(packet.pts * packet.time_base) < self.start - _PREROLL_SECONDS:
                return
        try:
            for frame in packet.decode():
                self.sound.add(frame)
        except av.FFmpegError:
            self.num_bad_sound += 1

    def _check_length(self, reached: float) -> None:
        if reached - self.start > self.max_seconds:
            raise MediaError(
                "too_long",
                f"the clip of {self.path.name} is longer than {self.max_seconds:g} s; cut it into "
                "utterances with start and end, or put an .srt beside the video",
            )

    def _is_truncated(self, data_end: float) -> bool:
        if not self.at_end:
            return False
        missing = -math.inf  # a file that declares no end, such as a live recording, promises none
        if self.declared_end < math.inf:
            missing = min(self.end, self.declared_end) - data_end
        if self.video is not None and self.clock is None:
            missing = max(missing, min(self.end, self._declared_video()) - self.video_end)
        return self.broken or (math.isfinite(missing) and missing > _MISSING_SECONDS)

    def _cut(self) -> float | None:
        """Where the file breaks off before the span's end; None where that is not certain.

        Stricter than `_is_truncated`, which only chooses a decoder: hidden packets count as there,
        and a length that FFmpeg guessed, or a damaged packet half way, proves nothing.
        """
        if not self.at_end:
            return None
        reach = max(self.video_reach, self.sound.last_seconds)
        if self.failed and self.declared_end == math.inf and reach < self.end - _MISSING_SECONDS:
            return reach
        promises = [
            (self._declared_end(self.video), self.video_reach),
            (self._declared_end(self.audio), self.sound.last_seconds),
        ]
        # The whole file's length is that of its longest stream, which may be one of no use here.
        others = [
            stream
            for stream in self.container.streams
            if stream.type in ("video", "audio", "subtitle")
            and stream not in (self.video, self.audio)
        ]
        silent = all(end == -math.inf for end, _ in promises)
        if silent and not others and self._is_declared():
            promises = [(self.declared_end, reach)]
        cuts = [
            reach
            for declared, reach in promises
            if _MISSING_SECONDS < min(self.end, declared) - reach < math.inf
        ]
        return min(cuts, default=None)

    def _is_declared(self) -> bool:
        return not set(self.container.format.name.split(",")).isdisjoint(DECLARING)

    def _declared_end(self, stream) -> float:
        """Where a stream ends by the word of its header; -inf where that says nothing."""
        if stream is None or not self._is_declared():
            return -math.inf
        if stream is self.audio and self.num_bad_sound:
            return -math.inf
        declared = -math.inf
        if stream.duration is not None:
            declared = float(stream.duration * stream.time_base)
        if self.container.format.name == "avi" and stream is self.video and stream.average_rate:
            declared = max(declared, float(stream.frames / stream.average_rate))
        return declared + float((stream.start_time or 0) * stream.time_base)

    def _promised_seconds(self) -> float | None:
        known = [self._declared_end(self.video), self._declared_end(self.audio), self.declared_end]
        promised = max((end for end in known if math.isfinite(end)), default=None)
        return None if promised is None else promised - self.origin

    def _declared_video(self) -> float:
        """Where the pictures end by the word of their stream; -inf where it says nothing."""
        declared = -math.inf
        if self.video.duration is not None:
            declared = float(self.video.duration * self.video.time_base)
        if self.video.frames and self.video.average_rate:  # all that a cut AVI tells
            declared = max(declared, float(self.video.frames / self.video.average_rate))
        return declared + self._video_start()

    def _video_start(self) -> float:
        if self.video is None:
            return self.origin
        if self.video.start_time is not None:
            return float(self.video.start_time * self.video.time_base)
        return self.origin if self.key_seconds is None else self.key_seconds

    def _empty_range(self, data_end: float, truncated: bool) -> str:
        known = data_end if math.isfinite(data_end) else self.declared_end
        ends = (
            f"ends at {known - self.origin:.2f} s" if math.isfinite(known) else "has ended by then"
        )
        cut = " (it breaks off there)" if truncated else ""
        return (
            f"the clip starts at {self.start - self.origin:.2f} s, but {self.path.name} {ends}{cut}"
        )


def _track_number(container, audio) -> int | None:
    return next((n for n, stream in enumerate(container.streams.audio) if stream is audio), None)


def _shown_size(stream, frame: av.VideoFrame | None) -> tuple[int, int]:
    """Width and height of `frame` turned upright and with square pixels."""
    if frame is None:
        return 0, 0
    width, height = frame.width, frame.height
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    # Old PAL and NTSC tapes are off by a few percent, which no detector minds; DVDs by 40.
    if aspect and abs(aspect - 1) > 0.1:
        width = 2 * round(width * aspect / 2)
    return orientation_of(frame).size(width, height)
