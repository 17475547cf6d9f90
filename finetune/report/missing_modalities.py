"""The table of modality cases: one model, judged on every subset of the modalities in use.

    | Setting | Sees | WA | UA | Macro-F1 | Dev UA | Runs |

A line for each case, the full one last, and before it the mean over those that lack something:
with three modalities the six cases of the missing-modality literature. And its picture.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from data_pipeline.markdown import markdown_table
from finetune.runs.results import ResultsRow, write_csv, write_text
from pretrain.monitoring.report import new_picture, save_picture

COLUMNS = ("Setting", "Sees", "WA", "UA", "Macro-F1", "Dev UA", "Runs")
SCORES = ("wa", "ua", "macro_f1")
MEAN = "mean of those that lack something"
COLOURS = ("#1f5fa8", "#c8641e", "#3a8f5c", "#8a5aa8", "#a83a4f", "#5f6f7f")
Line = dict[str, str | float | int | None]


def missing_modalities(rows_of: dict[str, list[ResultsRow]]) -> list[Line]:
    """Lines of numbers, shares from 0 to 1, for each of `rows_of` (a name to its rows of all cases
    and splits) that was judged on more than one case."""
    lines: list[Line] = []
    for name, rows in rows_of.items():
        cases = sorted({row.case for row in rows}, key=lambda case: (case.count("+"), case))
        if len(cases) < 2:
            continue
        full = rows[0].modalities
        lacking = [_line(name, case, rows) for case in cases if case != full]
        lines += lacking
        if len(lacking) > 1:
            lines.append(_mean(name, lacking))
        lines.append(_line(name, full, rows))
    return lines


def write_missing_modalities(folder: Path, lines: list[Line]) -> list[tuple[str, ...]]:
    """Write missing_modalities.csv and .md; the rows below COLUMNS, as text. Nothing for none."""
    if lines:
        write_csv(folder / "missing_modalities.csv", list(lines[0]), lines)
        write_text(folder / "missing_modalities.md", as_markdown(list(map(_text, lines))) + "\n")
    return list(map(_text, lines))


def plot_missing_modalities(folder: Path, lines: list[Line], chance: float | None) -> list[Path]:
    """missing_modalities.png: UA by modality case, a colour a setting; nothing without lines.
    `chance`: the UA of one class always said, where the settings have one in common."""
    if not lines:
        return []
    cases = [line["case"] for line in lines if line["setting"] == lines[0]["setting"]]
    figure, axis = new_picture("Modalities missing", height=1.2 + 0.3 * len(cases))
    draw_cases(axis, lines, chance)
    return [save_picture(figure, folder / "missing_modalities.png")]


def draw_cases(axis: plt.Axes, lines: list[Line], chance: float | None) -> None:
    """A row for each case, in the order of `lines`; a dot for each setting, and its deviation."""
    names = list(dict.fromkeys(line["setting"] for line in lines))
    cases = list(dict.fromkeys(line["case"] for line in lines))
    for n, name in enumerate(names):
        own = [line for line in lines if line["setting"] == name]
        above = 0.5 * ((n + 0.5) / len(names) - 0.5)  # side by side within the row
        axis.errorbar(
            [line["ua_mean"] for line in own],
            [cases.index(line["case"]) + above for line in own],
            xerr=[line["ua_sd"] or 0 for line in own],
            fmt="o",
            color=COLOURS[n % len(COLOURS)],
            markersize=4,
            lw=1,
            label=name,
        )
    if chance is not None:
        axis.axvline(chance, color="#999", ls=":", lw=1)
    shown = [str(case).replace(MEAN, "mean of those\nthat lack something") for case in cases]
    axis.set_yticks(range(len(cases)), shown, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("UA on test" + (" (dotted: chance)" if chance else ""), fontsize=9)
    axis.grid(axis="x", alpha=0.25)
    if len(names) > 1:
        axis.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)


def as_markdown(rows: list[tuple[str, ...]]) -> str:
    """The table; empty without rows."""
    return markdown_table(COLUMNS, rows) if rows else ""


def _line(name: str, case: str, rows: list[ResultsRow]) -> Line:
    test = [row for row in rows if (row.split, row.case) == ("test", case)]
    dev = [row.ua for row in rows if (row.split, row.case) == ("dev", case)]
    line: Line = {"setting": name, "case": case}
    for score in SCORES:
        values = [getattr(row, score) for row in test]
        line[f"{score}_mean"] = float(np.mean(values))
        line[f"{score}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return line | {"dev_ua_mean": float(np.mean(dev)) if dev else None, "num_runs": len(test)}


def _mean(name: str, lines: list[Line]) -> Line:
    """Of the cases' own means; a deviation over cases would be none of runs."""
    means = {}
    for key in ("wa_mean", "ua_mean", "macro_f1_mean", "dev_ua_mean"):
        values = [line[key] for line in lines if line[key] is not None]
        means[key] = float(np.mean(values)) if values else None
    blank = dict.fromkeys(lines[0])
    return blank | {"setting": name, "case": MEAN, "num_runs": lines[0]["num_runs"]} | means


def _text(line: Line) -> tuple[str, ...]:
    return (
        str(line["setting"]),
        str(line["case"]),
        *(_percent(line[f"{score}_mean"], line[f"{score}_sd"]) for score in SCORES),
        _percent(line["dev_ua_mean"], None),
        str(line["num_runs"]),
    )


def _percent(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.1%}" if sd is None else f"{100 * mean:.1f} ± {100 * sd:.1f} %"
