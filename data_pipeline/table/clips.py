"""The clip table: what a user brings, read and checked.

A table is CSV (comma, semicolon or tab; UTF-8) or Parquet, one utterance a row, with the columns

    video      path of the file, relative to the table; the only column that must be there
    start, end seconds; empty = from the beginning, to the end
    text       what is said; empty = transcribe, when a transcriber is installed
    speaker, recording, label, corpus, id
    region     left, right or `x0 y0 x1 y1`: the speaker's own part of the picture

Any other column is carried along into the samples (`meta["columns"]`), text as it stands; `eeg`
names a file too, relative to the table.

A folder of videos is a table too: an .srt or .vtt beside a file cuts it into its subtitle lines, a
.txt holds its words, and without either the file is a clip. Every row (blank ones are none) ends
as a Clip or as a Reject; what is wrong with the table as a whole is a ClipTableError.
"""

import math
import os
from pathlib import Path

from data_pipeline.schema import Clip, Reject, SchemaError, check_id, clip_id, region_box, slug
from data_pipeline.table.clip_folder import (
    SOUND_EXTENSIONS,
    VIDEO_EXTENSIONS,
    file_rows,
    folder_rows,
)
from data_pipeline.table.clip_table import (
    COLUMNS,
    FILES,
    ClipTableError,
    OnReject,
    Row,
    RowError,
    table_rows,
)
from data_pipeline.table.encodings import is_text
from data_pipeline.table.words import normalize_text

TABLE_NAMES = ("clips.csv", "clips.parquet")

MAX_SECONDS = 1e6
"""No film lasts eleven days; such a time is in another unit, or a slip."""


def load_clips(path: str | Path, rejects: list[Reject]) -> list[Clip]:
    """The clips of a table, of a folder of videos or of one video; bad rows go to `rejects`."""
    # os.path takes what Path refuses: links in a circle, names too long for a file, ~nobody.
    path = Path(os.path.expanduser(path))
    if os.path.isdir(path):
        return clips_from_folder(path, rejects.append)
    if path.suffix.lower() in VIDEO_EXTENSIONS + SOUND_EXTENSIONS:
        if not os.path.isfile(path):
            is_link = os.path.islink(path)
            why = "it is a link to nothing" if is_link else "its name is that of a video or a sound"
            raise ClipTableError(f"no file {str(path)[:300]}; {why}")
        file = Path(os.path.realpath(path))
        rows = file_rows(file, _corpus(file.parent), rejects.append)
        return _clips_of_rows(rows, file.parent, "", rejects.append) if rows else []
    return read_clip_table(path, rejects.append)


def read_clip_table(path: str | Path, on_reject: OnReject) -> list[Clip]:
    """The clips of a CSV or Parquet file, in its order; `on_reject` gets each row of no use.

    Raises ClipTableError: no file, no table, no `video` column, no row.
    """
    path = Path(os.path.realpath(os.path.expanduser(path)))
    if not os.path.isfile(path):
        raise ClipTableError(
            f"no clip table {path}; expected a CSV or Parquet file with a column `video`, a folder "
            "of videos, or a video"
        )
    return _clips_of_rows(list(table_rows(path)), path.parent, path.name, on_reject)


def clips_from_folder(path: str | Path, on_reject: OnReject) -> list[Clip]:
    """One clip a video under `path`, at any depth, in order of name.

    A `clips.csv` or `clips.parquet` in the folder is the table and is read instead. Beside
    `a.mp4`, `a.srt` or `a.vtt` makes a clip of each line, and `a.txt` holds what is said in it;
    see data_pipeline.table.clip_folder. `on_reject` gets each file of no use.
    """
    path = Path(os.path.realpath(os.path.expanduser(path)))
    for name in TABLE_NAMES:
        if os.path.isfile(path / name):
            return read_clip_table(path / name, on_reject)
    rows = folder_rows(path, _corpus(path), on_reject)
    return _clips_of_rows(rows, path, "", on_reject) if rows else []


