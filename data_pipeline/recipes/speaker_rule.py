"""Recipe of the rule that chooses a speaker: how much a network counts, and where the bar is.

    python -m data_pipeline.recipes.speaker_rule docs/results/active_speaker/turns.csv --fit studio

The table is what `python -m data_pipeline.speaker.bench --table` writes of turns made by
data_pipeline.speaker.turns. Of the faces whose evidence is at the bar or above the one with the
highest speaks; with a network and synchrony together the bar is the network's, synchrony must be
above zero, and the highest sum synchrony + weight x log odds wins. Weight and bar are those of
least cost on the turns fitted on, where a speaker who is missed, or mistaken for another, costs
TALKER_COST times what a muted talker who is taken costs: in a corpus nearly every face that talks
is heard. Of those of equal cost the one with the widest room for the bar is taken, and the bar in
the middle of it.

Only the turns of the group --fit are fitted on, and there everybody is judged by a rule fitted
without a turn that shows or sounds that person; the other groups are judged by the rule fitted on
all of --fit.
"""

import argparse
import csv
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.command_line import run_command
from data_pipeline.markdown import markdown_table
from data_pipeline.settings import SpeakerSettings
from data_pipeline.speaker.bench import wilson

TALKER_COST = 10
WEIGHTS = (0.03, 0.05, 0.1, 0.2)
SYNCHRONY_BARS = np.arange(0, 0.5, 0.01)
LOG_ODDS_BARS = np.arange(0, 12, 0.25)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One turn of the table."""

    kind: str
    group: str
    people: frozenset[str]
    """Seen or heard."""
    seen: tuple[str, ...]
    truth: str
    answers: dict[str, str]
    """Of the methods that have nothing to fit."""
    faces: list[dict[str, float]]
    """Evidence of each face that moves its mouth, by name."""
    panels: list[str]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Synchrony alone, a network alone, or both."""

    names: tuple[str, ...]
    bar: float
    weight: float = 0.0
    """Of the network, where there are both."""

    def answer(self, row: Row) -> str:
        *first, last = self.names
        scores = [
            (sum(f[n] for n in first) + (self.weight if first else 1.0) * f[last], panel)
            for f, panel in zip(row.faces, row.panels, strict=True)
            if f[last] >= self.bar and all(f[n] >= 0 for n in first)
        ]
        return max(scores)[1] if scores else "nobody"

    def __str__(self) -> str:
        *first, last = self.names
        ranked = f", ranked by {first[0]} + {self.weight:g} x it" if first else ""
        return f"{last} >= {self.bar:.3f}{ranked}"


def read_table(path: Path, networks: list[str]) -> list[Row]:
    with open(path, newline="", encoding="utf-8") as file:
        return [_row(cells, networks) for cells in csv.DictReader(file)]


def network_names(path: Path) -> list[str]:
    with open(path, newline="", encoding="utf-8") as file:
        columns = csv.DictReader(file).fieldnames or []
    joint = [c.removeprefix("synchrony+") for c in columns if c.startswith("synchrony+")]
    return [name for name in joint if f"{name}_by_face" in columns]


def _row(cells: dict[str, str], networks: list[str]) -> Row:
    s = SpeakerSettings()
    by_face = {
        name: cells[f"{name}_by_face"].split()
        for name in ("panel", "open", "change", "match_share", "synchrony", *networks)
    }
    moving = [
        k
        for k in range(len(by_face["panel"]))
        if float(by_face["open"][k]) > 0
        and float(by_face["change"][k]) > 0
        and float(by_face["match_share"][k]) >= s.min_match_share
        and "-" not in {by_face[name][k] for name in ("synchrony", *networks)}
    ]
    seen = tuple(cells["people"].split())
    return Row(
        kind=cells["kind"],
        group=cells["group"],
        people=frozenset((*seen, cells["voice"])),
        seen=seen,
        truth=cells["truth"],
        answers={m: cells[m] for m in ("synchrony", "counts", "loudest_mover", *networks)},
        faces=[
            {name: float(by_face[name][k]) for name in ("synchrony", *networks)} for k in moving
        ],
        panels=[by_face["panel"][k] for k in moving],
    )


