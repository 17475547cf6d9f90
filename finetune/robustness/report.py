"""The robustness passport as files: robustness.csv, robustness.md, robustness.png."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from data_pipeline.markdown import markdown_table
from finetune.report.missing_modalities import COLOURS, draw_cases
from finetune.robustness.judge import NOISY_SHARE, Line
from finetune.runs.results import write_csv, write_text
from pretrain.monitoring.report import save_picture

CLIPS = (
    "the test clips of each recognizer's own run (predictions.csv beside it), which it was not "
    "trained on"
)


NOISE = (
    f"White noise on one stream of {NOISY_SHARE:.0%} of the clips, its power that of each number "
    "of the stream over the clip, divided by the ratio:"
)


def write_passport(folder: Path, lines: list[Line], notes: list[str], judged: str | None) -> str:
    """Write the three files; the Markdown. `judged`: what the clips are, where they are others
    than the recognizers' own test clips."""
    means = [_mean(group) for group in _groups(lines)]
    write_csv(folder / "robustness.csv", list(lines[0]), lines)
    text = _markdown(means, notes, judged or CLIPS)
    write_text(folder / "robustness.md", text)
    _draw(folder / "robustness.png", means, _chance(lines))
    return text


def _groups(lines: list[Line]) -> list[list[Line]]:
    """Lines of one setting and recipe, and of one subset or rate, over recognizers."""
    groups: dict[tuple, list[Line]] = {}
    for line in lines:
        key = line["setting"], line["recipe"], line["kind"], line["case"], line["rate"]
        groups.setdefault(key, []).append(line)
    recipes: dict[str, set[str]] = {}
    for setting, recipe, *_ in groups:
        recipes.setdefault(setting, set()).add(recipe)
    return [
        [line | {"setting": f"{key[0]} {key[1]}"} for line in group]
        if len(recipes[key[0]]) > 1
        else group
        for key, group in groups.items()
    ]


def _mean(group: list[Line]) -> Line:
    """Over the recognizers of a group; the deviation is over them."""
    line = {name: group[0][name] for name in ("setting", "kind", "case", "rate")}
    for name in ("wa", "ua", "macro_f1"):
        values = [line[name] for line in group]
        line[f"{name}_mean"] = float(np.mean(values))
        line[f"{name}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    dropped = [line["dropped"] for line in group if line["dropped"] is not None]
    line["dropped"] = float(np.mean(dropped)) if dropped else None
    line["interval"] = (group[0]["ua_low"], group[0]["ua_high"]) if len(group) == 1 else None
    return line | {"num_recognizers": len(group)}


def _markdown(means: list[Line], notes: list[str], judged: str) -> str:
    scores = ("wa", "ua", "macro_f1")
    subsets = markdown_table(
        ("Setting", "Sees", "WA", "UA", "Macro-F1", "Recognizers"),
        [
            (m["setting"], m["case"], *(_percent(m, s) for s in scores), m["num_recognizers"])
            for m in means
            if m["kind"] == "subset"
        ],
    )
    rates = markdown_table(
        ("Setting", "Missing rate", "Really missing", "WA", "UA", "Macro-F1"),
        [
            (m["setting"], f"{m['rate']:.0%}", f"{m['dropped']:.0%}")
            + tuple(_percent(m, s) for s in scores)
            for m in means
            if m["kind"] == "rate"
        ],
    )
    noise = [
        (m["setting"], m["case"], f"{m['rate']:g}", *(_percent(m, s) for s in scores))
        for m in means
        if m["kind"] == "noise"
    ]
    names = ("Setting", "Noise on", "Signal to noise", "WA", "UA", "Macro-F1")
    noisy = [NOISE, markdown_table(names, noise)] if noise else []
    missing = (
        [
            "Each modality of each clip dropped at random at the missing rate, the last one never, "
            "so that less is really missing:",
            rates,
        ]
        if _num_rates(means) > 1
        else []
    )
    several = any(m["num_recognizers"] > 1 for m in means)
    about = "± is the standard deviation over recognizers (folds and seeds)."
    single = "[ ] is the 95 % bootstrap interval of UA over the clips; robustness.csv has WA's."
    return (
        "\n\n".join(
            [
                "# Robustness passport",
                f"Judged: {judged}.",
                subsets,
                *missing,
                *noisy,
                about if several else single,
                *(["\n".join(f"- {note}" for note in notes)] if notes else []),
            ]
        )
        + "\n"
    )


def _num_rates(means: list[Line]) -> int:
    return len({m["rate"] for m in means if m["kind"] == "rate"})


def _percent(line: Line, score: str) -> str:
    mean, sd = line[f"{score}_mean"], line[f"{score}_sd"]
    if sd is not None:
        return f"{100 * mean:.1f} ± {100 * sd:.1f} %"
    if score == "ua" and line["interval"] and line["interval"][0] is not None:
        low, high = line["interval"]
        return f"{mean:.1%} [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{mean:.1%}"


def _chance(lines: list[Line]) -> float | None:
    """The UA of one class always said, where all were judged on as many classes."""
    chances = {line["chance_ua"] for line in lines}
    return chances.pop() if len(chances) == 1 else None


def _draw(path: Path, means: list[Line], chance: float | None) -> None:
    """UA by subset, over the missing rates where there are several, and under noise where it was
    asked for."""
    subsets = [m for m in means if m["kind"] == "subset"][::-1]  # the full one at the bottom
    num_cases = len({m["case"] for m in subsets})
    curves = [("rate", "")] if _num_rates(means) > 1 else []
    curves += dict.fromkeys(("noise", m["case"]) for m in means if m["kind"] == "noise")
    figure, axes = plt.subplots(
        1 + len(curves), squeeze=False, figsize=(4.6, 1 + 0.3 * num_cases + 2.6 * len(curves)),
        layout="constrained", height_ratios=(0.6 + 0.3 * num_cases, *[2.4] * len(curves)),
    )  # fmt: skip
    above, *others = axes[:, 0]
    for axis in (above, *others):
        axis.spines[["top", "right"]].set_visible(False)
    above.set_title("Some modalities missing", fontsize=11)
    names = list(dict.fromkeys(m["setting"] for m in means))
    order = sorted(subsets, key=lambda m: names.index(m["setting"]))
    draw_cases(above, order, chance)
    for (kind, stream), axis in zip(curves, others, strict=True):
        for n, name in enumerate(names):
            own = [m for m in means if (m["kind"], m["setting"]) == (kind, name)]
            own = [m for m in own if kind == "rate" or m["case"] == stream]
            axis.errorbar(
                [m["rate"] for m in own],
                [m["ua_mean"] for m in own],
                yerr=[m["ua_sd"] or 0 for m in own],
                fmt="o-",
                color=COLOURS[n % len(COLOURS)],
                markersize=4,
                lw=1.2,
            )
        if chance is not None:
            axis.axhline(chance, color="#999", ls=":", lw=1)
        axis.set_ylabel("UA on test", fontsize=9)
        axis.grid(alpha=0.25)
        if kind == "rate":
            axis.set_title("Each dropped at random", fontsize=11)
            axis.set_xlabel("missing rate", fontsize=9)
        else:
            axis.set_title(f"Noise on {stream}", fontsize=11)
            axis.set_xscale("log")
            axis.invert_xaxis()
            axis.set_xlabel("signal to noise, of power", fontsize=9)
    save_picture(figure, path)
