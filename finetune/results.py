"""Result rows: one finished run (setting x fold x seed) each, kept so that nothing can be lost.

A run's folder is written last file last: config.yaml, curve.csv, predictions.csv, then row.json,
which marks it as done. results.csv is nothing but all row.json of an output folder, written anew,
whole, after each run.

One launch at a time works on an output folder, with any number of processes, of which the first
writes. Two at once lose no finished run, but do some twice, and each writes run.json and
results.csv as if it were alone; the next launch puts results.csv right.
"""

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from data_pipeline.shards import atomic_file


class ResultsError(ValueError):
    """A results folder that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class ResultsRow:
    """One fold x seed of one setting. Shares are 0 to 1."""

    corpus: str
    protocol: str
    """Name and version."""
    fold_file_sha256: str
    fold: int
    setting: str
    head: str
    modalities: str
    seed: int
    wa: float
    ua: float
    macro_f1: float
    wa_low: float | None
    """Bootstrap interval over the test clips, 95 %; empty for a single clip."""
    wa_high: float | None
    ua_low: float | None
    ua_high: float | None
    macro_f1_low: float | None
    macro_f1_high: float | None
    selection: str
    """How the step was chosen: dev, oracle (on test itself) or last."""
    step: int
    """The step that is reported."""
    selection_ua: float | None
    """UA there on the split that chose; empty for last."""
    num_train: int
    num_dev: int
    num_test: int
    shared_speakers: bool
    """True: a speaker may be in training and test; such a row shows mechanics, not accuracy."""
    checkpoint_sha256: str
    """Of the pretrained weights; empty for settings that start without."""
    data_sha256: str
    git_commit: str
    num_processes: int
    recipe: str
    """Digest of everything above that a rerun would have to share, and of the settings."""
    notes: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one setting was run last, and what a reader of its rows must know beside them."""

    recipe: str
    """Digest, as in the rows."""
    classes: tuple[str, ...]
    """In the order of the class numbers."""
    protocol: str
    notes: tuple[str, ...]


def read_recipes(output: str | Path) -> dict[str, Recipe]:
    """The latest recipe of each setting that was run, from run.json. Raises ResultsError."""
    path = Path(output) / "run.json"
    try:
        return TypeAdapter(dict[str, Recipe]).validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        raise ResultsError(
            f"{path} is cut, or of another version: {error.errors()[0]['msg']}; remove it and run "
            "again, finished runs are kept"
        ) from error


def write_recipes(output: str | Path, recipes: dict[str, Recipe]) -> None:
    """Note the recipes of a run; those of settings that it leaves out stay."""
    known = read_recipes(output) | recipes
    text = json.dumps({setting: dataclasses.asdict(known[setting]) for setting in known}, indent=1)
    write_text(Path(output) / "run.json", text + "\n")


def recipe_digest(facts: dict[str, Any]) -> str:
    """16 hex digits that change whenever a result could."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_folder(output: str | Path, setting: str, fold: int, seed: int, recipe: str) -> Path:
    """Where one run's files lie."""
    return Path(output) / "runs" / setting / f"fold{fold}-seed{seed}-{recipe}"


def read_row(folder: Path) -> ResultsRow | None:
    """The row of a finished run, None when it is not finished. Raises ResultsError."""
    path = folder / "row.json"
    try:
        return ResultsRow(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ResultsError(
            f"{path} is no results row: {error}; remove {folder} and run again"
        ) from error


def write_row(folder: Path, row: ResultsRow) -> None:
    """Mark the run in `folder` as done."""
    write_text(folder / "row.json", json.dumps(dataclasses.asdict(row), indent=1) + "\n")


def read_rows(output: str | Path) -> list[ResultsRow]:
    """Rows of all finished runs under `output`, by setting, fold and seed."""
    folders = {path.parent for path in Path(output).glob("runs/*/*/row.json")}
    rows = [row for row in map(read_row, folders) if row is not None]
    return sorted(rows, key=lambda r: (r.setting, r.recipe, r.fold, r.seed))


def write_results(output: str | Path) -> list[ResultsRow]:
    """Write results.csv from all finished runs; return its rows."""
    rows = read_rows(output)
    names = [field.name for field in dataclasses.fields(ResultsRow)]
    write_csv(Path(output) / "results.csv", names, map(dataclasses.asdict, rows))
    return rows


def write_csv(path: Path, names: list[str], rows: Iterable[dict[str, Any]]) -> None:
    """A CSV file, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(text.encode())