def fit(rows: list[Row], names: tuple[str, ...]) -> Rule:
    """The rule of least cost, in the middle of the widest room for its bar."""
    bars = SYNCHRONY_BARS if names[-1] == "synchrony" else LOG_ODDS_BARS
    best: tuple[float, int, Rule] | None = None
    for weight in WEIGHTS if len(names) == 2 else (0.0,):
        costs = [cost(rows, Rule(names=names, weight=weight, bar=float(bar))) for bar in bars]
        edges = [0, *(np.flatnonzero(np.diff(costs)) + 1), len(bars)]
        for first, beyond in itertools.pairwise(edges):
            middle = float(bars[first] + bars[beyond - 1]) / 2
            rule = Rule(names=names, weight=weight, bar=middle)
            if best is None or (costs[first], first - beyond) < best[:2]:
                best = (costs[first], first - beyond, rule)
    return best[2]


def cost(rows: list[Row], rule: Rule) -> float:
    wrong = [row.truth for row in rows if rule.answer(row) != row.truth]
    return sum(1 if truth == "nobody" else TALKER_COST for truth in wrong)


def judge_left_out(rows: list[Row], names: tuple[str, ...], fit_group: str) -> list[bool]:
    """Whether each turn is right under a rule that knows nobody in it."""
    pool = [r for r in rows if r.group == fit_group]
    fitted: dict[frozenset[str], Rule] = {}
    right = []
    for row in rows:
        out = row.people if row.group == fit_group else frozenset()
        if out not in fitted:
            fitted[out] = fit([r for r in pool if not r.people & out], names)
        right.append(fitted[out].answer(row) == row.truth)
    return right


def by_kind(rows: list[Row], rights: dict[str, list[bool]]) -> str:
    """Markdown, a line a rule: right of all in each kind, and of all with the 95 % interval."""
    at = {
        kind: [k for k, r in enumerate(rows) if r.kind == kind]
        for kind in dict.fromkeys(r.kind for r in rows)
    }
    at["all"] = list(range(len(rows)))
    lines = []
    for name, right in rights.items():
        cells = []
        for places in at.values():
            count = sum(right[k] for k in places)
            low, high = wilson(count, len(places))
            cells.append(f"{count} ({low:.0%} to {high:.0%})")
        lines.append((name, *cells))
    return markdown_table(("right of", *(f"{len(k)} {kind}" for kind, k in at.items())), lines)


def by_person(rows: list[Row], rights: dict[str, list[bool]]) -> str:
    """Markdown, a line a person: right of the turns in which that person is seen."""
    lines = []
    for person in sorted({name for r in rows for name in r.seen}):
        at = [k for k, r in enumerate(rows) if person in r.seen]
        lines.append((person, len(at), *(sum(right[k] for k in at) for right in rights.values())))
    return markdown_table(("person seen", "turns", *rights), lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="CSV of data_pipeline.speaker.bench --table")
    parser.add_argument("--fit", required=True, help="the group whose people are fitted on")
    args = parser.parse_args(argv)
    networks = network_names(args.table)
    rows = read_table(args.table, networks)
    if not any(r.group == args.fit for r in rows):
        groups = ", ".join(sorted({r.group for r in rows})) or "none"
        parser.error(f"no turn of group {args.fit} in {args.table}; there are {groups}")
    rights = {
        f"{m} (ships)" if m == "synchrony" else m: [r.answers[m] == r.truth for r in rows]
        for m in rows[0].answers
    }
    rules = [("synchrony",), *((n,) for n in networks), *(("synchrony", n) for n in networks)]
    for names in rules:
        rights["+".join(names) + ", fitted"] = judge_left_out(rows, names, args.fit)
        print(f"speaks if {fit([r for r in rows if r.group == args.fit], names)}")
    print("\n" + by_kind(rows, rights))
    for group in dict.fromkeys(r.group for r in rows):
        at = [k for k, r in enumerate(rows) if r.group == group]
        some = {m: [right[k] for k in at] for m, right in rights.items()}
        print(f"\n{group}:\n\n" + by_kind([rows[k] for k in at], some))
    print("\n" + by_person(rows, rights))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main, None, name="speaker_rule"))
