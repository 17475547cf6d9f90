"""A span's pictures by decord, given only where each is shown to be the one at its time.

decord's accurate seek and its skip_frames land on other pictures in real files (WMV, MPEG-4 with
B-frames, HEVC with open GOPs, intra refresh), it repeats pictures where data are missing, and it
decodes the rest of the file into memory while one works on a picture. So it reads in order from the
file's first picture, and each picture is held against PyAV's: it must be nearer to the one at its
time than to those beside it. That costs both decoders; PyAV alone is the quick way.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 256_000_000
"""Of all pictures of a file: decord keeps what nobody fetched."""
_MAX_DIFFERENCE = 1.5
"""Mean over a picture, of 255: both scale and convert by the same library, not by one setting."""


class DecordUnfitError(Exception):
    """Why decord's pictures of this clip are not used."""


def open_decord(path: Path, size: tuple[int, int], num_frames: int) -> tuple[Any, np.ndarray]:
    """decord's reader and the times of all pictures, seconds from the first.

    size: width and height to scale to. num_frames: so many it must have.
    """
    try:
        import decord
    except ImportError:
        raise DecordUnfitError("decord is not installed") from None
    decord.logging.set_level(decord.logging.QUIET)
    try:
        # One thread: decord's own choice, 0, was the slowest.
        reader = decord.VideoReader(str(path), num_threads=1, width=size[0], height=size[1])
        if len(reader) * 3 * size[0] * size[1] > MAX_BYTES:
            raise DecordUnfitError("the file is long, and decord would hold all its frames")
        stamps_N = reader.get_frame_timestamp(range(len(reader)))[:, 0].astype(np.float64)
    except (RuntimeError, decord.DECORDError, IndexError) as error:
        raise DecordUnfitError(f"decord cannot read it ({_last_words(error)})") from error
    if len(stamps_N) < num_frames:
        raise DecordUnfitError("decord counts fewer frames than the file has")
    return reader, stamps_N


def check_pictures(
    reader: Any, stamps_N: np.ndarray, truth: Iterable[tuple[float, np.ndarray]]
) -> Iterator[tuple[float, np.ndarray]]:
    """(seconds, decord's picture) for each (seconds, PyAV's picture) of `truth`.

    Raises DecordUnfitError at the first picture that is not that of its time.
    """
    at, previous = 0, None
    waiting: tuple[float, np.ndarray, float] | None = None
    for seconds, ours in truth:
        if waiting is not None:
            _check_nearest(*waiting[1:], ours)
            yield waiting[:2]
        wanted = int(np.argmin(np.abs(stamps_N - seconds)))
        if abs(stamps_N[wanted] - seconds) > 2e-3 or wanted < at:
            raise DecordUnfitError("decord's frame times are not the file's")
        theirs = _read_on(reader, wanted - at)
        at = wanted + 1
        off = _difference(theirs, ours)
        if off > _MAX_DIFFERENCE:
            raise DecordUnfitError("decord's pictures do not belong to their times")
        if previous is not None:
            _check_nearest(theirs, off, previous)
        waiting, previous = (seconds, theirs, off), ours
    if waiting is not None:
        yield waiting[:2]


def _read_on(reader: Any, num_between: int) -> np.ndarray:
    from decord import DECORDError

    try:
        for _ in range(num_between):
            reader.next()
        return reader.next().asnumpy()
    except (RuntimeError, DECORDError, StopIteration) as error:
        raise DecordUnfitError(f"decord gave up ({_last_words(error)})") from error


def _check_nearest(theirs: np.ndarray, off: float, neighbour: np.ndarray) -> None:
    if _difference(theirs, neighbour) < off:
        raise DecordUnfitError("decord's pictures do not belong to their times")


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.int16) - b).mean())


def _last_words(error: Exception) -> str:
    """What decord complains of, without its source lines and stack trace."""
    lines = str(error).strip().splitlines()
    return lines[0].rpartition("Check failed: ")[2][-100:] if lines else "the end came early"
