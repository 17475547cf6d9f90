"""A span's pictures by PyAV, each the one that a reading from the file's first picture would give.

    for seconds, frame in decode_video(path, scan(path, start, end, max_seconds)): ...

A span far into a file is sought. Decoding begins at an entry (data_pipeline.media.entry) at least
one picture before it, what comes out before that entry's own picture is dropped, and the span's
first picture must be the one that the packets promise; else the seek goes 1, 5, 15 and 60 s back,
and then everything from the beginning is decoded, once for clips of one file that come in order.
`python -m data_pipeline.media.decode_check` and its test hold the outcome against a plain reading.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
from av.video.frame import PictureType

from data_pipeline.media.container import (
    SLACK_SECONDS,
    MediaError,
    best_streams,
    clock_of,
    in_span,
    is_damaged,
    read_packets,
    seek,
    steps_back,
    stores_dts_only,
)
from data_pipeline.media.demux import Scan
from data_pipeline.media.entry import Entries
from data_pipeline.media.mpeg_clock import LostError

_MARGIN_SECONDS = 0.1
"""A picture before the span: deinterlacing looks at its neighbours."""
_REORDER_SECONDS = 2.0
"""Pictures are stored at most so far from their turn, amply: behind it no entry is looked for."""


class _LateError(Exception):
    """A seek came out where the span's first picture cannot be told to be right."""


class _FirstError(_LateError):
    """There is no entry before the span but the file's first picture."""


def decode_video(path: Path, found: Scan) -> Iterator[tuple[float, av.VideoFrame]]:
    """(seconds from the file's time 0, frame) of each frame of the span, times increasing.

    Frames that come out damaged are left out; interlaced ones are made whole.
    """
    last, from_first = -math.inf, False
    for back in steps_back(found.start):
        if from_first and back is not None:
            continue
        try:
            for seconds, frame in _sought(path, found, back):
                if seconds > last:  # else it came before a seek was given up
                    yield seconds, frame
                last = max(last, seconds)
            return
        except (_LateError, LostError) as error:
            from_first = isinstance(error, _FirstError)
            if back is None:
                raise MediaError(
                    "unreadable_video", f"{path.name} changed while it was read"
                ) from error


def _sought(path: Path, found: Scan, back: float | None) -> Iterator[tuple[float, av.VideoFrame]]:
    """The span's frames, decoded from an entry `back` seconds before it, or from the beginning."""
    if back is None:
        yield from _in_order(path, found)
        return
    with _Pass(path, found.origin) as reading:
        given, first = False, None
        for seconds, frame in deinterlaced(reading.from_entry(found.start, back)):
            first = seconds if first is None else first
            if first > found.start + SLACK_SECONDS:
                raise _LateError
            if seconds >= found.end - SLACK_SECONDS:
                break
            if in_span(seconds, found.start, found.end):
                if not given and not reading.dts_only:
                    _check_first(seconds, found)
                given = True
                yield seconds, frame
        if not given:
            raise _LateError


def _check_first(seconds: float, found: Scan) -> None:
    promised = found.frame_seconds
    if not promised or abs(seconds - promised[0]) > SLACK_SECONDS:
        raise _LateError


_kept: list["_InOrder"] = []
"""At most one: a file read in order so far, for the next clip of a file that cannot be sought."""


def _in_order(path: Path, found: Scan) -> Iterator[tuple[float, av.VideoFrame]]:
    name = (str(path), path.stat().st_mtime_ns, path.stat().st_size)
    reading = _kept.pop() if _kept else None
    if reading is None or reading.name != name or reading.passed >= found.start - SLACK_SECONDS:
        if reading is not None:
            reading.close()
        reading = _InOrder(path, name, found.origin)
    try:
        for seconds, frame in reading.until(found.end - SLACK_SECONDS):
            if in_span(seconds, found.start, found.end):
                yield seconds, frame
        if len(steps_back(found.start)) > 1 and reading.waiting is not None:
            _kept.append(reading)
    finally:
        if reading not in _kept:
            reading.close()


class _InOrder:
    """A file's frames from the first on, of which `until` gives the next ones."""

    def __init__(self, path: Path, name: tuple[str, int, int], origin: float) -> None:
        self.name = name
        self.passed = -math.inf
        """Seconds of the last frame that is gone."""
        self.waiting: tuple[float, av.VideoFrame] | None = None
        self._pass = _Pass(path, origin)
        self._frames = deinterlaced(self._pass.all())

    def until(self, end: float) -> Iterator[tuple[float, av.VideoFrame]]:
        while True:
            if self.waiting is None:
                self.waiting = next(self._frames, None)
            if self.waiting is None or self.waiting[0] >= end:
                return
            timed, self.waiting = self.waiting, None
            if timed[0] > self.passed:
                self.passed = timed[0]
                yield timed

    def close(self) -> None:
        self._frames.close()
        self._pass.container.close()


