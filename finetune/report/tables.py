"""Tables and pictures of a finetuning run, from its results rows alone.

    report = finetune_report(Path("runs/finetune"))

writes table.md and table.csv, of each setting confusion-SETTING.png and curve-SETTING.png, of
several settings.png, of several shares of the labels label_shares.png, and with
evaluate_cases=seven missing_modalities.md, .csv and .png, into the folder.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from data_pipeline.errors import UserError
from data_pipeline.markdown import markdown_table
from finetune.config import SETTINGS
from finetune.report.chance import CHANCE, chance_of
from finetune.report.missing_modalities import (
    as_markdown,
    missing_modalities,
    plot_missing_modalities,
    write_missing_modalities,
)
from finetune.report.pictures import (
    ORACLE,
    plot_confusion,
    plot_curves,
    plot_label_shares,
    plot_settings,
)
from finetune.report.runs import read_table
from finetune.runs.results import (
    Recipe,
    ResultsRow,
    read_all_rows,
    read_recipes,
    settled,
    write_text,
)

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
BY_ORACLE = (
    "UA by oracle: had the test clips themselves chosen the step, and the points that this adds; "
    "never an honest number, shown for comparison with papers that chose so"
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
class FinetuneReport:
    """What a page shows of a finetuning run."""

    folder: Path
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    """One per setting and variant, as text; percentages, mean and standard deviation over folds x
    seeds."""
    missing: list[tuple[str, ...]] = field(default_factory=list)
    """Rows of the table of modality cases, see finetune.report.missing_modalities; none without
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
    found = sorted(read_recipes(folder), key=lambda r: (_order(r.setting), _numerically(r.variant)))
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
    chances = {name: chance_of(folder, rows) for name, rows in groups.items()}
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
                plot_confusion(folder, name, rows, recipes[name].classes),
                plot_curves(folder, name, rows, chances[name]),
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
        chance=next(iter(chances.values())).table_row(len(COLUMNS)) if common else (),
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


def _numerically(variant: str) -> list[tuple[float, str]]:
    """Orders "2 % of the labels" before "10 % of the labels", and nothing before both."""
    words = re.findall(r"[\d.]+|\D+", variant)
    return [(float(w), "") if w[0].isdigit() else (0.0, w) for w in words]


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
    modalities = {s: rows[0].modalities for s, rows in groups.items()}
    if len(set(modalities.values())) > 1:
        each = "; ".join(f"{s}: {read}" for s, read in modalities.items())
        notes.append(
            f"the settings read different modalities ({each}), so that they differ in what they "
            "are told as well as in what they make of it"
        )
    facts = {
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
    said = pd.concat(
        [read_table(folder, row, "predictions.csv") for row in rows if row.seed == first]
    )
    return [
        JudgedClip(
            clip=row["clip"],
            truth=row["truth"],
            prediction=row["prediction"],
            probability=row.get(f"p_{row['prediction']}", float("nan")),
        )
        for row in said.to_dict("records")
    ]
