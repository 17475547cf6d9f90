"""Loss curves and a start-to-end table of a pretraining run, from its metrics.csv."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from pretrain.masking import TASKS  # noqa: E402

NAMES = {
    "wwmlm": "WWMLM",
    "span_mvfr": "SpanMVFR",
    "span_mvfc_kl": "SpanMVFC-KL",
    "span_mafr": "SpanMAFR",
}


class ReportError(ValueError):
    """A run folder that cannot be reported on."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveRow:
    """One objective on the same validation clips and masks, before and after training."""

    objective: str
    start: float
    end: float

    @property
    def change(self) -> float:
        """Share of the starting loss that is gone; negative when the loss rose."""
        return 1 - self.end / self.start


@dataclass(frozen=True, kw_only=True)
class PretrainReport:
    folder: Path
    rows: list[ObjectiveRow]
    curves: Path
    num_steps: int


def pretrain_report(folder: Path) -> PretrainReport:
    """Read `folder`/metrics.csv, write `folder`/curves.png.

    An objective that no held-out clip can be asked has no row. Raises ReportError when none can.
    """
    path = folder / "metrics.csv"
    if not path.exists():
        raise ReportError(f"no {path}; run pretraining with run.output={folder} first")
    table = pd.read_csv(path)
    train = table[table.split == "train"]
    validation = table[table.split == "validation"].drop_duplicates("step", keep="last")
    rows = []
    for task in TASKS:
        losses = validation[task].dropna()
        if len(losses):
            start, end = float(losses.iloc[0]), float(losses.iloc[-1])
            rows.append(ObjectiveRow(objective=NAMES[task], start=start, end=end))
    if not rows:
        raise ReportError(
            f"{path} has no losses of held-out clips; pretrain with more clips, or with a larger "
            "data.validation_share"
        )
    return PretrainReport(
        folder=folder,
        rows=rows,
        curves=_plot(train, validation, folder / "curves.png"),
        num_steps=int(table.step.max()),
    )


def _plot(train: pd.DataFrame, validation: pd.DataFrame, path: Path) -> Path:
    figure, axes = plt.subplots(1, len(TASKS), figsize=(13, 3.1), layout="constrained")
    for axis, task in zip(axes, TASKS, strict=True):
        seen = train[["step", task]].dropna()
        axis.plot(seen.step, seen[task], color="#b8c4d6", linewidth=1, label="training")
        held = validation[["step", task]].dropna()
        axis.plot(held.step, held[task], "o-", color="#1f5fa8", markersize=3, label="held out")
        axis.set_title(NAMES[task], fontsize=10)
        axis.set_xlabel("step")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("loss")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
