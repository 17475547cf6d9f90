"""Tables and pictures of a finetuning run, from its results rows alone.

    report = finetune_report(Path("runs/finetune"))

writes table.md, table.csv, confusion.png and curves.png into the folder.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from finetune.config import SETTINGS  # noqa: E402
from finetune.results import (  # noqa: E402
    Recipe,
    ResultsRow,
    read_recipes,
    read_rows,
    run_folder,
    write_text,
)

NAMES = {
    "direct": "Direct",
    "bert_direct": "BERT+Direct",
    "pretrain_finetune": "Pretrain+Finetune",
    "pretrain_prompt": "Pretrain+Prompt",
}
COLUMNS = ("Setting", "WA", "UA", "Macro-F1", "Runs", "Test clips", "Step chosen on")
ORACLE = "test (oracle)"


class ReportError(ValueError):
    """A folder that has nothing to report."""


@dataclass(frozen=True, kw_only=True)
class JudgedClip:
    """What one run said of one test clip."""

    clip: str
    truth: str
    prediction: str
    probability: float
    """Of the prediction, among the classes."""


@dataclass(frozen=True, kw_only=True)
class FinetuneReport:
    """What a page shows of a finetuning run."""

    folder: Path
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    """One per setting, as text; percentages, mean and standard deviation over folds x seeds."""
    pictures: list[Path]
    """confusion.png, curves.png."""
    notes: list[str]
    """What a reader must know beside the numbers."""
    judged: list[JudgedClip]
    """The test clips of all folds as the last setting judged them, with its first seed."""

    @property
    def markdown(self) -> str:
        """The table and the notes."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return table + "\n\n" + "\n".join(f"- {note}" for note in self.notes) + "\n"


def finetune_report(folder: Path) -> FinetuneReport:
    """Report the latest recipe of each setting in `folder`; write its tables and pictures.

    Raises ReportError when there is no finished run.
    """
    recipes = read_recipes(folder)
    if not recipes:
        raise ReportError(
            f"no {folder / 'run.json'}; run accelerate launch finetune/run.py output={folder} first"
        )
    every = read_rows(folder)
    groups = {
        setting: [r for r in every if r.recipe == recipes[setting].recipe]
        for setting in SETTINGS
        if setting in recipes
    }
    groups = {setting: rows for setting, rows in groups.items() if rows}
    if not groups:
        raise ReportError(f"no finished run in {folder}; run accelerate launch finetune/run.py")
    num_shown = sum(map(len, groups.values()))
    report = FinetuneReport(
        folder=folder,
        columns=COLUMNS,
        rows=[_table_row(setting, rows) for setting, rows in groups.items()],
        pictures=[
            _plot_confusion(folder, groups, recipes),
            _plot_curves(folder, groups),
        ],
        notes=_notes(recipes, groups, len(every) - num_shown),
        judged=_judged(folder, list(groups.values())[-1]),
    )
    write_text(folder / "table.md", report.markdown)
    table = pd.DataFrame([_numbers(setting, rows) for setting, rows in groups.items()])
    write_text(folder / "table.csv", table.to_csv(index=False))
    return report


def _numbers(setting: str, rows: list[ResultsRow]) -> dict[str, object]:
    table = pd.DataFrame(map(dataclasses.asdict, rows))
    numbers: dict[str, object] = {"setting": setting, "head": rows[0].head}
    for name in ("wa", "ua", "macro_f1"):
        numbers |= {f"{name}_mean": table[name].mean(), f"{name}_sd": table[name].std(ddof=1)}
    return numbers | {
        "num_runs": len(rows),
        "num_folds": table.fold.nunique(),
        "num_seeds": table.seed.nunique(),
        "num_test_clips": int(table.drop_duplicates("fold").num_test.sum()),
        "selection": rows[0].selection,
        "shared_speakers": bool(table.shared_speakers.any()),
    }


def _table_row(setting: str, rows: list[ResultsRow]) -> tuple[str, ...]:
    n = _numbers(setting, rows)

    def percent(name: str) -> str:
        mean, sd = n[f"{name}_mean"], n[f"{name}_sd"]
        return f"{mean:.1%}" if np.isnan(sd) else f"{100 * mean:.1f} ± {100 * sd:.1f} %"

    def counted(noun: str) -> str:
        number = n[f"num_{noun}s"]
        return f"{number} {noun}" + "s" * (number != 1)

    return (
        NAMES[setting],
        percent("wa"),
        percent("ua"),
        percent("macro_f1"),
        f"{n['num_runs']} ({counted('fold')} x {counted('seed')})",
        str(n["num_test_clips"]),
        {"dev": "dev", "oracle": ORACLE, "last": "none (last step)"}[str(n["selection"])],
    )


