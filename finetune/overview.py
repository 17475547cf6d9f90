"""Pictures of all settings of a results folder: UA of every run, and UA over the labels."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from finetune.missing_modalities import COLOURS
from finetune.results import ResultsRow
from pretrain.report import new_picture, save_picture

MEAN = "#1f5fa8"


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
