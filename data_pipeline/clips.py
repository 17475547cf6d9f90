"""The clip table: what a user brings, read and checked.

A table is CSV (comma, semicolon or tab; UTF-8) or Parquet, one utterance a row, with the columns

    video      path of the file, relative to the table; the only column that must be there
    start, end seconds; empty = from the beginning, to the end
    text       what is said; empty = transcribe, when a transcriber is installed
    speaker, recording, label, corpus, id

A folder of videos is a table too: a file is a clip, the words lie beside it in a .txt, or an .srt
or .vtt cuts it into its subtitle lines. Every row (blank ones are none) ends as a Clip or as a
Reject; what is wrong with the table as a whole is a ClipTableError.
"""

import collections
import csv
import difflib
import io
import logging
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipeline.schema import Clip, Reject, SchemaError, check_id, clip_id, slug
from data_pipeline.transcripts import (
    SUBTITLE_EXTENSIONS,
    TranscriptError,
    clips_from_subtitles,
    normalize_text,
)

COLUMNS = ("video", "start", "end", "text", "speaker", "recording", "label", "corpus", "id")
TABLE_NAMES = ("clips.csv", "clips.parquet")
VIDEO_EXTENSIONS = (
    ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .vob .webm .wmv".split()
)

MAX_SECONDS = 1e6
"""No film lasts eleven days; such a time is in another unit, or a slip."""

log = logging.getLogger(__name__)

OnReject = Callable[[Reject], None]


class ClipTableError(ValueError):
    """A clip table, or a folder of videos, that cannot be used at all."""


class _RowError(ValueError):
    """(reason, detail): one row that cannot be used."""


def load_clips(path: str | Path, rejects: list[Reject]) -> list[Clip]:
    """The clips of a table, of a folder of videos or of one video; bad rows go to `rejects`."""
    path = Path(path).expanduser()
    if path.is_dir():
        return clips_from_folder(path, rejects.append)
    if path.suffix.lower() in VIDEO_EXTENSIONS and path.is_file():
        return _clips_of_videos([path.resolve()], path.resolve().parent, rejects.append)
    return read_clip_table(path, rejects.append)


def read_clip_table(path: str | Path, on_reject: OnReject) -> list[Clip]:
    """The clips of a CSV or Parquet file, in its order; `on_reject` gets each row of no use.

    Raises ClipTableError: no file, no table, no `video` column, no row.
    """
    path = Path(path).expanduser().resolve()
    if not path.is_file():
        raise ClipTableError(
            f"no clip table {path}; expected a CSV or Parquet file with a column `video`, a folder "
            "of videos, or a video"
        )
    read = _parquet_rows if path.suffix.lower() in (".parquet", ".pq") else _csv_rows
    return _clips_of_rows(list(read(path)), path.parent, path.name, on_reject)


def clips_from_folder(path: str | Path, on_reject: OnReject | None = None) -> list[Clip]:
    """One clip a video under `path`, at any depth, in order of name.

    A `clips.csv` or `clips.parquet` in the folder is the table and is read instead. Beside
    `a.mp4`, `a.txt` holds what is said in it, and `a.srt` or `a.vtt` makes a clip of each line.
    Without `on_reject` the first file that cannot be used raises ClipTableError.
    """
    path = Path(path).expanduser().resolve()
    on_reject = on_reject or _raise_reject
    for name in TABLE_NAMES:
        if (path / name).is_file():
            return read_clip_table(path / name, on_reject)

    def unreadable(error: OSError) -> None:
        where, why = error.filename, error.strerror
        if Path(where) == path:
            raise ClipTableError(f"cannot read the folder {path}: {why}")
        detail = f"cannot read the folder {where}: {why}; its videos are not among the clips"
        name = Path(where).relative_to(path).as_posix()
        on_reject(Reject(clip=name, stage="table", reason="unreadable_folder", detail=detail))

    videos = []
    for folder, subfolders, names in os.walk(path, onerror=unreadable):
        for link in filter(os.path.islink, (os.path.join(folder, s) for s in sorted(subfolders))):
            log.warning("%s is a link to a folder, which is not followed; name it in clips=", link)
        # macOS leaves ._ twins beside each file on foreign disks; they are no videos.
        videos += [
            Path(folder, name)
            for name in names
            if Path(name).suffix.lower() in VIDEO_EXTENSIONS and not name.startswith(".")
        ]
    if not videos:
        raise ClipTableError(
            f"no videos under {path}; looked for {' '.join(VIDEO_EXTENSIONS)} and for a table "
            f"named {' or '.join(TABLE_NAMES)}"
        )
    return _clips_of_videos(sorted(videos), path, on_reject)


