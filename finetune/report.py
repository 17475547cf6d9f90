"""Tables and pictures of a finetuning run, from its results rows alone.

    report = finetune_report(Path("runs/finetune"))

writes table.md and table.csv, of each setting confusion-SETTING.png and curve-SETTING.png, of
several settings.png, of several shares of the labels label_shares.png, and with
evaluate_cases=seven missing_modalities.md, .csv and .png, into the folder.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from data_pipeline.errors import UserError
from data_pipeline.markdown import markdown_table
from data_pipeline.schema import slug
from finetune.config import SETTINGS
from finetune.missing_modalities import (
    as_markdown,
    missing_modalities,
    plot_missing_modalities,
    write_missing_modalities,
)
from finetune.overview import plot_label_shares, plot_settings
from finetune.results import (
    Recipe,
    ResultsRow,
    read_all_rows,
    read_recipes,
    run_folder,
    settled,
    write_text,
)
from pretrain.report import new_picture, over_steps, save_picture

NAMES = {
    "direct": "Direct",
    "bert_direct": "BERT+Direct",
    "pretrain_finetune": "Pretrain+Finetune",
    "pretrain_prompt": "Pretrain+Prompt",
}
COLUMNS = (
    *("Setting", "WA", "UA", "Macro-F1", "Runs", "Test clips", "Classes in test"),
    *("Step chosen on", "UA by oracle"),
)
ORACLE = "test (oracle)"
BY_ORACLE = (
    "UA by oracle: had the test clips themselves chosen the step, and the points that this adds; "
    "never an honest number, shown for comparison with papers that chose so"
)
CHANCE = (
    "chance is what one class, always said, comes to: in WA the largest share of the test clips "
    "that one class has, in UA one over the number of classes that are there"
)


class ReportError(UserError):
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

    def table_row(self) -> tuple[str, ...]:
        row = ("Chance", f"{self.wa:.1%}", f"{self.ua:.1%}")
        return (*row, *("-" for _ in COLUMNS[len(row) :]))


@dataclass(frozen=True, kw_only=True)
class FinetuneReport:
    """What a page shows of a finetuning run."""

    folder: Path
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    """One per setting and variant, as text; percentages, mean and standard deviation over folds x
    seeds."""
    missing: list[tuple[str, ...]] = field(default_factory=list)
    """Rows of the table of modality cases, see finetune.missing_modalities; none without
    evaluate_cases=seven."""
    pictures: list[Path]
    """Of each setting its confusion, then, where it learns in steps, its curves; at the end that
    of the modality cases."""
    notes: list[str]
    """What a reader must know beside the numbers."""
    judged: list[JudgedClip]
    """The test clips of all folds as the last setting judged them, with its first seed."""
    chance: tuple[str, ...] = ()
    """A last row of the table: the scores of who always says one class. Empty where the settings
    were judged on other clips or classes, and so have no chance in common: a note says it then."""

    @property
    def table(self) -> list[tuple[str, ...]]:
        """The rows, and that of chance."""
        return [*self.rows, self.chance] if self.chance else self.rows

    @property
    def markdown(self) -> str:
        """The table and the notes."""
        table = markdown_table(self.columns, self.table)
        notes = "\n".join(f"- {note}" for note in self.notes)
        return "\n\n".join(filter(None, (table, as_markdown(self.missing), notes))) + "\n"


def finetune_report(folder: Path) -> FinetuneReport:
    """Report the latest recipe of each setting and variant in `folder`; write its tables and
    pictures, again where other launches finished runs meanwhile.

    Raises ReportError when there is no finished run.
    """
    return settled(
        lambda: ([recipe.recipe for recipe in read_recipes(folder)], read_all_rows(folder)),
        lambda found: _report(folder, found[1]),
    )


def _report(folder: Path, every: list[ResultsRow]) -> FinetuneReport:
    found = sorted(read_recipes(folder), key=lambda r: (_order(r.setting), r.variant))
    if not found:
        raise ReportError(
            f"no {folder / 'recipes'}; run accelerate launch finetune/run.py output={folder} first"
        )
    cases = {_name(recipe): [r for r in every if r.recipe == recipe.recipe] for recipe in found}
    groups = {
        name: [r for r in rows if (r.split, r.case) == ("test", r.modalities)]
        for name, rows in cases.items()
    }
    groups = {name: rows for name, rows in groups.items() if rows}
    if not groups:
        raise ReportError(f"no finished run in {folder}; run accelerate launch finetune/run.py")
    recipes = {_name(recipe): recipe for recipe in found}
    missing = missing_modalities(cases)
    num_shown = sum(len(rows) for rows in cases.values())
    chances = {name: _chance(folder, rows) for name, rows in groups.items()}
    common = len(set(chances.values())) == 1
    chance_ua = next(iter(chances.values())).ua if common else None
    report = FinetuneReport(
        folder=folder,
        columns=COLUMNS,
        rows=[_table_row(name, rows) for name, rows in groups.items()],
        missing=write_missing_modalities(folder, missing),
        pictures=[
            picture
            for name, rows in groups.items()
            for picture in (
                _plot_confusion(folder, name, rows, recipes[name].classes),
                _plot_curves(folder, name, rows, chances[name]),
            )
            if picture is not None
        ]
        + plot_missing_modalities(folder, missing, chance_ua)
        + plot_settings(folder, groups, chance_ua)
        + plot_label_shares(folder, groups, chance_ua),
        notes=[
            *_notes(recipes, groups, len(every) - num_shown),
            *([CHANCE] if common else [f"{name}: {c.sentence}" for name, c in chances.items()]),
        ],
        judged=_judged(folder, list(groups.values())[-1]),
        chance=next(iter(chances.values())).table_row() if common else (),
    )
    write_text(folder / "table.md", report.markdown)
    table = pd.DataFrame(
        [
            _numbers(rows) | {"chance_wa": chances[name].wa, "chance_ua": chances[name].ua}
            for name, rows in groups.items()
        ]
    )
    write_text(folder / "table.csv", table.to_csv(index=False))
    return report


def _name(recipe: Recipe) -> str:
    """What a reader calls it: "Pretrain+Prompt (20 % of the labels)"."""
    return NAMES.get(recipe.setting, recipe.setting) + (
        f" ({recipe.variant})" if recipe.variant else ""
    )


def _order(setting: str) -> tuple[int, str]:
    """The paper's settings first, in its order."""
    return SETTINGS.index(setting) if setting in SETTINGS else len(SETTINGS), setting