def _clips_of_rows(
    rows: list[tuple[str, Row | RowError]], root: Path, table: str, on_reject: OnReject
) -> list[Clip]:
    """Rows, each with its place in the table, to clips; a row's problem comes in its stead."""
    if not rows:
        raise ClipTableError(f"{root / table} has a header but no row; expected one a clip")
    clips: list[Clip] = []
    first_place: dict[str, str] = {}
    for place, row in rows:
        where = f"{table}:{place}" if table else place.encode("utf-8", "backslashreplace").decode()
        try:
            if isinstance(row, RowError):
                raise row
            clip = _clip(row, root)
            if clip.id in first_place:
                raise RowError(
                    "duplicate_id",
                    f"{where} and {first_place[clip.id]} both have the id {clip.id}; give the "
                    "table a column `id` with a name of its own for each row",
                )
        except RowError as problem:
            reason, detail = problem.args
            on_reject(Reject(clip=where, stage="table", reason=reason, detail=detail))
            continue
        first_place[clip.id] = where
        clips.append(clip)
    return clips


def _clip(row: Row, root: Path) -> Clip:
    for column in COLUMNS:
        _check_text(column, row.get(column, ""), root)
    given = row.get("video", "")
    row = {column: value.strip() for column, value in row.items()}
    if given.strip() and given != row["video"] and os.path.lexists(root / given):
        row["video"] = given  # the space belongs to the name
    if not row.get("video"):
        raise RowError("no_video_named", "the column `video` is empty; expected a path")
    start = _number(row, "start") or 0.0
    end = _number(row, "end")
    if start < 0:
        raise RowError("negative_start", f"start is {start:g} s; expected 0 or more")
    if end is not None and end <= start:
        raise RowError("empty_span", f"end {end:g} s is not after start {start:g} s")
    video = root / row["video"]
    if not video.name:
        raise RowError("no_video_named", f"video is {row['video']!r}; expected the path of a file")
    name = _path_name(video, root)
    recording = row.get("recording") or name
    corpus = row.get("corpus") or _corpus(root)
    if row.get("id"):
        try:
            check_id(row["id"])
        except SchemaError as error:
            raise RowError("unsafe_id", str(error)) from error
    # A recording of several files (a session, a speaker) needs the file's name to tell them apart.
    stem = Path(name).name
    named = recording if recording in (name, stem) else f"{recording}-{stem}"
    region = _region(row.get("region"))
    if region is not None:  # two people of one picture are two clips
        named = f"{named}-{region}"
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
        region=region,
        columns=tuple((n, _carried(n, v, root)) for n, v in row.items() if n not in COLUMNS and v),
    )


def _carried(column: str, value: str, root: Path) -> str:
    return os.path.abspath(root / _legible(value)) if column in FILES else _legible(value)


def _legible(value: str) -> str:
    """What nothing here reads costs no row: a mark stands for a byte that is no UTF-8, or zero."""
    text = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _region(value: str | None) -> str | None:
    if not value:
        return None
    try:
        region_box(value)
    except SchemaError as error:
        raise RowError("bad_region", str(error)) from error
    return " ".join(value.lower().split())


def _check_text(column: str, value: str, root: Path) -> None:
    if not is_text(value):
        shown = value.encode("utf-8", "surrogateescape")[-60:]
        if column == "video" and os.path.lexists(root / value):
            raise RowError(
                "name_not_utf8",
                f"the name of the file is not UTF-8: {shown!r}; rename it, e.g. all of a folder by "
                "convmv -r -f latin1 -t utf8 --notest FOLDER",
            )
        raise RowError("not_utf8", f"{column} is not UTF-8: {shown!r}; save it as UTF-8")
    if "\0" in value:
        raise RowError("zero_byte", f"{column} holds a zero byte: {value[:60]!r}")


def _corpus(root: Path) -> str:
    return slug(root.name) or "clips"


def _number(row: Row, column: str) -> float | None:
    value = row.get(column)
    if not value:
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RowError("bad_number", f"{column} is {value!r}; expected seconds, such as 12.5")
    if abs(number) > MAX_SECONDS:
        raise RowError("bad_number", f"{column} is {value}; expected seconds; is it milliseconds?")
    return number


def _path_name(video: Path, root: Path) -> str:
    """The video's path without extension, from the table's folder on where it lies below it."""
    whole = Path(os.path.abspath(video.with_suffix("")))
    below = whole.is_relative_to(root)
    return (whole.relative_to(root) if below else whole.relative_to(whole.anchor)).as_posix()