def _clips_of_videos(videos: list[Path], root: Path, on_reject: OnReject) -> list[Clip]:
    rows = []
    of_stem = collections.Counter(video.with_suffix("") for video in videos)
    for video in videos:
        name = video.relative_to(root).as_posix()
        first = len(rows)
        text_file = video.with_suffix(".txt")
        subtitle = next(
            (f for f in map(video.with_suffix, SUBTITLE_EXTENSIONS) if f.is_file()), None
        )
        if text_file.is_file():
            raw = text_file.read_bytes().removeprefix(b"\xef\xbb\xbf")
            rows.append((name, {"video": name, "text": raw.decode("utf-8", "surrogateescape")}))
        elif subtitle is not None:
            try:
                lines, dropped = clips_from_subtitles(name, subtitle)
            except TranscriptError as error:
                on_reject(Reject(clip=name, stage="table", reason="no_lines", detail=str(error)))
                continue
            rows += [(f"{name}@{line['start']}", line) for line in lines]
            for reject in dropped:
                on_reject(reject)
        else:
            rows.append((name, {"video": name}))
        if of_stem[video.with_suffix("")] > 1:  # a.mp4 beside a.mkv: the id tells them apart
            for _, row in rows[first:]:
                row["id"] = clip_id(_corpus(root), name, float(row.get("start", 0.0)))
    return _clips_of_rows(rows, root, "", on_reject) if rows else []


def _clips_of_rows(
    rows: list[tuple[str, dict[str, str] | _RowError]], root: Path, table: str, on_reject: OnReject
) -> list[Clip]:
    """Rows, each with its place in the table, to clips; a row's problem comes in its stead."""
    if not rows:
        raise ClipTableError(f"{root / table} has a header but no row; expected one a clip")
    clips: list[Clip] = []
    first_place: dict[str, str] = {}
    for place, row in rows:
        where = f"{table}:{place}" if table else place
        try:
            if isinstance(row, _RowError):
                raise row
            clip = _clip(row, root)
            if clip.id in first_place:
                raise _RowError(
                    "duplicate_id",
                    f"{where} and {first_place[clip.id]} both have the id {clip.id}; give the "
                    "table a column `id` with a name of its own for each row",
                )
        except _RowError as problem:
            reason, detail = problem.args
            on_reject(Reject(clip=where, stage="table", reason=reason, detail=detail))
            continue
        first_place[clip.id] = where
        clips.append(clip)
    return clips


def _clip(row: dict[str, str], root: Path) -> Clip:
    for column, value in row.items():
        if any("\udc80" <= c <= "\udcff" for c in value):
            shown = value.encode("utf-8", "surrogateescape")[:60]
            raise _RowError("not_utf8", f"{column} is not UTF-8: {shown!r}; save it as UTF-8")
        if "\0" in value:
            raise _RowError("zero_byte", f"{column} holds a zero byte: {value[:60]!r}")
    row = {column: value.strip() for column, value in row.items()}
    if not row.get("video"):
        raise _RowError("no_video_named", "the column `video` is empty; expected a path")
    start = _number(row, "start") or 0.0
    end = _number(row, "end")
    if start < 0:
        raise _RowError("negative_start", f"start is {start:g} s; expected 0 or more")
    if end is not None and end <= start:
        raise _RowError("empty_span", f"end {end:g} s is not after start {start:g} s")
    video = root / row["video"]
    if not video.name:
        raise _RowError("no_video_named", f"video is {row['video']!r}; expected the path of a file")
    name = _path_name(video, root)
    recording = row.get("recording") or name
    corpus = row.get("corpus") or _corpus(root)
    if row.get("id"):
        try:
            check_id(row["id"])
        except SchemaError as error:
            raise _RowError("unsafe_id", str(error)) from error
    # A recording of several files (a session, a speaker) needs the file's name to tell them apart.
    stem = Path(name).name
    named = recording if recording in (name, stem) else f"{recording}-{stem}"
    return Clip(
        id=row.get("id") or clip_id(corpus, named, start),
        video=os.path.abspath(video),
        start=start,
        end=end,
        text=normalize_text(row.get("text")),
        speaker=row.get("speaker") or None,
        recording=recording,
        label=row.get("label") or None,
        corpus=corpus,
    )


