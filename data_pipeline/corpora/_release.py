"""What the adapters of releases share: files, texts, rows of which none is lost, published counts.

    release = Release(root, on_reject)
    release.reject("bad_name", "Actor_01/x.wav", "what was expected")
    release.add("Actor_01/y.wav", row)      # or a reject, where its id is there already
    return release.rows

What concerns a release as a whole, such as songs that are left out, is one warning with a count.
"""

import csv
import io
import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from data_pipeline.schema import Reject
from data_pipeline.table.clips import SOUND_EXTENSIONS, VIDEO_EXTENSIONS, ClipTableError, OnReject
from data_pipeline.table.encodings import decode_text, is_text

NUM_NAMED = 3
"""So many of a kind are named in a message; the others are counted."""
MEDIA_EXTENSIONS = (*VIDEO_EXTENSIONS, *SOUND_EXTENSIONS)

log = logging.getLogger(__name__)


class Release:
    """The rows of a corpus on their way to its table."""

    def __init__(self, root: Path, on_reject: OnReject) -> None:
        self.root, self._on_reject = root, on_reject
        self.rows: list[dict[str, str]] = []
        self._place_of: dict[str, str] = {}

    def where(self, file: Path) -> str:
        """A file as messages name it: from the root on."""
        below = file.is_relative_to(self.root)
        return (file.relative_to(self.root) if below else file).as_posix()

    def reject(self, reason: str, where: str, detail: str) -> None:
        """What is there and gives no row."""
        shown = where.encode("utf-8", "backslashreplace").decode()
        self._on_reject(Reject(clip=shown, stage="table", reason=reason, detail=detail))

    def add(self, where: str, row: Mapping[str, str], name: str | None = None) -> None:
        """A row. `name` is what must not occur twice: by default its `id`."""
        name = row["id"] if name is None else name
        if name in self._place_of:
            first = self._place_of[name]
            self.reject("duplicate_id", where, f"{name} is at {first} already, which is used")
            return
        strange = [column for column, value in row.items() if not is_text(value)]
        if strange:
            shown = row[strange[0]].encode("utf-8", "surrogateescape")[-60:]
            self.reject("not_utf8", where, f"{strange[0]} is not UTF-8: {shown!r}")
            return
        self._place_of[name] = where
        self.rows.append(dict(row))

    def text(self, file: Path) -> str:
        """A text file of the release; a reject, and empty, where it cannot be read as one."""
        try:
            return read_text(file)
        except (ClipTableError, OSError) as error:
            self.reject("unreadable_text", self.where(file), str(error))
            return ""


def release_files(root: Path, extensions: Collection[str]) -> list[Path]:
    """The files of these extensions under `root`, in order; macOS leaves ._ twins, which are none.

    A folder that begins with a dot, and `__MACOSX`, are not looked into.
    """
    return [
        file
        for file in sorted(root.rglob("*"))
        if file.suffix.lower() in extensions and is_own(file.relative_to(root))
    ]


def is_own(path: Path) -> bool:
    """Whether a path below a release's root is the release's, and no leftover of a system."""
    return not any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def read_text(path: Path) -> str:
    """A text file in whatever encoding; bytes that cannot be read stay in it as surrogates.

    Raises ClipTableError for a file that is no text.
    """
    text, _ = decode_text(path.read_bytes())
    if "\0" in text:
        raise ClipTableError(
            f"{path} holds zero bytes and is no text; copy it from the release again"
        )
    return text


def read_table(path: Path) -> tuple[list[str], list[tuple[int, dict]]]:
    """(columns, rows) of a CSV file, each row with its line; as csv.DictReader, a cell that is not
    there is None, and cells too many are under None. Raises ClipTableError."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        return list(reader.fieldnames or ()), [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise ClipTableError(
            f"{path}, line {reader.line_num}: {error}; is a quotation mark opened there and never "
            "closed? Copy it from the release again"
        ) from error


def check_codes(corpus: str, name: str, codes: Iterable[tuple[str, Collection[str], str]]) -> None:
    """Of each (code, known codes, what it tells) in a file's name; ValueError for one not known."""
    for code, known, what in codes:
        if code not in known:
            raise ValueError(f"{name}: no {what} {code}; {corpus} has {' '.join(known)}")


def check_counts(what: str, found: Mapping[str, int], published: Mapping[str, int]) -> None:
    """A warning that names each class of which there are not as many rows as were published."""
    differences = [
        f"{name} {found.get(name, 0):,} (published: {number:,})"
        for name, number in published.items()
        if found.get(name, 0) != number
    ]
    if differences:
        log.warning("%s: other counts than in the release: %s", what, ", ".join(differences))


def some(names: Iterable[str]) -> str:
    """The first few of many names."""
    names = list(names)
    more = len(names) - NUM_NAMED
    return ", ".join(names[:NUM_NAMED]) + (f" and {more:,} more" if more > 0 else "")
