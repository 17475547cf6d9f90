"""Loss curves and a start-to-end table of a pretraining run, from its metrics.csv."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

from data_pipeline.errors import UserError
from data_pipeline.files.atomic import atomic_file  # noqa: E402
from pretrain.objectives import OBJECTIVES, Objective  # noqa: E402


class ReportError(UserError):
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
    """Of the objectives that held-out clips can be asked; none where no clip is held out."""
    curves: list[Path]
    """A picture for each objective that was asked."""
    num_steps: int


def pretrain_report(folder: Path) -> PretrainReport:
    """Read `folder`/metrics.csv, draw the losses as `folder`/curve-OBJECTIVE.png.

    An objective that no clip was asked has no picture. Raises ReportError when there is no row yet.
    """
    path = folder / "metrics.csv"
    if not path.exists():
        raise ReportError(f"no {path}; run pretraining with run.output={folder} first")
    table = pd.read_csv(path)
    if table.empty:
        raise ReportError(f"{path} has no row yet; look again after run.log_every steps")
    train = table[table.split == "train"]
    validation = table[table.split == "validation"].drop_duplicates("step", keep="last")
    rows = []
    asked = [objective for objective in OBJECTIVES.values() if objective.name in table]
    for objective in asked:
        losses = validation[objective.name].dropna()
        if len(losses):
            start, end = float(losses.iloc[0]), float(losses.iloc[-1])
            rows.append(ObjectiveRow(objective=objective.title, start=start, end=end))
    return PretrainReport(
        folder=folder,
        rows=rows,
        curves=[
            _plot(objective, train, validation, folder / f"curve-{objective.name}.png")
            for objective in asked
            if table[objective.name].notna().any()
        ],
        num_steps=int(table.step.max()),
    )


def new_picture(title: str, height: float = 2.8) -> tuple[plt.Figure, plt.Axes]:
    """One set of axes over the steps, of a width (4.6 inches) that a phone shows whole."""
    figure, axis = plt.subplots(figsize=(4.6, height), layout="constrained")
    axis.set_title(title, fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def over_steps(axis: plt.Axes) -> None:
    """Label the axis of the steps, of which there are no halves."""
    axis.set_xlabel("step")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.grid(alpha=0.25)


def save_picture(figure: plt.Figure, path: Path) -> Path:
    """Write `figure` as PNG, whole or not at all."""
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
    return path


def _plot(objective: Objective, train: pd.DataFrame, validation: pd.DataFrame, path: Path) -> Path:
    figure, axis = new_picture(objective.title)
    name = objective.name
    seen, held = (t[["step", name]].dropna() for t in (train, validation))
    marker = "." if len(seen) < 10 else None  # one point alone draws no line
    axis.plot(seen.step, seen[name], marker=marker, color="#8fa3bd", linewidth=1, label="training")
    axis.plot(held.step, held[name], "o-", color="#1f5fa8", markersize=4, label="held out")
    over_steps(axis)
    axis.set_ylabel("loss")
    axis.legend(frameon=False, fontsize=9)
    return save_picture(figure, path)
