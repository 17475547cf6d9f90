"""Pictures of a results folder: of each setting its confusion and its curves; of all of them UA of
every run, and UA over the labels."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from data_pipeline.schema import slug
from finetune.report.chance import Chance
from finetune.report.missing_modalities import COLOURS
from finetune.report.runs import folder_of, read_table
from finetune.runs.results import ResultsRow
from pretrain.monitoring.report import new_picture, over_steps, save_picture

MEAN = "#1f5fa8"
ORACLE = "test (oracle)"


def plot_confusion(
    folder: Path, name: str, rows: list[ResultsRow], classes: tuple[str, ...]
) -> Path:
    """Rows are truth; shares of a row, and counts over all folds and seeds."""
    figure, axis = new_picture(name, height=4.0)
    tables = [read_table(folder, row, "predictions.csv") for row in rows]
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


def plot_curves(folder: Path, name: str, rows: list[ResultsRow], chance: Chance) -> Path | None:
    """One thin line a run: the training loss and, where a split chooses the step, its UA; nothing
    of what learns without steps.

    Each setting has a picture of its own, since a prompt's loss is over all words of the
    vocabulary and would press those of the heads flat.
    """
    rows = [row for row in rows if (folder_of(folder, row) / "curve.csv").exists()]
    if not rows:
        return None
    curves = [read_table(folder, row, "curve.csv") for row in rows]
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


def plot_settings(
    folder: Path, rows_of: Mapping[str, list[ResultsRow]], chance_ua: float | None
) -> list[Path]:
    """settings.png: a row for each of `rows_of`, a dot a run, their mean with its standard
    deviation. Nothing for a single one."""
    if len(rows_of) < 2:
        return []
    figure, axis = new_picture("Every run", height=0.9 + 0.34 * len(rows_of))
    for place, rows in enumerate(rows_of.values()):
        ua_R = [row.ua for row in rows]
        axis.plot(ua_R, [place] * len(ua_R), "o", color="#8fa3bd", markersize=3, alpha=0.8)
        spread = np.std(ua_R, ddof=1) if len(ua_R) > 1 else 0
        axis.errorbar([np.mean(ua_R)], [place], xerr=[spread], fmt="D", color=MEAN, markersize=5)
    _mark(axis.axvline, chance_ua)
    axis.set_yticks(range(len(rows_of)), list(rows_of), fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("UA on test" + (" (dotted: chance)" if chance_ua else ""), fontsize=9)
    axis.grid(axis="x", alpha=0.25)
    return [save_picture(figure, folder / "settings.png")]


def plot_label_shares(
    folder: Path, rows_of: Mapping[str, list[ResultsRow]], chance_ua: float | None
) -> list[Path]:
    """label_shares.png: UA of each setting over the share of labels that it learned from. Nothing
    where all learned from the same share."""
    of_setting: dict[str, dict[float, list[float]]] = {}
    for rows in rows_of.values():
        found = of_setting.setdefault(rows[0].setting, {})
        found.setdefault(rows[0].label_share, []).extend(row.ua for row in rows)
    shares = sorted({share for found in of_setting.values() for share in found})
    if len(shares) < 2:
        return []
    figure, axis = new_picture("Few labels", height=3.2)
    for n, (name, found) in enumerate(of_setting.items()):
        at = sorted(found)
        axis.errorbar(
            at,
            [np.mean(found[share]) for share in at],
            yerr=[np.std(found[share], ddof=1) if len(found[share]) > 1 else 0 for share in at],
            fmt="o-",
            color=COLOURS[n % len(COLOURS)],
            markersize=4,
            lw=1.2,
            label=name,
        )
    _mark(axis.axhline, chance_ua)
    axis.set_xscale("log")
    axis.set_xticks(shares, [f"{100 * share:g} %" for share in shares], fontsize=8)
    axis.minorticks_off()
    axis.set_xlabel("of the labels")
    axis.set_ylabel("UA on test" + (" (dotted: chance)" if chance_ua else ""), fontsize=9)
    axis.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return [save_picture(figure, folder / "label_shares.png")]


def _mark(line, chance_ua: float | None) -> None:
    if chance_ua is not None:
        line(chance_ua, color="#999", ls=":", lw=1)