class _Pass:
    """One opening of the file."""

    def __init__(self, path: Path, origin: float) -> None:
        self.container = av.open(str(path), metadata_errors="replace")
        self.origin = origin
        self.stream, _ = best_streams(self.container, path)
        self.stream.codec_context.thread_count = 1  # extraction runs a process a core
        self.clock = clock_of(self.container, path)
        self.dts_only = stores_dts_only(self.container, self.stream)

    def __enter__(self) -> "_Pass":
        return self

    def __exit__(self, *error) -> None:
        self.container.close()

    def all(self) -> Iterator[tuple[float, av.VideoFrame]]:
        packets = read_packets(self.container, self.clock, [self.stream], sought=False)
        return self._timed(self._whole(packets))

    def from_entry(self, start: float, back: float) -> Iterator[tuple[float, av.VideoFrame]]:
        return self._timed(self._from_entry(start, back))

    def _from_entry(self, start: float, back: float) -> Iterator[av.VideoFrame]:
        """Frames from the first entry behind the seek on."""
        start += self.origin - _MARGIN_SECONDS
        if not seek(self.container, self.clock, [self.stream], start - back):
            raise _LateError
        packets = read_packets(self.container, self.clock, [self.stream], sought=True)
        entry = self._first_entry(packets, start)
        pts = entry.pts  # decoding takes it from the packet
        frames = self._whole(itertools.chain([entry], packets))
        for frame in frames:
            intra = frame.pict_type == PictureType.I or self.stream.codec_context.codec.intra_only
            if intra if self.dts_only else frame.pts == pts:
                if not intra:  # some files call every picture a key picture
                    break
                return itertools.chain([frame], frames)
            if not self.dts_only and frame.pts is not None and frame.pts > pts:
                break
        raise _LateError

    def _first_entry(self, packets: Iterator[av.Packet], start: float) -> av.Packet:
        is_entry = Entries(self.stream)
        for packet in packets:
            ticks = packet.dts if self.dts_only or packet.pts is None else packet.pts
            if ticks is not None and float(ticks * packet.time_base) > start + _REORDER_SECONDS:
                break
            if is_entry(packet):
                if ticks is None or float(ticks * packet.time_base) > start:
                    break
                if ticks <= (self.stream.start_time or 0):
                    raise _FirstError
                return packet
        raise _LateError

    def _whole(self, packets: Iterator[av.Packet]) -> Iterator[av.VideoFrame]:
        """Their frames, but those that are damaged, by the word of the packet or the decoder."""
        torn = set()
        while True:
            try:
                packet = next(packets)
                if is_damaged(packet, self.clock):
                    torn.add(packet.pts)
                frames = packet.decode()
            except StopIteration:
                return
            except av.InvalidDataError:
                continue
            yield from (f for f in frames if not f.is_corrupt and f.pts not in torn)

    def _timed(self, frames: Iterable[av.VideoFrame]) -> Iterator[tuple[float, av.VideoFrame]]:
        """With the seconds from the file's time 0; frames that have no time are left out."""
        step = float(1 / (self.stream.average_rate or 25))
        seconds = None
        for frame in frames:
            if not self.dts_only:
                seconds = frame.time
            elif frame.dts is not None:
                seconds = float(frame.dts * frame.time_base)
            elif seconds is not None:  # the last ones, which no packet pushed out
                seconds += step
            if seconds is not None:
                yield seconds - self.origin, frame


def deinterlaced(timed: Iterable[tuple[float, av.VideoFrame]]) -> Iterator:
    """(seconds, frame) with the frames that say they are interlaced made whole, one for one.

    BWDIF fills each frame's missing lines from its neighbours; a frame that is not interlaced comes
    out as it went in. The filter is started at the first interlaced frame.
    """
    weave: _Weave | None = None
    previous: tuple[float, av.VideoFrame] | None = None
    for seconds, frame in timed:
        if weave is not None and not weave.fits(frame):
            yield from weave.finish()
            weave = previous = None
        if weave is None and frame.interlaced_frame:
            weave = _Weave(frame)
            if previous is not None and weave.fits(previous[1]):
                weave.push(*previous, given=True)
        if weave is None:
            yield seconds, frame
        else:
            yield from weave.push(seconds, frame)
        previous = seconds, frame
    if weave is not None:
        yield from weave.finish()


class _Weave:
    """The filter for frames of one size and format; it gives a frame when the next has come."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self._kind = (frame.width, frame.height, frame.format.name)
        self._graph = av.filter.Graph()
        source = self._graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        bwdif = self._graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
        self._graph.link_nodes(source, bwdif, self._graph.add("buffersink")).configure()
        self._inside: deque[tuple[float, bool, av.VideoFrame]] = deque()
        self._count = 0

    def fits(self, frame: av.VideoFrame) -> bool:
        return (frame.width, frame.height, frame.format.name) == self._kind

    def push(self, seconds: float, frame: av.VideoFrame, given: bool = False) -> list:
        """What comes out. `given`: this frame only serves as the next one's neighbour."""
        self._inside.append((seconds, given, frame))
        frame.pts = self._count  # the times are kept here
        self._count += 1
        self._graph.push(frame)
        return self._pull()

    def finish(self) -> list:
        self._graph.push(None)
        return self._pull()

    def _pull(self) -> list:
        out = []
        while self._inside:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                break
            seconds, given, whole = self._inside.popleft()
            if not given:
                out.append((seconds, frame if whole.interlaced_frame else whole))
        return out