def _numbers(rows: list[ResultsRow]) -> dict[str, object]:
    table = pd.DataFrame(map(dataclasses.asdict, rows))
    numbers: dict[str, object] = {"setting": rows[0].setting, "head": rows[0].head}
    for name in ("wa", "ua", "macro_f1"):
        numbers |= {f"{name}_mean": table[name].mean(), f"{name}_sd": table[name].std(ddof=1)}
    for name in ("oracle_ua", "oracle_gain_ua"):
        numbers[f"{name}_mean"] = table[name].astype(float).mean()
    return numbers | {
        "num_oracle_runs": int(table.oracle_ua.notna().sum()),
        "num_runs": len(rows),
        "num_folds": table.fold.nunique(),
        "num_seeds": table.seed.nunique(),
        "num_test_clips": int(table.drop_duplicates("fold").num_test.sum()),
        "num_classes": rows[0].num_classes,
        "least_classes_in_test": int(table.classes_in_test.min()),
        "most_classes_in_test": int(table.classes_in_test.max()),
        "selection": rows[0].selection,
        "train_on": rows[0].train_on,
        "label_share": rows[0].label_share,
        "shared_speakers": bool(table.shared_speakers.any()),
    }


def _table_row(name: str, rows: list[ResultsRow]) -> tuple[str, ...]:
    n = _numbers(rows)

    def percent(name: str) -> str:
        mean, sd = n[f"{name}_mean"], n[f"{name}_sd"]
        return f"{mean:.1%}" if np.isnan(sd) else f"{100 * mean:.1f} ± {100 * sd:.1f} %"

    def counted(noun: str) -> str:
        number = n[f"num_{noun}s"]
        return f"{number} {noun}" + "s" * (number != 1)

    least, most = n["least_classes_in_test"], n["most_classes_in_test"]
    return (
        name,
        percent("wa"),
        percent("ua"),
        percent("macro_f1"),
        f"{n['num_runs']} ({counted('fold')} x {counted('seed')})",
        str(n["num_test_clips"]),
        (f"{least}" if least == most else f"{least} to {most}") + f" of {n['num_classes']}",
        {"dev": "dev", "oracle": ORACLE, "last": "none (last step)"}[str(n["selection"])],
        _by_oracle(n),
    )


def _by_oracle(n: dict[str, object]) -> str:
    """ "74.4% (+2.3)", and of how many runs where not all have it."""
    if not n["num_oracle_runs"]:
        return "-"
    some = n["num_oracle_runs"] != n["num_runs"]
    of = f", {n['num_oracle_runs']} of {n['num_runs']} runs" if some else ""
    return f"{n['oracle_ua_mean']:.1%} ({100 * n['oracle_gain_ua_mean']:+.1f}{of})"


def _notes(
    recipes: dict[str, Recipe], groups: dict[str, list[ResultsRow]], num_old: int
) -> list[str]:
    notes = _merged(
        {
            s: [
                *(f"protocol {recipes[s].protocol}", *recipes[s].notes),
                *dict.fromkeys(note for row in rows for note in row.notes),
            ]
            for s, rows in groups.items()
        }
    )
    shown = [row for rows in groups.values() for row in rows]
    if any(row.shared_speakers for row in shown):
        notes.append("training and test may share speakers: mechanics, not accuracy")
    if any(row.oracle_ua is not None for row in shown):
        notes.append(BY_ORACLE)
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
            each = "; ".join(f"{s}: {fact}" for s, fact in fact_of.items())
            notes.append(f"the settings were {what} ({each}) and cannot be compared")
    if num_old:
        notes.append(f"{num_old} rows of earlier recipes are in results.csv, not in this table")
    return notes


