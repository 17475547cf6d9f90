"""What a run tells: a line every few steps, metrics.csv and validation.csv always, trackers
(pretrain.monitoring.trackers) on request."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_pipeline.files.atomic import atomic_file
from pretrain.monitoring.validation import Answers
from pretrain.objectives import OBJECTIVES

HELD_OUT = "step subset objective loss clips words word_accuracy piece_accuracy".split()
"""Columns of validation.csv."""


def columns() -> list[str]:
    """Of metrics.csv: one for each objective there is."""
    gradient = ["learning_rate", "grad_norm", "grad_norm_max", "clipped_share"]
    speed = ["clips_per_second", "tokens_per_second", "gflops_per_second", "mfu"]
    memory = ["packing", "memory_gb"]
    return ["step", "split", "loss", *OBJECTIVES, "word_accuracy", *gradient, *speed, *memory]


class StepsFile:
    """A CSV whose rows are of steps.

    A run that goes on from step S drops the rows after S first: they are about to be written
    again, and so is the validation of S that it owes (pretrain.checkpoint.store.Progress). Those
    that it keeps get today's columns, empty where an older version had none.
    """

    def __init__(
        self, path: Path, names: list[str], last_step: int, owes_validation: bool = False
    ) -> None:
        self.path = path
        self.names = names
        rows: list[dict[str, str]] = []
        if last_step and path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                last = (reader.fieldnames or ["step"])[-1]
                # A row that a killed run left half written lies after its last checkpoint.
                rows = [row for row in reader if _step_of(row, last) <= last_step]
        if owes_validation:
            rows = [
                row for row in rows if _step_of(row, "step") < last_step or not _is_held_out(row)
            ]
        with atomic_file(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            writer = csv.DictWriter(text, names, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
            text.detach()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows. Floats are written with every digit, so that runs can be compared."""
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.names, lineterminator="\n").writerows(rows)


class Metrics:
    """metrics.csv, a row a line of the log, validation.csv, and trackers; only rank 0 has them.

    trackers: accelerate's, started; closed at the end.
    """

    def __init__(
        self,
        folder: Path,
        last_step: int,
        trackers: Sequence[Any] = (),
        owes_validation: bool = False,
    ) -> None:
        self.lines = StepsFile(folder / "metrics.csv", columns(), last_step, owes_validation)
        self.held_out = StepsFile(folder / "validation.csv", HELD_OUT, last_step, owes_validation)
        self.trackers = trackers

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_: object) -> None:
        for tracker in self.trackers:
            tracker.finish()  # they have threads

    def write(self, step: int, split: str, row: Mapping[str, float]) -> None:
        self.lines.write([{"step": step, "split": split, **row}])
        self._track({f"{split}/{name}": value for name, value in row.items()}, step)

    def write_answers(self, step: int, answers: Sequence[Answers]) -> None:
        """One row for each subset and objective."""
        self.held_out.write([{"step": step, **asdict(one)} for one in answers])
        values = {f"validation_{one.objective}/{one.subset}": one.loss for one in answers}
        values |= {
            f"validation_words/{one.subset}": one.word_accuracy
            for one in answers
            if one.word_accuracy is not None
        }
        self._track(values, step)

    def _track(self, values: dict[str, float], step: int) -> None:
        for tracker in self.trackers:
            tracker.log(values, step=step)


def describe(step: int, row: Mapping[str, float]) -> str:
    """`step 1200 | loss 3.412 | wwmlm 2.7100 mafr 0.3800 | 640 clips/s | 52k tok/s | ...`"""
    arithmetic = f"{row['gflops_per_second']:.3g} GFLOP/s"
    parts = [
        f"step {step}",
        f"loss {row['loss']:.3f}",
        objectives_line(row),
        f"{row['clips_per_second']:.3g} clips/s",
        f"{row['tokens_per_second'] / 1000:.3g}k tok/s",
        f"mfu {row['mfu']:.0%}" if "mfu" in row else arithmetic,
        f"pack {row['packing']:.1%}",
        f"grad {row['grad_norm']:.2g}, most {row['grad_norm_max']:.2g}, "
        f"clipped {row['clipped_share']:.0%}",
        f"lr {row['learning_rate']:.2e}",
        f"{row['memory_gb']:.1f} GB",
    ]
    return " | ".join(parts)


def objectives_line(row: Mapping[str, Any]) -> str:
    """`wwmlm 2.7100 mafr 0.3800`: the objectives that `row` has."""
    return " ".join(
        f"{name.removeprefix('span_')} {row[name]:.4f}" for name in OBJECTIVES if name in row
    )


def words_line(answers: Sequence[Answers]) -> str:
    """`text 12.1% text+face 12.4%`: words named right, by what the model was given."""
    return " ".join(
        f"{one.subset} {one.word_accuracy:.1%}" for one in answers if one.word_accuracy is not None
    )


def _is_held_out(row: Mapping[str, str | None]) -> bool:
    """In validation.csv all are, and no column says so."""
    return row.get("split", "validation") == "validation"


def _step_of(row: Mapping[str, str | None], last_column: str) -> float:
    try:
        return int(row["step"]) if row.get(last_column) is not None else float("inf")
    except (KeyError, TypeError, ValueError):
        return float("inf")
