"""What two runs that came to their end do not have alike, to the bit.

    differences(Path("runs/a"), Path("runs/b"))     # [], or such as ["metrics.csv"]

Compared are the losses, in every CSV of a run, and of the newest checkpoints the weights and the
training state.
"""

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

MEASURED = re.compile("second|memory|mfu|flop")
"""Columns that no two runs share."""


def differences(reference: Path, folder: Path) -> list[str]:
    """Names of what two runs that ended do not have alike."""
    runs = (reference, folder)
    wrong = [name for name in names_in(runs, "*.csv") if not alike(runs, name, told_rows)]
    stores = [run / "checkpoints" for run in runs]
    newest = [store / (store / "latest").read_text().strip() for store in stores]
    for name in names_in(newest, "model.safetensors") + names_in(newest, "state/**/*"):
        told = told_progress if name == "state/progress.json" else Path.read_bytes
        if not alike(newest, name, told):
            wrong.append(name)
    return wrong


def names_in(folders: Sequence[Path], pattern: str) -> list[str]:
    """Of the files that any of them has."""
    return sorted(
        {
            str(path.relative_to(folder))
            for folder in folders
            for path in folder.glob(pattern)
            if path.is_file()
        }
    )


def alike(folders: Sequence[Path], name: str, told: Callable[[Path], Any]) -> bool:
    """Whether both have the file, and it tells the same in both."""
    one, other = (folder / name for folder in folders)
    return one.is_file() and other.is_file() and told(one) == told(other)


def told_rows(path: Path) -> list[dict[str, str]]:
    """A CSV without what is measured."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {name: value for name, value in row.items() if not MEASURED.search(name)}
            for row in csv.DictReader(file)
        ]


def told_progress(path: Path) -> dict[str, Any]:
    """progress.json without the seconds that the meter counts."""
    progress = json.loads(path.read_text(encoding="utf-8"))
    progress["meter"].pop("seconds", None)
    return progress
