"""What always saying one class comes to."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from finetune.report.runs import read_table
from finetune.runs.results import ResultsRow

CHANCE = (
    "chance is what one class, always said, comes to: in WA the largest share of the test clips "
    "that one class has, in UA one over the number of classes that are there"
)


@dataclass(frozen=True, kw_only=True)
class Chance:
    """What always saying one class comes to, as shares, over the same folds as the scores."""

    wa: float
    """With the class that is most frequent in the test clips."""
    ua: float
    """With any class that is there: one over the number of classes there."""
    classes: tuple[str, ...]
    """The most frequent class; several are equally frequent."""

    @property
    def sentence(self) -> str:
        most = " or ".join(self.classes)
        return f"chance is WA {self.wa:.1%} (always {most}) and UA {self.ua:.1%}"

    def table_row(self, num_columns: int) -> tuple[str, ...]:
        row = ("Chance", f"{self.wa:.1%}", f"{self.ua:.1%}")
        return (*row, *("-" for _ in range(num_columns - len(row))))


def chance_of(folder: Path, rows: list[ResultsRow]) -> Chance:
    """Means over folds, as the scores are: a fold that lacks a class has fewer to guess among."""
    folds = {row.fold: row for row in rows}.values()
    shares = pd.DataFrame(
        [
            read_table(folder, row, "predictions.csv").truth.value_counts(normalize=True)
            for row in folds
        ]
    )
    share_of = shares.fillna(0.0).mean().round(9)  # rounding makes equals of equals
    most = share_of[share_of == share_of.max()]
    return Chance(
        wa=float(share_of.max()),
        ua=round(float((1 / shares.notna().sum(axis=1)).mean()), 9),
        classes=tuple(sorted(map(str, most.index))),
    )
