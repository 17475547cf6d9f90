"""Does the decoder give the right pictures of my files, and what does it cost?

    python -m data_pipeline.media.decode_check FOLDER_OR_VIDEO... [--output docs/results/decoding]

Of every file, spans of a second from seeded starts are decoded as extraction does, with every frame
kept, and held against a plain reading of the file from its first picture to its last with PyAV: the
pictures must be equal to the bit and the times to a millisecond. The plain reading
(plain_reader.py) shares no code with the decoder. decord stands beside them as one would use it by
itself: go to the first picture of the span, take the next ones.

Prints a table, writes OUTPUT.csv and OUTPUT.md when asked, and ends with 1 if anything differs.
Costs are seconds of CPU time for a second of video, opening and sound included where the decoder
does that.
"""

import csv
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import av
import numpy as np

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.files.atomic import atomic_file
from data_pipeline.markdown import markdown_table
from data_pipeline.media.clip_media import MediaError, open_clip
from data_pipeline.media.plain_reader import Plain, digest, read_plainly, thumbnail
from data_pipeline.paths import path_argument
from data_pipeline.schema import Clip

NUM_STARTS = 20
SPAN_SECONDS = 1.0
_SAME_TIME = 1e-3
_CLEAR = 2e-3
"""Spans begin and end at least so far from any frame's time: rounding must not decide."""
COLUMNS = (
    *("file", "container, codec", "frames", "starts", "pictures", "pictures that differ"),
    *("times that differ", "default", "plain", "decord", "decord: other pictures"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One file. Costs in CPU seconds for a second of video."""

    file: str
    container: str = ""
    codec: str = ""
    frames: int = 0
    """Of the plain reading."""
    seconds: float = 0.0
    starts: int = 0
    compared: int = 0
    """Pictures, over all starts."""
    pictures_differ: int = 0
    times_differ: int = 0
    """Frames missing, too many, or more than a millisecond off."""
    cost_default: float = math.nan
    cost_plain: float = math.nan
    cost_decord: float = math.nan
    decord_differ: int | None = None
    """Pictures of decord by itself that are plainly of another time; None: it gave none."""
    note: str = ""


def check_file(path: Path, name: str, num_starts: int = NUM_STARTS, seed: int = 0) -> Row:
    """Hold the decoder against the plain reading of `path`; `name` is for the table."""
    try:
        whole = open_clip(Clip(id="x", video=str(path)))
    except MediaError as error:
        return Row(file=name, note=f"{error.reason}: {error.detail}")
    if not whole.has_video:
        return Row(file=name, note="no picture")
    plain = read_plainly(path, whole.width, whole.height)
    spans = list(_spans(plain, num_starts, random.Random(f"{seed} {name}")))
    compared = pictures = times = 0
    used = 0.0
    for start, end in spans:
        begun = time.process_time()
        found = list(_default_frames(path, start, end))
        used += time.process_time() - begun
        wanted = np.flatnonzero((plain.seconds_N >= start) & (plain.seconds_N < end))
        times += abs(len(wanted) - len(found))
        for k, (second, frame) in zip(wanted, found, strict=False):
            compared += 1
            times += abs(plain.seconds_N[k] - second) > _SAME_TIME
            pictures += plain.digests[k] != digest(frame)
    decord_used, decord_differ = _try_decord(path, plain, spans)
    total = sum(end - start for start, end in spans)
    length = _length(plain)
    return Row(
        file=name,
        container=plain.container,
        codec=plain.codec,
        frames=len(plain.digests),
        seconds=round(length, 2),
        starts=len(spans),
        compared=compared,
        pictures_differ=int(pictures),
        times_differ=int(times),
        cost_default=round(used / total, 4),
        cost_plain=round(plain.cost / length, 4),
        cost_decord=round(decord_used / total, 4),
        decord_differ=decord_differ,
        note="; ".join(whole.notes),
    )


def _default_frames(path: Path, start: float, end: float) -> Iterator[tuple[float, np.ndarray]]:
    """(seconds, picture) as extraction has them; none of a span that it rejects."""
    clip = Clip(id="x", video=str(path), start=start, end=end)
    try:
        media = open_clip(clip, frames_per_second=1e4)
        for window in media.windows():
            yield from zip((start + window.seconds_N).tolist(), window.frames_NHW3, strict=True)
    except MediaError:
        return


def _spans(plain: Plain, num_starts: int, rng: random.Random) -> Iterator[tuple[float, float]]:
    first, last = float(plain.seconds_N[0]), float(plain.seconds_N[-1])
    length = min(SPAN_SECONDS, max(0.25, (last - first) / 2))
    tries = given = 0
    while given < num_starts and tries < 100 * num_starts:
        tries += 1
        start = round(rng.uniform(max(0.0, first), max(first, last - length)), 4)
        if not ((plain.seconds_N >= start) & (plain.seconds_N < start + length)).any():
            continue
        if np.abs(plain.seconds_N[:, None] - (start, start + length)).min() > _CLEAR:
            given += 1
            yield start, start + length


def _length(plain: Plain) -> float:
    num = len(plain.seconds_N)
    return float(plain.seconds_N[-1] - plain.seconds_N[0]) * num / max(1, num - 1) or 1.0


def _try_decord(path: Path, plain: Plain, spans) -> tuple[float, int | None]:
    """(CPU seconds, pictures that are not those of their time) of decord by itself."""
    try:
        import decord
    except ImportError:
        return math.nan, None
    decord.logging.set_level(decord.logging.QUIET)
    used, differ = 0.0, 0
    for start, end in spans:
        begun = time.process_time()
        try:
            reader = decord.VideoReader(str(path), num_threads=1)
            stamps_N = reader.get_frame_timestamp(range(len(reader)))[:, 0] + plain.seconds_N[0]
            wanted = np.flatnonzero((stamps_N >= start) & (stamps_N < end))
            reader.seek_accurate(int(wanted[0]))
            found = [reader.next().asnumpy() for _ in wanted]
        except (RuntimeError, decord.DECORDError, StopIteration, IndexError):
            return math.nan, None
        used += time.process_time() - begun
        differ += sum(
            _is_another(plain, float(stamps_N[k]), frame)
            for k, frame in zip(wanted, found, strict=True)
        )
    return used, differ


def _is_another(plain: Plain, second: float, frame: np.ndarray) -> bool:
    """Some other frame of the file is plainly more like it than that of its time."""
    if frame.ndim != 3 or frame.shape[-1] != 3:  # decord gives such of RGB with odd sizes
        return True
    thumb = thumbnail(frame)
    off_N = np.abs(plain.thumbs_N.astype(np.int16) - thumb).mean(axis=(1, 2))
    there = off_N[int(np.argmin(np.abs(plain.seconds_N - second)))]
    return bool(there > 2 * off_N.min() + 0.25)


def find_videos(paths: list[Path]) -> list[tuple[Path, str]]:
    """(file, name for the table) of all files that FFmpeg opens, in order."""
    found = []
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            name = f"{path.name}/{file.relative_to(path)}" if path.is_dir() else file.name
            try:
                with av.open(str(file), metadata_errors="replace") as container:
                    if container.streams.video:
                        found.append((file, name))
            except (av.FFmpegError, OSError):
                if not path.is_dir():
                    raise
    return found


def to_markdown(rows: list[Row], command: str) -> str:
    lines = [
        "# Every frame the right one: the decoder against a plain reading\n",
        f"    {command}\n",
        __doc__.split("\n\n")[2].replace("\n", " ") + "\n",
        "CPU seconds for a second of video: *default* opens the file anew for each span, goes over "
        "its packets, decodes its sound and its pictures; *plain* decodes the pictures of the "
        "whole file and takes their digests; *decord* opens the file for each span and decodes "
        "its pictures. The last "
        "column counts pictures that decord, used by itself, gives for another time.\n",
        markdown_table(COLUMNS, map(_cells, rows)),
    ]
    done = [row for row in rows if row.starts]
    lines.append(
        f"\n{sum(r.compared for r in done):,} pictures of {len(done)} files: "
        f"{sum(r.pictures_differ for r in done)} pictures and {sum(r.times_differ for r in done)} "
        "times differ."
    )
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> tuple[Any, ...]:
    if not row.starts:
        return (row.file, row.note, *[""] * (len(COLUMNS) - 2))
    costs = (row.cost_default, row.cost_plain, row.cost_decord)
    return (
        row.file,
        f"{row.container.split(',')[0]}, {row.codec}",
        *(row.frames, row.starts, row.compared, row.pictures_differ, row.times_differ),
        *("-" if math.isnan(x) else f"{x:.4f}" for x in costs),
        "-" if row.decord_differ is None else row.decord_differ,
    )


def main(argv: list[str] | None = None) -> int:
    parser = command_parser(
        "python -m data_pipeline.media.decode_check",
        "Does the decoder give the right pictures of my files, and what does it cost? Of every\n"
        "file, spans of a second are held against a plain reading from its first picture on.",
        "python -m data_pipeline.media.decode_check my/videos --output runs/decoding",
    )
    parser.add_argument(
        "paths", nargs="+", type=path_argument, help="folders with videos, or videos"
    )
    parser.add_argument("--output", type=path_argument, help="write OUTPUT.csv and OUTPUT.md")
    parser.add_argument("--starts", type=int, default=NUM_STARTS, help="spans a file")
    parser.add_argument("--seed", type=int, default=0, help="of the starts")
    args = parser.parse_args(argv)
    for path in args.paths:
        if not path.exists():
            parser.error(f"no file or folder {path}")
    rows = []
    for file, name in find_videos(args.paths):
        rows.append(check_file(file, name, args.starts, args.seed))
        row = rows[-1]
        print(
            f"{row.file}: {row.pictures_differ} of {row.compared} pictures and {row.times_differ} "
            f"times differ; {row.cost_default:.4f} s a second of video"
            if row.starts
            else f"{row.file}: {row.note}"
        )
    if not rows:
        parser.error("no video in " + ", ".join(map(str, args.paths)))
    command = " ".join(["python -m data_pipeline.media.decode_check", *map(str, args.paths)])
    report = to_markdown(rows, command)
    print(report.strip().rpartition("\n")[2])
    if args.output is not None:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(args.output.with_suffix(".md")) as file:
            file.write(report.encode())
        with open(args.output.with_suffix(".csv"), "w", newline="") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(Row)])
            writer.writeheader()
            writer.writerows(vars(row) for row in rows)
    return int(any(row.pictures_differ or row.times_differ for row in rows))


if __name__ == "__main__":
    sys.exit(run_command(main, None, name="decode_check"))
