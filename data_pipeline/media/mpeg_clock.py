"""The clock of MPEG-TS and MPEG-PS files, which have no index and may start their clock anew.

One pass over all packets, without decoding (0.2 s for twenty minutes of video), gives the time of
each. Where the clock restarts, because files were joined byte after byte, it is carried on: the
picture goes on one step after the last, and the sound keeps its distance to it, as with `ffmpeg`
(ts_discontinuity_process in ffmpeg_demux.c). Then a place can be sought by its byte, and the
packets there are known again by byte and size: what FFmpeg says of their times after a seek in
these files is a guess.
"""

import functools
import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

MPEG = ("mpeg", "mpegts")
"""FFmpeg's names of the two formats."""
_BACK_SECONDS = 0.1
_AHEAD_SECONDS = 10.0
"""Steps by which a clock is said to restart: back by more, or ahead by more. As ffmpeg's."""
_SAME_SECONDS = 1.0
"""Picture and sound restart together when their steps differ by less."""
_LEAD = 5
"""Packets of known place to go back by: what follows a seek may lack its beginning, and in program
streams dozens of small pictures may share one place."""
_REORDER = 16
"""Pictures among which the first to be shown is looked for: as many as a codec may hold back."""
_NONE = np.iinfo(np.int64).min


class LostError(Exception):
    """The packets behind a seek are not those of the index."""


class _Track:
    """The packets of one stream in the order of the file; times in ticks of its time base."""

    def __init__(self, rows: array, time_base: float) -> None:
        """rows: position, size, pts, dts, length, is it key, of one packet after the other."""
        table = np.array(rows, dtype=np.int64).reshape(-1, 6).T.copy()
        self.position_N, self.size_N, self.pts_N, self.dts_N, self.length_N, key_N = table
        self.key_N = key_N.astype(bool)
        self.time_base = time_base

    def __len__(self) -> int:
        return len(self.size_N)

    def find(self, position: int | None, size: int) -> int | None:
        """The packet that begins at byte `position`; None where there is no such one."""
        rows = np.flatnonzero((self.position_N == position) & (self.size_N == size))
        return int(rows[0]) if position is not None and len(rows) else None

    def last_key_before(self, seconds: float) -> int | None:
        sure_N = self.key_N & (self.pts_N != _NONE)
        rows = np.flatnonzero(sure_N & (self.pts_N <= seconds / self.time_base))
        return int(rows[-1]) if len(rows) else None

    def restarts(self) -> list[tuple[int, float]]:
        """(packet, step in seconds) where the clock does not go on."""
        row_K = np.flatnonzero((self.dts_N != _NONE) & (self.pts_N != _NONE))
        step_K = np.diff(self.dts_N[row_K]) * self.time_base
        breaks = np.flatnonzero((step_K < -_BACK_SECONDS) | (step_K > _AHEAD_SECONDS)) + 1
        bounds = [0, *breaks.tolist(), len(row_K)]
        found = []
        for first, middle, last in zip(bounds, breaks, bounds[2:], strict=False):
            before, behind = row_K[first:middle], row_K[middle:last]
            # What is shown first need not be stored first.
            end = (self.pts_N[before] + self.length_N[before]).max()
            begin = self.pts_N[behind[:_REORDER]].min()
            found.append((int(behind[0]), float(begin - end) * self.time_base))
        return found

    def carry(self, restarts: list[tuple[int, float]]) -> None:
        """Take back each step from its packet on."""
        for ticks_N in (self.pts_N, self.dts_N):
            for row, step in restarts:
                ticks_N[row:][ticks_N[row:] != _NONE] -= round(step / self.time_base)


