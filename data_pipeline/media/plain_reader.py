"""A video read from its first picture to its last: what the decoder is held against.

Written down anew, with no code of the decoder: one pass of PyAV, no seeking, the pictures upright
and progressive by FFmpeg's own filters, the times carried on where a joined file's clock restarts.
"""

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import Type

_THUMB = (48, 36)
"""Width and height of the pictures by which another decoder's are recognised."""


@dataclass(kw_only=True)
class Plain:
    """A plain reading of a whole file."""

    container: str
    codec: str
    origin: float
    """Timestamp of time 0."""
    seconds_N: np.ndarray
    digests: list[bytes]
    """Of each frame's RGB bytes, upright."""
    thumbs_N: np.ndarray
    """uint8 [N, 36, 48]."""
    cost: float


def read_plainly(
    path: Path, width: int, height: int, box: tuple[float, float, float, float] = (0, 0, 1, 1)
) -> Plain:
    """Decode `path` from its first frame to its last and show it `width` x `height`; of each
    picture only `box` is kept: x0 y0 x1 y1, as shares of its sides."""
    begun = time.process_time()
    pts, dts, digests, thumbs, matrix = [], [], [], [], None
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        origin = (container.start_time or 0) / av.time_base
        step = float(1 / (stream.average_rate or 25))
        picture = _Picture(width, height, box)
        joins: list[tuple[float, float]] = []
        for frame in _decoded(container, stream, joins):
            pts.append(frame.time)
            dts.append(None if frame.dts is None else float(frame.dts * frame.time_base))
            matrix = matrix or frame.side_data.get(Type.DISPLAYMATRIX)
            for rgb in picture.add(frame, matrix):
                digests.append(digest(rgb))
                thumbs.append(thumbnail(rgb))
        for rgb in picture.add(None, matrix):
            digests.append(digest(rgb))
            thumbs.append(thumbnail(rgb))
        kinds = container.format.name, stream.codec_context.name
    used = time.process_time() - begun
    return Plain(
        container=kinds[0],
        codec=kinds[1],
        origin=origin,
        seconds_N=np.array(_even_times(pts, dts, step, joins)) - origin,
        digests=digests,
        thumbs_N=np.stack(thumbs),
        cost=used,
    )


class _Picture:
    """Frames to upright RGB by one filter graph for all, as a player would have it."""

    def __init__(self, width: int, height: int, box: tuple[float, ...]) -> None:
        self.width, self.height = width, height
        self.columns = [i for i in range(width) if box[0] * width <= i + 0.5 < box[2] * width]
        self.rows = [i for i in range(height) if box[1] * height <= i + 0.5 < box[3] * height]
        self.graph = None

    def add(self, frame: av.VideoFrame | None, matrix) -> Iterator[np.ndarray]:
        turn = np.eye(2, dtype=int) if matrix is None else _turn(matrix)
        kind = None if frame is None else (frame.width, frame.height, frame.format.name)
        if self.graph is not None and kind != self.kind:
            self.graph.push(None)
            yield from self._pull(turn)
            self.graph = None
        if frame is None:
            return
        if self.graph is None:
            self.kind = kind
            self.graph = av.filter.Graph()
            source = self.graph.add_buffer(
                width=frame.width,
                height=frame.height,
                format=frame.format,
                time_base=frame.time_base,
            )
            # Of frames that do not say they are interlaced yadif's family gives back the very same.
            whole = self.graph.add("bwdif", "0:-1:1")
            self.graph.link_nodes(source, whole, self.graph.add("buffersink")).configure()
            self.count = 0
        frame.pts = self.count
        self.count += 1
        self.graph.push(frame)
        yield from self._pull(turn)

    def _pull(self, turn: np.ndarray) -> Iterator[np.ndarray]:
        while True:
            try:
                out = self.graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            size = (self.width, self.height) if turn[0, 0] else (self.height, self.width)
            rgb = out.reformat(*size, format="rgb24", interpolation="BILINEAR").to_ndarray()
            yield _turned(rgb, turn)[np.ix_(self.rows, self.columns)]


def _turn(matrix) -> np.ndarray:
    """[2, 2] of -1, 0, 1: (x, y) @ it is where the stored point (x, y) is shown."""
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32) / 65536
    return np.rint([[a, b], [c, d]]).astype(int)


def _turned(rgb: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Every pixel put where the matrix sends it."""
    if (turn == np.eye(2)).all():
        return rgb
    y, x = np.indices(rgb.shape[:2])
    to_x, to_y = (x * turn[0, k] + y * turn[1, k] for k in (0, 1))
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    shown = np.empty((to_y.max() + 1, to_x.max() + 1, 3), np.uint8)
    shown[to_y, to_x] = rgb
    return shown


def _decoded(container, stream, joins: list) -> Iterator[av.VideoFrame]:
    """All whole frames. `joins` gets the end, by the packets, of what comes before each restart of
    the clock and the first time behind it."""
    packets = container.demux(stream)
    mpeg = container.format.name in ("mpeg", "mpegts")
    end = before = None
    while True:
        try:
            packet = next(packets)
            if mpeg and packet.pts is not None and packet.dts is not None:
                base = packet.time_base
                if before is not None and _restarts(before, float(packet.dts * base)):
                    joins.append((end, float(packet.pts * base)))
                    end = None
                before = float(packet.dts * base)
                end = max(end or 0.0, float((packet.pts + (packet.duration or 0)) * base))
            frames = packet.decode()
        except StopIteration:
            return
        except av.FFmpegError:
            continue
        yield from (frame for frame in frames if not frame.is_corrupt)


def _restarts(before: float, second: float) -> bool:
    """As the program ffmpeg sees it in MPEG streams."""
    return not -0.1 <= second - before <= 10.0


def _even_times(pts: list, dts: list, step: float, joins: list) -> list[float]:
    """The times that the frames carry; of decoding where those of showing go back and forth; and
    carried on where a joined file's clock starts anew."""
    steps = np.diff(np.array([math.nan if t is None else t for t in pts]))
    times, shift, before = [], 0.0, None
    for second in pts if (steps > 0).mean() >= 0.9 else dts:
        if second is None:
            times.append(times[-1] + step)
            continue
        if joins and before is not None and _restarts(before, second):
            end, begin = joins.pop(0)
            shift += end - begin
        before = second
        times.append(second + shift)
    return times


def digest(rgb: np.ndarray) -> bytes:
    """Of a picture's bytes: equal where the pictures are equal to the bit."""
    return hashlib.blake2b(np.ascontiguousarray(rgb), digest_size=16).digest()


def thumbnail(rgb: np.ndarray) -> np.ndarray:
    """uint8 [36, 48] grey of a uint8 [H, W, 3] picture."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    return frame.reformat(*_THUMB, format="gray", interpolation="AREA").to_ndarray()
