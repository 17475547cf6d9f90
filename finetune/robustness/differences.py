"""Two settings of a robustness passport, case by case: which of them bears what better?"""

from pathlib import Path

import pandas as pd

from data_pipeline.markdown import markdown_table
from finetune.compare.paired import compare_units

WORDS = {
    "subset": "sees {case}",
    "rate": "{rate:.0%} missing",
    "noise": "noise on {case}, signal to noise {rate:g}",
}
"""Kind of a passport's line to what it is of."""


def settings_of(folder: Path) -> list[str]:
    """The settings whose recognizers the passport in `folder` has judged."""
    return sorted(pd.read_csv(folder / "robustness.csv").setting.unique())


def differences(folder: Path, a: str, b: str) -> str:
    """A - B in UA for each case that both settings were judged in, as Markdown.

    The unit is the recognizer: those of one fold and seed are a pair. Intervals are Student's.
    """
    table = pd.read_csv(folder / "robustness.csv")
    keys = ["kind", "case", "rate"]
    rows = []
    for (kind, case, rate), lines in table.groupby(keys, sort=False, dropna=False):
        if kind == "rate" and rate == 0:
            continue  # the subset of all
        of = [lines[lines.setting == name].set_index(["fold", "seed"]).ua for name in (a, b)]
        pairs = pd.concat(of, axis=1, join="inner").to_numpy()
        if len(pairs) < 2:
            continue
        found = compare_units(pairs[:, 0], pairs[:, 1])
        gap = found.difference
        rows.append(
            (
                WORDS[kind].format(case=case, rate=rate),
                f"{100 * gap.mean:+.1f}",
                f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}",
                _p(found.p_t),
                found.num_units,
            )
        )
    header = (f"UA of {a} - {b}", "points", "95 % interval", "paired t-test p", "pairs")
    return markdown_table(header, rows)


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