class MpegClock:
    """Times of all packets of a file: `packets` reads them, from the beginning or a place on."""

    def __init__(self, path: str) -> None:
        self._tracks: dict[int, _Track] = {}
        self.strange: dict[int, str] = {}
        """Stream number to why its times cannot be told."""
        self.joins: list[float] = []
        """Seconds on the carried clock where it restarted."""
        self._last_before_join: set[tuple[int, int]] = set()
        with av.open(path, metadata_errors="replace") as container:
            video = container.streams.best("video")
            number = None if video is None else video.index  # a closed file's streams are gone
            self._read(container)
        self._carry_on(number)

    def end(self, stream) -> float:
        """Where the stream's last packet ends, in seconds; -inf without packets."""
        track = self._tracks.get(stream.index)
        if track is None or not (track.pts_N != _NONE).any():
            return -np.inf
        end_N = (track.pts_N + track.length_N)[track.pts_N != _NONE]
        return float(end_N.max() * track.time_base)

    def damaged(self, packet: av.Packet) -> bool:
        """Parts of the packet are missing. Not so before a join, where only the counter jumps."""
        here = (packet.stream_index, packet.pts)
        return packet.is_corrupt and here not in self._last_before_join

    def seek(self, container, streams, seconds: float) -> bool:
        """Go to shortly before the last key packets up to `seconds`; False where that fails."""
        positions = []
        for stream in streams:
            track = self._tracks.get(stream.index)
            row = None if track is None else track.last_key_before(seconds)
            if row is not None:
                known_K = track.position_N[: row + 1]
                positions += known_K[known_K >= 0][-_LEAD:][:1].tolist()
        if not positions:
            return False
        try:
            container.seek(min(positions), unsupported_byte_offset=True)
        except av.FFmpegError:
            return False
        return True

    def packets(self, container, streams, *, sought: bool) -> Iterator[av.Packet]:
        """The packets of `streams` from where `container` is, with the carried times.

        Raises LostError when they are not those of the first pass.
        """
        rows = {s.index: None if sought else 0 for s in streams}
        for packet in container.demux(streams):
            if not packet.size and packet.dts is None:  # the end: it empties the decoder
                yield packet
                continue
            number = packet.stream_index
            track, row = self._tracks.get(number), rows[number]
            if track is None:
                raise LostError
            if row is None:
                row = track.find(packet.pos, packet.size)
                if row is None:
                    continue
            if row >= len(track) or track.size_N[row] != packet.size:
                raise LostError
            packet.pts, packet.dts = (
                None if t[row] == _NONE else int(t[row]) for t in (track.pts_N, track.dts_N)
            )
            rows[number] = row + 1
            yield packet

    def _read(self, container) -> None:
        rows: dict[int, array] = {}
        packets = container.demux(
            [s for s in container.streams if s.type in ("video", "audio") and s.codec_context]
        )
        while True:
            try:
                packet = next(packets)
            except (StopIteration, av.FFmpegError):  # what comes before an error is read as well
                break
            if not packet.size and packet.dts is None:
                continue
            rows.setdefault(packet.stream_index, array("q")).extend(
                (
                    -1 if packet.pos is None else packet.pos,
                    packet.size,
                    _NONE if packet.pts is None else packet.pts,
                    _NONE if packet.dts is None else packet.dts,
                    packet.duration or 0,
                    packet.is_keyframe,
                )
            )
        for number, row in rows.items():
            time_base = float(container.streams[number].time_base)
            self._tracks[number] = _Track(row, time_base)

    def _carry_on(self, video: int | None) -> None:
        found = {number: track.restarts() for number, track in self._tracks.items()}
        if video not in found:  # sound alone
            for number, restarts in found.items():
                self._carry(number, restarts)
            return
        lead, others = found.pop(video), list(found.values())
        # A step ahead of the picture alone is a hole in it.
        lead = [r for r in lead if r[1] < 0 or not others or any(_together(r, o) for o in others)]
        track = self._tracks[video]
        self._carry(video, lead)
        self.joins = [float(track.dts_N[row] * track.time_base) for row, _ in lead]
        for number, restarts in found.items():
            last = self._tracks[number].position_N.max()
            heard = [(row, step) for row, step in lead if track.position_N[: row + 1].max() < last]
            pairs = _pairs(heard, restarts)
            if pairs is None:
                self.strange[number] = (
                    "the clocks of picture and sound restart apart from each other, so what "
                    "belongs together cannot be told; cut the file where its recordings were joined"
                )
            else:
                self._carry(number, pairs)

    def _carry(self, number: int, restarts: list[tuple[int, float]]) -> None:
        track = self._tracks[number]
        track.carry(restarts)
        for row, _ in restarts:
            # FFmpeg marks the last packet or, where a parser holds one back, that before it.
            last = track.pts_N[max(0, row - 2) : row].tolist()
            self._last_before_join |= {(number, pts) for pts in last}


def _together(restart, others) -> bool:
    return any(abs(restart[1] - step) < _SAME_SECONDS for _, step in others)


def _pairs(ours, theirs) -> list[tuple[int, float]] | None:
    """`theirs` restarts with the steps of `ours`; None where they do not belong together."""
    pairs, ours = [], list(ours)
    for row, step in theirs:
        if ours and abs(ours[0][1] - step) < _SAME_SECONDS:
            pairs.append((row, ours.pop(0)[1]))
        elif step < 0:
            return None  # a step ahead is a hole in the sound
    return None if ours else pairs


def mpeg_clock(path: Path) -> MpegClock:
    """Of an MPEG file; kept for the clips of one file that come after another."""
    stat = os.stat(path)
    return _clock(str(path), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=2)
def _clock(path: str, _mtime_ns: int, _size: int) -> MpegClock:
    return MpegClock(path)
