"""Rows of the table: how a check tells what it found, and how it is run.

    def a_check(place: Place) -> Iterator[Row]: ...

What a check yields is printed at once. One that cannot run here raises Skipped; a package that is
not installed skips it too, and any other error is a failed row, after which the next check runs.
"""

import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch

from data_pipeline.errors import UserError

OURS = ("data_pipeline", "pretrain", "finetune")
INSTALL = "pip install -e . in the project's folder"
COLUMNS = ("check", "verdict", "figure", "tolerance", "seconds", "why, and what to do")
WIDTHS = (46, 7, 8, 9, 7)
Found = TypeVar("Found")


class Skipped(Exception):
    """A check that cannot run here; its text says why."""


class CheckError(UserError):
    """A check that ran and has nothing to compare."""


@dataclass(frozen=True, kw_only=True)
class Row:
    check: str
    verdict: Literal["ok", "failed", "skipped"]
    figure: float | None = None
    """What was measured, in the unit that `check` tells; a difference is a share of the largest
    number that was expected."""
    tolerance: float | None = None
    """At most so much is ok; None: the figure is told, and not judged."""
    seconds: float = 0.0
    why: str = ""

    @classmethod
    def judged(cls, check: str, figure: float, tolerance: float | None, why: str) -> "Row":
        """`why`: told where the figure is beyond the tolerance, or no number."""
        fine = math.isfinite(figure) and (tolerance is None or figure <= tolerance)
        return cls(
            check=check,
            verdict="ok" if fine else "failed",
            figure=figure,
            tolerance=tolerance,
            why="" if fine else why,
        )

    def line(self) -> str:
        numbers = ("" if n is None else f"{n:.3g}" for n in (self.figure, self.tolerance))
        return line((self.check, self.verdict, *numbers, f"{self.seconds:.1f}", self.why))


def line(cells: Sequence[str]) -> str:
    """One line of the table, without spaces at its end."""
    padded = [cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=False)]
    return " | ".join([*padded, *cells[len(WIDTHS) :]]).rstrip(" |")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the checks run."""

    device: torch.device
    folder: Path
    """Of what they write: clips, runs and their logs."""

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def twins(self) -> str:
        """What `pair` holds against each other."""
        return "CUDA and CPU" if self.on_gpu else "2 threads and 1"

    def pair(self, work: Callable[[torch.device], Found]) -> tuple[Found, Found]:
        """`work` on the CPU, and on the device; where that is the CPU, on one thread and on two."""
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(threads if self.on_gpu else 1)
            expected = work(torch.device("cpu"))
            torch.set_num_threads(threads if self.on_gpu else 2)
            return expected, work(self.device)
        finally:
            torch.set_num_threads(threads)


Check = Callable[[Place], Iterator[Row]]


def run_check(name: str, check: Check, place: Place) -> Iterator[Row]:
    """The rows of one check, with their seconds; whatever goes wrong is a row as well."""
    began = time.monotonic()
    rows = check(place)
    while True:
        try:
            row = next(rows, None)
        except Exception as error:
            row = _without_it(name, error)
        if row is None:
            return
        now = time.monotonic()
        yield Row(**{**vars(row), "seconds": now - began})
        began = now


def _without_it(name: str, error: Exception) -> Row:
    if isinstance(error, Skipped):
        return Row(check=name, verdict="skipped", why=str(error))
    missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
    if missing and not missing.startswith(OURS):
        return Row(check=name, verdict="skipped", why=f"needs {missing}: {INSTALL}")
    told = " ".join(str(error).split())
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return Row(check=name, verdict="failed", why=kind + told)


def need(*packages: str) -> None:
    """Raise Skipped for packages that are not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise Skipped(f"needs {', '.join(missing)}: {INSTALL}")


def difference(found: Sequence | np.ndarray, expected: Sequence | np.ndarray) -> float:
    """Largest difference, as a share of the largest number expected; inf for another shape."""
    found, expected = (np.asarray(x, dtype=np.float64) for x in (found, expected))
    if found.shape != expected.shape:
        return math.inf
    return float(np.abs(found - expected).max() / np.abs(expected).max())
