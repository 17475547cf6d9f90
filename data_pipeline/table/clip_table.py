"""Rows of a clip table as its file has them: CSV (comma, semicolon or tab; UTF-8) or Parquet.

Each row comes with its place, as a mapping of the columns to text, or as the RowError that
says what is wrong with it. What is wrong with the table as a whole is a ClipTableError.
"""

import csv
import difflib
import io
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.schema import Reject

COLUMNS = (
    *("video", "start", "end", "text", "speaker", "recording", "label", "corpus", "id"),
    "region",
)
FILES = ("eeg",)
"""Further columns that name a file, relative to the table as `video` is; samples have its name
alone, without the folders of a machine."""

log = logging.getLogger(__name__)

OnReject = Callable[[Reject], None]
Row = dict[str, str]

_SEP_LINE = re.compile(r'"?sep=(.|\\t)"?\s*')
"""How spreadsheets are told the delimiter, in a line before the header."""
_FOREIGN = (
    (b"PK\x03\x04", "a workbook (.xlsx, .ods) or another archive", ""),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", ""),
    (b"{", "JSON Lines", "read_json(IN, lines=True)"),
    (b"[", "JSON", "read_json(IN)"),
    (b"\x1f\x8b", "compressed by gzip", "read_csv(IN, compression='gzip')"),
)
"""How files begin that are no table here; what they are; how pandas reads them, as it comes."""


class ClipTableError(UserError):
    """A clip table, or a folder of videos, that cannot be used at all."""


class RowError(ValueError):
    """(reason, detail): one row that cannot be used."""


def table_rows(path: Path) -> Iterator[tuple[str, Row | RowError]]:
    """(place, row) of each row but blank ones; ClipTableError for a file that is no table."""
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith(b"PAR1") or path.suffix.lower() in (".parquet", ".pq"):
        return _parquet_rows(path)
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    for magic, what, reader in _FOREIGN:
        if start.startswith(magic):
            ways = "in the program that made it, save it as CSV UTF-8"
            if reader:
                read = reader.replace("IN", repr(str(path)))
                new = str(path.with_suffix(".csv"))
                ways = f'python -c "import pandas; pandas.{read}.to_csv({new!r}, index=False)"'
            raise ClipTableError(f"{path} is {what}; expected CSV or Parquet: {ways}")
    return _csv_rows(path)


def _csv_rows(path: Path) -> Iterator[tuple[str, Row | RowError]]:
    raw = path.read_bytes()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ClipTableError(f"{path} is UTF-16; save it as CSV UTF-8")
    # A byte that is no UTF-8 spoils its own row only.
    text = raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="surrogateescape")
    header = next((line for line in text.splitlines() if line.strip()), "")
    told = _SEP_LINE.fullmatch(header)
    delimiter = told[1].replace("\\t", "\t") if told else max(",;\t", key=header.count)
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
            yield str(place), RowError("malformed_row", detail)
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if told:
            told = None
        elif names is None:
            names = _check_columns(cells, path)
        elif len(cells) > len(names) and any(cell.strip() for cell in cells[len(names) :]):
            yield (
                str(place),
                RowError(
                    "extra_cells",
                    f"{len(cells)} cells, but the table has {len(names)} columns; put quotes "
                    f"around text that holds {delimiter!r}",
                ),
            )
        else:
            yield str(place), {n: c for n, c in zip(names, cells, strict=False) if n}
    if names is None:
        raise ClipTableError(f"{path} is empty; expected a header with a column `video`")


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row | RowError]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ClipTableError(f"{path} is no Parquet file: {error}") from error
    names = _check_columns(table.column_names, path)
    columns = {}
    for name, column in zip(names, table.columns, strict=True):
        is_text = not (pa.types.is_nested(column.type) or pa.types.is_binary(column.type))
        if name in COLUMNS or (name and is_text):
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


def _check_columns(header: list[str], path: Path) -> list[str]:
    names = [name.strip().lower() for name in header]
    shown = ", ".join(name.encode("utf-8", "replace").decode() for name in names)
    if "video" not in names:
        near = difflib.get_close_matches("video", names, n=1)
        hint = f"; is {near[0]!r} meant?" if near else ""
        raise ClipTableError(
            f"{path} has no column `video`, which names the file of each row; found "
            f"{shown[:300]}{hint}"
        )
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ClipTableError(f"{path} has more than one column {', '.join(twice)}; keep one")
    for name in names:
        if name in COLUMNS or not name:
            continue
        near = difflib.get_close_matches(name, [c for c in COLUMNS if c not in names], n=1)
        if near:
            log.warning("%s: column %r is carried along; is %r meant?", path.name, name, near[0])
        else:
            log.info("%s: column %r is carried along", path.name, name)
    return names