def _notes(
    recipes: dict[str, Recipe], groups: dict[str, list[ResultsRow]], num_old: int
) -> list[str]:
    notes = _merged({s: [f"protocol {recipes[s].protocol}", *recipes[s].notes] for s in groups})
    shown = [row for rows in groups.values() for row in rows]
    if any(row.shared_speakers for row in shown):
        notes.append("training and test may share speakers: mechanics, not accuracy")
    if any(row.selection == "oracle" for row in shown):
        notes.append("the step was chosen on the test clips: no honest number")
    for what, name in (("fold_file_sha256", "fold files"), ("data_sha256", "shards")):
        if len({getattr(row, what) for row in shown}) > 1:
            notes.append(f"the settings were run on different {name} and cannot be compared")
    facts = {
        "run on different modalities": {s: rows[0].modalities for s, rows in groups.items()},
        "run on different classes": {s: ", ".join(recipes[s].classes) for s in groups},
        "given their step by different splits": {
            s: rows[0].selection for s, rows in groups.items()
        },
    }
    for what, fact_of in facts.items():
        if len(set(fact_of.values())) > 1:
            each = "; ".join(f"{NAMES[s]}: {fact}" for s, fact in fact_of.items())
            notes.append(f"the settings were {what} ({each}) and cannot be compared")
    if num_old:
        notes.append(f"{num_old} rows of earlier recipes are in results.csv, not in this table")
    return notes


def _merged(notes_of: dict[str, list[str]]) -> list[str]:
    """Each note once, after the names of its settings where it is not of all of them."""
    owners: dict[str, list[str]] = {}
    for setting, notes in notes_of.items():
        for note in notes:
            owners.setdefault(note, []).append(NAMES[setting])
    return [
        note if len(names) == len(notes_of) else f"{', '.join(names)}: {note}"
        for note, names in owners.items()
    ]


def _judged(folder: Path, rows: list[ResultsRow]) -> list[JudgedClip]:
    first = min(row.seed for row in rows)
    said = pd.concat([_read(folder, row, "predictions.csv") for row in rows if row.seed == first])
    return [
        JudgedClip(
            clip=row["clip"],
            truth=row["truth"],
            prediction=row["prediction"],
            probability=row.get(f"p_{row['prediction']}", float("nan")),
        )
        for row in said.to_dict("records")
    ]


def _plot_confusion(
    folder: Path, groups: dict[str, list[ResultsRow]], recipes: dict[str, Recipe]
) -> Path:
    """Rows are truth; shares of a row, and counts over all folds and seeds."""
    figure, axes = plt.subplots(
        1, len(groups), figsize=(3.1 * len(groups) + 0.8, 4.0), layout="compressed", squeeze=False
    )
    for axis, (setting, rows) in zip(axes[0], groups.items(), strict=True):
        classes = list(recipes[setting].classes)
        said = pd.concat([_read(folder, row, "predictions.csv") for row in rows])
        names = [*classes, *sorted(set(said.prediction) - set(classes))]
        counts = pd.crosstab(said.truth, said.prediction).reindex(
            index=classes, columns=names, fill_value=0
        )
        counts_CP = counts.to_numpy()
        share_CP = counts_CP / np.maximum(counts_CP.sum(1, keepdims=True), 1)
        axis.imshow(share_CP, vmin=0, vmax=1, cmap="Blues")
        for (c, p), count in np.ndenumerate(counts_CP):
            color = "white" if share_CP[c, p] > 0.55 else "#223"
            axis.text(p, c, str(count), ha="center", va="center", color=color, fontsize=8)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
        axis.set_yticks(range(len(classes)), classes, fontsize=8)
        axis.set_title(NAMES[setting], fontsize=10)
    axes[0][0].set_ylabel("truth")
    figure.supxlabel("prediction", fontsize=10)
    return _save(figure, folder / "confusion.png")


def _plot_curves(folder: Path, groups: dict[str, list[ResultsRow]]) -> Path:
    """Training loss and, where a split chooses the step, its UA: one thin line a run."""
    chosen_on = {row.selection for rows in groups.values() for row in rows} - {"last"}
    num = 2 if chosen_on else 1
    figure, axes = plt.subplots(
        1, num, figsize=(4.5 * num, 3.2), layout="constrained", squeeze=False
    )
    loss_axis, ua_axis = axes[0, 0], axes[0, -1]
    for number, (setting, rows) in enumerate(groups.items()):
        for k, row in enumerate(rows):
            curve = _read(folder, row, "curve.csv")
            label = NAMES[setting] if k == 0 else None
            style = {"color": f"C{number}", "alpha": 0.6, "linewidth": 1.2, "label": label}
            loss_axis.plot(curve.step, curve.train_loss, **style)
            if "ua" in curve:
                ua_axis.plot(curve.step, curve.ua, marker=".", **style)
    loss_axis.set_title("training loss (a prompt's is over all words)", fontsize=10)
    if chosen_on:
        where = " and ".join({"dev": "dev", "oracle": ORACLE}[x] for x in sorted(chosen_on))
        ua_axis.set_title(f"UA on {where}", fontsize=10)
        ua_axis.set_ylim(-0.02, 1.02)
    for axis in axes.flat:
        axis.set_xlabel("step")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    loss_axis.legend(frameon=False, fontsize=8)
    return _save(figure, folder / "curves.png")


def _read(folder: Path, row: ResultsRow, name: str) -> pd.DataFrame:
    return pd.read_csv(run_folder(folder, row.setting, row.fold, row.seed, row.recipe) / name)


def _save(figure: plt.Figure, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