def _merged(notes_of: dict[str, list[str]]) -> list[str]:
    """Each note once, after the names of its settings where it is not of all of them."""
    owners: dict[str, list[str]] = {}
    for setting, notes in notes_of.items():
        for note in notes:
            owners.setdefault(note, []).append(setting)
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


def _chance(folder: Path, rows: list[ResultsRow]) -> Chance:
    """Means over folds, as the scores are: a fold that lacks a class has fewer to guess among."""
    folds = {row.fold: row for row in rows}.values()
    shares = pd.DataFrame(
        [_read(folder, row, "predictions.csv").truth.value_counts(normalize=True) for row in folds]
    )
    share_of = shares.fillna(0.0).mean().round(9)  # rounding makes equals of equals
    most = share_of[share_of == share_of.max()]
    return Chance(
        wa=float(share_of.max()),
        ua=round(float((1 / shares.notna().sum(axis=1)).mean()), 9),
        classes=tuple(sorted(map(str, most.index))),
    )


def _plot_confusion(
    folder: Path, name: str, rows: list[ResultsRow], classes: tuple[str, ...]
) -> Path:
    """Rows are truth; shares of a row, and counts over all folds and seeds."""
    figure, axis = new_picture(name, height=4.0)
    tables = [_read(folder, row, "predictions.csv") for row in rows]
    said = pd.concat(tables, ignore_index=True)  # pandas 2 counts no label of a row twice
    columns = [*classes, *sorted(set(said.prediction) - set(classes))]
    counts = pd.crosstab(said.truth, said.prediction).reindex(
        index=list(classes), columns=columns, fill_value=0
    )
    counts_CP = counts.to_numpy()
    share_CP = counts_CP / np.maximum(counts_CP.sum(1, keepdims=True), 1)
    axis.imshow(share_CP, vmin=0, vmax=1, cmap="Blues")
    for (c, p), count in np.ndenumerate(counts_CP):
        color = "white" if share_CP[c, p] > 0.55 else "#223"
        axis.text(p, c, str(count), ha="center", va="center", color=color, fontsize=9)
    axis.set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=9)
    axis.set_yticks(range(len(classes)), classes, fontsize=9)
    axis.set_ylabel("truth")
    axis.set_xlabel("prediction")
    return save_picture(figure, folder / f"confusion-{slug(name).lower()}.png")


def _plot_curves(folder: Path, name: str, rows: list[ResultsRow], chance: Chance) -> Path | None:
    """One thin line a run: the training loss and, where a split chooses the step, its UA; nothing
    of what learns without steps.

    Each setting has a picture of its own, since a prompt's loss is over all words of the
    vocabulary and would press those of the heads flat.
    """
    rows = [row for row in rows if (_run_folder(folder, row) / "curve.csv").exists()]
    if not rows:
        return None
    curves = [_read(folder, row, "curve.csv") for row in rows]
    figure, axis = new_picture(name)
    marker = "." if len(curves[0]) < 20 else None
    for curve in curves:
        axis.plot(curve.step, curve.train_loss, marker=marker, color="#1f5fa8", lw=1.2, alpha=0.6)
    axis.set_ylabel("training loss", color="#1f5fa8")
    if all("ua" in curve for curve in curves):
        on = {"dev": "dev", "oracle": ORACLE}[rows[0].selection]
        right = axis.twinx()
        for curve in curves:
            right.plot(curve.step, curve.ua, marker=marker, color="#c8641e", lw=1.2, alpha=0.6)
            if "oracle_ua" in curve:
                right.plot(curve.step, curve.oracle_ua, color="#999", lw=0.8, ls="--", alpha=0.7)
        right.axhline(chance.ua, color="#c8641e", ls=":", lw=1)
        test = ",\ndashed: test, by which nothing is chosen" if "oracle_ua" in curves[0] else ""
        right.set_ylabel(f"UA on {on} (dotted: chance{test})", color="#c8641e", fontsize=8)
        right.spines["top"].set_visible(False)
    over_steps(axis)
    return save_picture(figure, folder / f"curve-{slug(name).lower()}.png")


def _read(folder: Path, row: ResultsRow, name: str) -> pd.DataFrame:
    path = _run_folder(folder, row) / name
    return pd.read_csv(path, keep_default_na=False)  # "None" and "NA" may be classes


def _run_folder(folder: Path, row: ResultsRow) -> Path:
    return run_folder(folder, row.setting, row.fold, row.seed, row.recipe)
