"""A span's pictures by PyAV, each the one that a reading from the file's first picture would give.

    for seconds, frame in decode_video(path, scan(path, start, end, max_seconds)): ...

A span far into a file is sought. Decoding begins at an entry (data_pipeline.entry) at least one
picture before it, what comes out before that entry's own picture is dropped, and the span's first
picture must be the one that the packets promise; else the seek goes 1, 5, 15 and 60 s back, and
then everything from the beginning is decoded. tests/data_pipeline/test_decode_check.py and
`python -m data_pipeline.decode_check` hold the outcome against a plain reading.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
from av.video.frame import PictureType

from data_pipeline.demux import (
    SLACK_SECONDS,
    MediaError,
    Scan,
    best_streams,
    clock_of,
    in_span,
    is_damaged,
    read_packets,
    seek,
    steps_back,
    stores_dts_only,
)
from data_pipeline.entry import Entries
from data_pipeline.mpeg_clock import LostError

_MARGIN_SECONDS = 0.1
"""A picture before the span: deinterlacing looks at its neighbours."""
_REORDER_SECONDS = 2.0
"""Pictures are stored at most so far from their turn, amply: behind it no entry is looked for."""


class _LateError(Exception):
    """A seek came out where the span's first picture cannot be told to be right."""


def decode_video(path: Path, found: Scan) -> Iterator[tuple[float, av.VideoFrame]]:
    """(seconds from the file's time 0, frame) of each frame of the span, times increasing.

    Frames that come out damaged are left out; interlaced ones are made whole.
    """
    last = -math.inf
    for back in steps_back(found.start):
        with av.open(str(path), metadata_errors="replace") as container:
            try:
                for seconds, frame in _Pass(container, path, found).frames(back):
                    if seconds > last:  # else it came before the seek was given up
                        yield seconds, frame
                    last = max(last, seconds)
                return
            except (_LateError, LostError) as error:
                if back is None:
                    raise MediaError(
                        "unreadable_video", f"{path.name} changed while it was read"
                    ) from error


class _Pass:
    """One reading of the file, from `back` seconds before the span or from its beginning."""

    def __init__(self, container, path: Path, found: Scan) -> None:
        self.container, self.found = container, found
        self.stream, _ = best_streams(container, path)
        self.stream.codec_context.thread_count = 1  # extraction runs a process a core
        self.clock = clock_of(container, path)
        self.dts_only = stores_dts_only(container, self.stream)

    def frames(self, back: float | None) -> Iterator[tuple[float, av.VideoFrame]]:
        found, last = self.found, -math.inf
        timed = self._timed(self._from_entry(back) if back is not None else self._all())
        given = False
        for seconds, frame in deinterlaced(timed):
            if seconds >= found.end - SLACK_SECONDS and (given or back is None):
                return
            if seconds > last and in_span(seconds, found.start, found.end):
                if back is not None and not given:
                    self._check_first(seconds)
                given = True
                yield seconds, frame
            last = max(last, seconds)
        if back is not None and not given:
            raise _LateError

    def _all(self) -> Iterator[av.VideoFrame]:
        return self._whole(read_packets(self.container, self.clock, [self.stream], sought=False))

    def _from_entry(self, back: float) -> Iterator[av.VideoFrame]:
        """Frames from the first entry behind the seek on."""
        start = self.found.origin + self.found.start - _MARGIN_SECONDS
        if not seek(self.container, self.clock, [self.stream], start - back):
            raise _LateError
        packets = read_packets(self.container, self.clock, [self.stream], sought=True)
        entry = self._first_entry(packets, start)
        pts = entry.pts  # decoding takes it from the packet
        frames = self._whole(itertools.chain([entry], packets))
        for frame in frames:
            if frame.pict_type == PictureType.I if self.dts_only else frame.pts == pts:
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
                yield seconds - self.found.origin, frame

    def _check_first(self, seconds: float) -> None:
        promised = self.found.frame_seconds
        if self.dts_only:
            return
        if not promised or abs(seconds - promised[0]) > SLACK_SECONDS:
            raise _LateError


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
            if previous is not None:
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