def _corpus(root: Path) -> str:
    return slug(root.name) or "clips"


def _number(row: dict[str, str], column: str) -> float | None:
    value = row.get(column)
    if not value:
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _RowError("bad_number", f"{column} is {value!r}; expected seconds, such as 12.5")
    if abs(number) > MAX_SECONDS:
        raise _RowError("bad_number", f"{column} is {value}; expected seconds; is it milliseconds?")
    return number


def _path_name(video: Path, root: Path) -> str:
    """The video's path without extension, from the table's folder on where it lies below it."""
    whole = Path(os.path.abspath(video.with_suffix("")))
    below = whole.is_relative_to(root)
    return (whole.relative_to(root) if below else whole.relative_to(whole.anchor)).as_posix()


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, str] | _RowError]]:
    raw = path.read_bytes()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ClipTableError(f"{path} is UTF-16; save it as CSV UTF-8")
    # A byte that is no UTF-8 spoils its own row only.
    text = raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="surrogateescape")
    header = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        place = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            if names is None or "unexpected end of data" in str(error):
                raise ClipTableError(
                    f"{path}, line {place}: {error}; is a quotation mark opened there and never "
                    "closed?"
                ) from error
            detail = f"{error}; write a quote as two quotes"
            if reader.line_num > place:
                detail = (
                    f"lines {place} to {reader.line_num} were read as one row; a quotation mark "
                    f"opens in line {place}: {detail}"
                )
            yield str(place), _RowError("malformed_row", detail)
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if names is None:
            names = _check_columns(cells, path)
        elif len(cells) > len(names) and any(cell.strip() for cell in cells[len(names) :]):
            yield (
                str(place),
                _RowError(
                    "extra_cells",
                    f"{len(cells)} cells, but the table has {len(names)} columns; put quotes "
                    f"around text that holds {delimiter!r}",
                ),
            )
        else:
            yield str(place), _known(dict(zip(names, cells, strict=False)))
    if names is None:
        raise ClipTableError(f"{path} is empty; expected a header with a column `video`")


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, str] | _RowError]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ClipTableError(f"{path} is no Parquet file: {error}") from error
    names = _check_columns(table.column_names, path)
    columns = {}
    for name, column in zip(names, table.columns, strict=True):
        if name in COLUMNS:
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                column = column.cast(pa.large_binary())  # as bytes: Arrow stops at bad UTF-8
            columns[name] = column.to_pylist()
    for i in range(table.num_rows):
        row = {name: _cell(values[i]) for name, values in columns.items()}
        if any(cell.strip() for cell in row.values()):
            yield str(i + 1), row


def _cell(value: object) -> str:
    if value is None or value != value:  # NaN is how pandas writes an empty cell
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="surrogateescape")
    return str(value)


def _known(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name in COLUMNS}


def _check_columns(header: list[str], path: Path) -> list[str]:
    names = [name.strip().lower() for name in header]
    shown = ", ".join(name.encode("utf-8", "replace").decode() for name in names)
    if "video" not in names:
        near = difflib.get_close_matches("video", names, n=1)
        hint = f"; is {near[0]!r} meant?" if near else ""
        raise ClipTableError(f"{path} has no column `video`; found {shown[:300]}{hint}")
    twice = sorted({name for name in names if name in COLUMNS and names.count(name) > 1})
    if twice:
        raise ClipTableError(f"{path} has more than one column {', '.join(twice)}; keep one")
    for name in names:
        if name in COLUMNS or not name:
            continue
        near = difflib.get_close_matches(name, [c for c in COLUMNS if c not in names], n=1)
        if near:
            log.warning("%s: column %r is not used; is %r meant?", path.name, name, near[0])
        else:
            log.info("%s: column %r is not used", path.name, name)
    return names


def _raise_reject(reject: Reject) -> None:
    raise ClipTableError(f"{reject.clip}: {reject.reason}: {reject.detail}")
