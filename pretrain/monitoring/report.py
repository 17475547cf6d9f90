"""Curves and tables of a pretraining run, from its metrics.csv and validation.csv."""

from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import matplotlib
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import LogFormatter, MaxNLocator  # noqa: E402

from data_pipeline.errors import UserError
from data_pipeline.files.atomic import atomic_file  # noqa: E402
from pretrain.monitoring.metrics import HELD_OUT  # noqa: E402
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
    by_subset: list[tuple[str, str, str, str]]
    """At the last validation: objective, what the model was given, its loss, the share of words
    named right; empty where it was given everything alone."""
    curves: list[Path]
    """A picture for each objective that was asked."""
    more: list[Path]
    """Pictures of the words, of the gradient and of the speed, as far as they were measured."""
    num_steps: int


def pretrain_report(folder: Path) -> PretrainReport:
    """Read the CSVs of `folder`, draw the losses as `folder`/curve-OBJECTIVE.png, and curve-words,
    curve-gradient and curve-speed.png.

    What was not asked or measured has no picture. Raises ReportError when there is no row yet.
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
    held_out = _held_out(folder)
    subsets = held_out.subset.nunique()
    asked = [objective for objective in OBJECTIVES.values() if objective.name in table]
    for objective in asked:
        losses = validation[objective.name].dropna()
        if len(losses):
            start, end = float(losses.iloc[0]), float(losses.iloc[-1])
            rows.append(ObjectiveRow(objective=objective.title, start=start, end=end))
    return PretrainReport(
        folder=folder,
        rows=rows,
        by_subset=_by_subset(held_out) if subsets > 1 else [],
        curves=[
            _plot(objective, train, validation, folder / f"curve-{objective.name}.png")
            for objective in asked
            if table[objective.name].notna().any()
        ],
        more=[
            draw(rows, folder / f"curve-{name}.png")
            for name, draw, rows in (
                ("words", _plot_words, held_out[held_out.word_accuracy.notna()]),
                ("gradient", _plot_gradient, _with(train, "grad_norm")),
                ("speed", _plot_speed, _with(train, "tokens_per_second")),
            )
            if len(rows)
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
    color, marker = "#8fa3bd", _marker(seen)
    axis.plot(seen.step, seen[name], marker=marker, color=color, linewidth=1, label="training")
    axis.plot(held.step, held[name], "o-", color="#1f5fa8", markersize=4, label="held out")
    over_steps(axis)
    axis.set_ylabel("loss")
    axis.legend(frameon=False, fontsize=9)
    return save_picture(figure, path)


def _marker(rows: pd.DataFrame) -> str | None:
    """Of few points: one alone draws no line."""
    return "." if len(rows) < 10 else None


def _held_out(folder: Path) -> pd.DataFrame:
    """The rows of validation.csv; none of a run that has not written it."""
    path = folder / "validation.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=list(HELD_OUT))


def _with(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows that have a value there."""
    return table[table[column].notna()] if column in table else table.iloc[:0]


def _by_subset(held_out: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    last = held_out[held_out.step == held_out.step.max()]
    lines = []
    for objective in OBJECTIVES.values():
        for row in last[last.objective == objective.name].itertuples():
            words = f"{100 * row.word_accuracy:.1f} %" if pd.notna(row.word_accuracy) else ""
            lines.append((objective.title, _spaced(row.subset), f"{row.loss:.4f}", words))
    return lines


def _spaced(subset: str) -> str:
    return subset.replace("+", " + ")


def _plot_words(held_out: pd.DataFrame, path: Path) -> Path:
    figure, axis = new_picture("Masked words named right, held out", height=3.2)
    colors = cycle(("#1f5fa8", "#d1495b", "#2e8b57", "#8a8a8a", "#e0a030", "#7b5aa6"))
    width = 3.0  # of the first, everything, which others may cover
    for subset, rows in held_out.groupby("subset", sort=False):
        label, percent = _spaced(subset), 100 * rows.word_accuracy
        axis.plot(rows.step, percent, ".-", color=next(colors), linewidth=width, label=label)
        width = 1.5
    over_steps(axis)
    axis.set_ylabel("% of words")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=9, title="the model is given", title_fontsize=9)
    return save_picture(figure, path)


def _plot_gradient(train: pd.DataFrame, path: Path) -> Path:
    figure, (norm, share) = plt.subplots(
        2, 1, figsize=(4.6, 3.6), sharex=True, layout="constrained", height_ratios=(2, 1)
    )
    norm.set_title("Gradient before clipping", fontsize=11)
    marker = _marker(train)
    norm.plot(train.step, train.grad_norm_max, marker=marker, color="#8fa3bd", label="largest")
    norm.plot(train.step, train.grad_norm, marker=marker, color="#1f5fa8", label="mean")
    norm.set_ylabel("norm")
    norm.set_yscale("log")
    norm.yaxis.set_major_formatter(LogFormatter(minor_thresholds=(2, 1)))
    norm.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 1)))
    norm.legend(frameon=False, fontsize=9)
    share.plot(train.step, 100 * train.clipped_share, marker=marker, color="#d1495b")
    share.set_ylabel("% of steps\nclipped")
    share.set_ylim(-5, 105)
    for axis in (norm, share):
        axis.spines[["top", "right"]].set_visible(False)
        over_steps(axis)
    norm.set_xlabel("")
    return save_picture(figure, path)


def _plot_speed(train: pd.DataFrame, path: Path) -> Path:
    figure, axis = new_picture("Speed of training")
    axis.plot(train.step, train.tokens_per_second, marker=_marker(train), color="#1f5fa8")
    over_steps(axis)
    axis.set_ylabel("tokens a second")
    axis.set_ylim(bottom=0)
    return save_picture(figure, path)
