"""Three settings or more, of any systems, judged on one protocol: one table, every paired test, and
a picture.

All of them stand over the same folds and seeds, those that every one has run. Of K settings there
are K (K - 1) / 2 pairs, and one p in twenty falls below .05 by chance alone: p is shown as Holm
(1979) corrects it for all pairs at once.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.markdown import markdown_table
from finetune.compare.chosen import Chosen, CompareError, told_apart
from finetune.compare.comparison import (
    ALPHA,
    SCORES,
    Comparison,
    compare,
    p_value,
    points,
    share,
)
from finetune.compare.paired import Interval
from pretrain.monitoring.report import new_picture, save_picture

BLUE, GREY = "#1f5fa8", "#8fa3bd"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One setting among the others."""

    name: str
    chosen: Chosen
    """Of the runs that all have."""
    scores: dict[str, Interval]
    """Over the unit of the tests, by score."""
    sd: dict[str, float | None]
    """Over runs."""


@dataclass(frozen=True, kw_only=True)
class Several:
    """What all tests of all pairs came to."""

    standings: list[Standing]
    """By UA, the best first."""
    pairs: dict[tuple[int, int], Comparison]
    """Places of A and B among the standings, A the better one, to their comparison."""
    p_holm: dict[tuple[int, int], float | None]
    """Of the t-test on UA, for all pairs at once; None where there is no such test."""
    notes: list[str]

    @property
    def verdict(self) -> str:
        """Which of the others the first one is better than."""
        first, others = self.standings[0].name, range(1, len(self.standings))
        beaten = [self.standings[n].name for n in others if self._shown((0, n))]
        even = [self.standings[n].name for n in others if not self._shown((0, n))]
        parts = []
        if beaten:
            parts.append(f"better than {', '.join(beaten)}")
        if even:
            parts.append(f"not shown to differ from {', '.join(even)}")
        told = "; ".join(parts)
        return f"{first} has the highest UA: {told} (paired t-tests, p by Holm)."

    def _shown(self, pair: tuple[int, int]) -> bool:
        p = self.p_holm[pair]
        return p is not None and p < ALPHA

    def text(self) -> str:
        """The tables, what they are over, and the verdict, in Markdown."""
        pair = next(iter(self.pairs.values()))
        scores = markdown_table(
            ("Setting", "Streams", *SCORES.values()),
            [
                (
                    standing.name,
                    next(iter(standing.chosen.row_of.values())).modalities,
                    *(share(standing.scores[n], standing.sd[n]) for n in SCORES),
                )
                for standing in self.standings
            ],
        )
        tests = markdown_table(
            ("A", "B", "UA: A - B", "t-test p", "p by Holm", "Wilcoxon p"),
            [self._test_row(at) for at in self.pairs],
        )
        return "\n\n".join(
            [
                f"{len(self.standings)} settings, each of the same {pair.num_runs} runs (folds x "
                "seeds)",
                scores,
                f"± is the standard deviation over runs; intervals (95 %, Student's) and p are "
                f"over {pair.units['ua'].num_units} {pair.over}.",
                tests,
                *(f"Note: {note}" for note in self.notes),
                self.verdict,
            ]
        )

    def _test_row(self, at: tuple[int, int]) -> tuple[str, ...]:
        a, b = (self.standings[n].name for n in at)
        ua = self.pairs[at].units["ua"]
        return (
            *(a, b, points(ua.difference), p_value(ua.p_t)),
            *(p_value(self.p_holm[at]), p_value(ua.p_wilcoxon)),
        )

    def lines(self) -> list[dict[str, Any]]:
        """Every pair's numbers, as `Comparison.lines` has them, with the names of A and B."""
        found = []
        for at, comparison in self.pairs.items():
            a, b = (self.standings[n].name for n in at)
            for line in comparison.lines():
                of_test = line["over"] != "clips" and line["score"] == "ua"
                p_holm = self.p_holm[at] if of_test else None
                found.append({"a": a, "b": b, **line, "p_holm": p_holm})
        return found

    def plot(self, path: Path) -> Path:
        """UA of each setting with its interval over its runs, the best above."""
        figure, axis = new_picture("", height=0.9 + 0.34 * len(self.standings))
        for place, standing in enumerate(self.standings):
            ua_R = [row.ua for row in standing.chosen.row_of.values()]
            axis.plot(ua_R, [place] * len(ua_R), "o", color=GREY, markersize=3, alpha=0.8)
            ua = standing.scores["ua"]
            reach = [[ua.mean - (ua.low or ua.mean)], [(ua.high or ua.mean) - ua.mean]]
            axis.errorbar([ua.mean], [place], xerr=reach, fmt="D", color=BLUE, markersize=5)
        axis.set_yticks(range(len(self.standings)), [s.name for s in self.standings], fontsize=8)
        axis.margins(y=0.15)
        axis.invert_yaxis()
        axis.set_xlabel("UA on test: runs, their mean and its 95 % interval", fontsize=8)
        axis.grid(axis="x", alpha=0.25)
        return save_picture(figure, path)


def compare_several(chosen: Sequence[Chosen]) -> Several:
    """All tests of every pair. Raises CompareError where they were not judged alike."""
    keys = set.intersection(*(set(x.row_of) for x in chosen))
    if not keys:
        raise CompareError(
            f"no fold and seed that all of {', '.join(x.name for x in chosen)} ran; run them with "
            "the same folds and seeds, or compare two at a time"
        )
    named = zip(told_apart(chosen), chosen, strict=True)
    same = [
        (name, dataclasses.replace(x, row_of={k: x.row_of[k] for k in sorted(keys)}))
        for name, x in named
    ]
    same.sort(key=lambda x: -float(np.mean([row.ua for row in x[1].row_of.values()])))
    pairs = {(i, j): compare(same[i][1], same[j][1]) for i, j in combinations(range(len(same)), 2)}
    notes = [
        note
        for found in pairs.values()
        for note in (*found.of_tests, *found.unlike(shown=("modalities",)))  # in the first table
    ]
    notes += [
        f"left out, since not all have such a run: {len(x.row_of) - len(keys)} runs of {x.name}"
        for x in chosen
        if len(x.row_of) > len(keys)
    ]
    return Several(
        standings=[_standing(n, name, x, pairs) for n, (name, x) in enumerate(same)],
        pairs=pairs,
        p_holm=_holm({at: found.units["ua"].p_t for at, found in pairs.items()}),
        notes=list(dict.fromkeys(notes)),
    )


def _standing(
    place: int, name: str, chosen: Chosen, pairs: dict[tuple[int, int], Comparison]
) -> Standing:
    """From any of its comparisons: over the same runs, all say the same of it."""
    at = next(at for at in pairs if place in at)
    found, side = pairs[at], at.index(place)
    return Standing(
        name=name,
        chosen=chosen,
        scores={score: (units.a, units.b)[side] for score, units in found.units.items()},
        sd={score: sd[side] for score, sd in found.sd.items()},
    )


def _holm(p_of: dict[tuple[int, int], float | None]) -> dict[tuple[int, int], float | None]:
    """Holm's step-down: the k-th smallest of m by m - k + 1, never below one before it, 1 at
    most."""
    tested = sorted((p, at) for at, p in p_of.items() if p is not None)
    found: dict[tuple[int, int], float | None] = dict.fromkeys(p_of)
    least = 0.0
    for rank, (p, at) in enumerate(tested):
        least = max(least, min(1.0, p * (len(tested) - rank)))
        found[at] = least
    return found
