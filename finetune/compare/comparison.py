"""A against B: paired tests over folds or runs, and over clips; in words, tables and lines.

The unit of the test is a fold, as the mean of its seeds, where there are five folds or more: the
seeds of one fold are judged on the same clips and count as one. With fewer folds it is the run, and
the answer says what that is worth. Even folds share most of their training clips, so that a p just
below 0.05 is a hint, no proof (Dietterich 1998).
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.markdown import markdown_table
from finetune.compare.chosen import Chosen, CompareError, Key, told_apart
from finetune.compare.paired import Interval, PairedClips, PairedUnits, compare_clips, compare_units

SCORES = {"wa": "WA", "ua": "UA", "macro_f1": "Macro-F1"}
MIN_FOLDS = 5
"""From so many on a fold is the unit of the test."""
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What all tests came to."""

    names: tuple[str, str]
    """Of A and B."""
    num_folds: int
    num_seeds: int
    num_runs: int
    """Pairs of runs."""
    over: str
    """The unit: folds, or runs."""
    units: dict[str, PairedUnits]
    """By score."""
    sd: dict[str, tuple[float | None, float | None]]
    """Score to the standard deviations of A and B over runs, as in table.csv."""
    clips: dict[int, PairedClips]
    """Seed to the test of the clips of all its folds together."""
    of_tests: list[str]
    """What a reader must know of the tests."""
    differences: dict[str, tuple[Any, Any]]
    """In what A and B differ beside their names."""

    @property
    def notes(self) -> list[str]:
        """All that a reader must know."""
        return [*self.of_tests, *self.unlike()]

    def unlike(self, shown: Collection[str] = ()) -> list[str]:
        """In words, `differences` but those that are `shown` elsewhere."""
        return [
            f"they differ in {what}: {a} and {b}"
            for what, (a, b) in self.differences.items()
            if what not in shown
        ]

    @property
    def verdict(self) -> str:
        """One sentence, by the t-test on UA."""
        ua, (a, b) = self.units["ua"], self.names
        difference = 100 * ua.difference.mean
        gap = f"{abs(difference):.1f} points of UA"
        if ua.num_units < 2:
            return f"Between {a} and {b} lie {gap} in the one run of each: too few for a test."
        ends = (ua.difference.low, ua.difference.high)
        tested = (
            f"(A - B: 95 % interval {100 * ends[0]:+.1f} to {100 * ends[1]:+.1f} over "
            f"{ua.num_units} {self.over}; paired t-test p {_p_equals(ua.p_t)}, Wilcoxon p "
            f"{_p_equals(ua.p_wilcoxon)})"
        )
        if ua.p_t is None:
            return (
                f"{a} and {b} differ by the same {gap} {tested} in each: no spread to test it by."
            )
        if ua.p_t >= ALPHA:
            told = f"{difference:+.1f} points of UA {tested}"
            return f"No difference between {a} and {b} is shown: {told}."
        better, worse = (a, b) if ua.difference.mean > 0 else (b, a)
        doubt = "" if ua.p_wilcoxon < ALPHA else "; the signed-rank test does not confirm it"
        return f"{better} is better than {worse} by {gap} {tested}{doubt}."

    def text(self) -> str:
        """Tables, what they are over, the verdict, and what else a reader must know."""
        a, b = self.names
        folds, seeds = _counted(self.num_folds, "fold"), _counted(self.num_seeds, "seed")
        runs = f"{_counted(self.num_runs, 'pair')} of runs ({folds} x {seeds})"
        unit = (
            f"{self.num_folds} folds, each the mean of its seeds"
            if self.over == "folds"
            else f"{self.num_runs} runs"
        )
        scores = markdown_table(
            ("Score", "A", "B", "A - B", "t-test p", "Wilcoxon p"),
            [self._score_row(name) for name in SCORES],
        )
        clips = markdown_table(
            ("Seed", "Clips", "WA: A - B", "UA: A - B", "A alone right", "B alone right", "p"),
            [_clip_row(seed, of_seed) for seed, of_seed in self.clips.items()],
        )
        return "\n\n".join(
            [
                f"A is {a}, B is {b}: {runs}",
                scores,
                f"± is the standard deviation over runs; intervals (95 %, Student's) and p are "
                f"over {unit}.",
                clips,
                "The test clips of all folds together, a seed a line: differences with their 95 % "
                "bootstrap interval over clips, and McNemar's exact test. It asks whether these "
                "two trained models differ on such clips, not whether training again would show "
                "it.",
                *(f"Note: {note}" for note in self.notes),
                self.verdict,
            ]
        )

    def _score_row(self, score: str) -> tuple[str, ...]:
        units, (sd_a, sd_b) = self.units[score], self.sd[score]
        return (
            SCORES[score],
            share(units.a, sd_a),
            share(units.b, sd_b),
            points(units.difference),
            p_value(units.p_t),
            p_value(units.p_wilcoxon),
        )

    def lines(self) -> list[dict[str, Any]]:
        """The tables as numbers: a line for each score, and two for each seed's clips."""
        found = []
        for score, units in self.units.items():
            line = {"over": self.over, "seed": None, "score": score, "num": units.num_units}
            for name, interval, sd in zip("ab", (units.a, units.b), self.sd[score], strict=True):
                line |= _ends(name, interval) | {f"{name}_sd_runs": sd}
            line |= _ends("difference", units.difference)
            found.append(line | {"p_t": units.p_t, "p_wilcoxon": units.p_wilcoxon})
        for seed, of_seed in self.clips.items():
            for score, interval in (("wa", of_seed.wa), ("ua", of_seed.ua)):
                line = {"over": "clips", "seed": seed, "score": score, "num": of_seed.num_clips}
                found.append(line | _ends("difference", interval))
                if score == "wa":  # McNemar's test is about the clips that are right
                    found[-1] |= {"only_a": of_seed.only_a, "only_b": of_seed.only_b}
                    found[-1] |= {"p_mcnemar": of_seed.p_mcnemar}
        names = (*found[0], "only_a", "only_b", "p_mcnemar")
        return [{name: line.get(name) for name in names} for line in found]


def compare(a: Chosen, b: Chosen) -> Comparison:
    """All tests of A against B. Raises CompareError where they were not judged alike."""
    _check_alike(a, b)
    keys = sorted(a.row_of.keys() & b.row_of.keys())
    if not keys:
        raise CompareError(
            f"no fold and seed that both ran: {a.name} has {_told(a.row_of)}, {b.name} "
            f"{_told(b.row_of)}; run both with the same folds and seeds"
        )
    folds = sorted({fold for fold, _ in keys})
    over = "folds" if len(folds) >= MIN_FOLDS else "runs"
    units, sd = {}, {}
    for score in SCORES:
        of_runs = [np.array([getattr(x.row_of[k], score) for k in keys]) for x in (a, b)]
        sd[score] = tuple(float(v.std(ddof=1)) if len(v) > 1 else None for v in of_runs)
        if over == "folds":
            at = [[i for i, key in enumerate(keys) if key[0] == fold] for fold in folds]
            of_runs = [np.array([v[i].mean() for i in at]) for v in of_runs]
        units[score] = compare_units(*of_runs)
    clips, repeated = _over_clips(a, b, keys)
    found = Comparison(
        names=told_apart((a, b)),
        num_folds=len(folds),
        num_seeds=len({seed for _, seed in keys}),
        num_runs=len(keys),
        over=over,
        units=units,
        sd=sd,
        clips=clips,
        of_tests=[],
        differences=_differences(a, b),
    )
    found.of_tests.extend(_notes(a, b, keys, found, repeated))
    return found


def _check_alike(a: Chosen, b: Chosen) -> None:
    if a.recipe.recipe == b.recipe.recipe and a.folder.resolve() == b.folder.resolve():
        raise CompareError(f"A and B are both {a.name} of {a.folder}; name two settings")
    first, second = (next(iter(x.row_of.values())) for x in (a, b))
    facts = {
        "folds (data.protocol)": (first.fold_file_sha256[:12], second.fold_file_sha256[:12]),
        "shards (data.shards)": (first.data_sha256[:12], second.data_sha256[:12]),
        "classes (data.labels)": tuple(", ".join(sorted(x.recipe.classes)) for x in (a, b)),
    }
    differ = [f"{what}: {of_a} and {of_b}" for what, (of_a, of_b) in facts.items() if of_a != of_b]
    if differ:
        raise CompareError(
            f"{a.name} and {b.name} were not judged on the same: {'; '.join(differ)}; run both on "
            "the same"
        )


def _over_clips(a: Chosen, b: Chosen, keys: Sequence[Key]) -> tuple[dict[int, PairedClips], int]:
    """Seed to its test; and how many clips are test clips of several folds."""
    of_seed: dict[int, list[tuple[str, str, str, str]]] = {}
    for fold, seed in keys:
        said_a, said_b = a.said((fold, seed)), b.said((fold, seed))
        truths = [{clip: truth for clip, (truth, _) in s.items()} for s in (said_a, said_b)]
        if truths[0] != truths[1]:
            raise CompareError(
                f"fold {fold}, seed {seed}: {a.name} was judged on {len(said_a)} clips, {b.name} "
                f"on {len(said_b)}, and they are not the same ones with the same labels; run both "
                "with the same data.labels and with data.long_texts=cut"
            )
        of_seed.setdefault(seed, []).extend(
            (clip, truth, said, said_b[clip][1]) for clip, (truth, said) in said_a.items()
        )
    found, repeated = {}, 0
    for seed, lines in sorted(of_seed.items()):
        clip_N, truth_N, a_N, b_N = (np.array(column) for column in zip(*lines, strict=True))
        found[seed] = compare_clips(truth_N, a_N, b_N)
        repeated = max(repeated, sum(count > 1 for count in Counter(clip_N).values()))
    return found, repeated


def _notes(
    a: Chosen, b: Chosen, keys: Sequence[Key], found: Comparison, repeated: int
) -> list[str]:
    """What a reader must know of the tests."""
    notes = []
    ua = found.units["ua"]
    if found.over == "runs" and found.num_seeds > 1:
        notes.append(
            f"with {_counted(found.num_folds, 'fold')}, fewer than {MIN_FOLDS}, the unit is the "
            "run, and the seeds of a fold are judged on the same test clips: the units are not "
            "independent, p is too small and the intervals are too narrow"
        )
    if found.num_folds == 1:
        notes.append("there is one fold: nothing is said of other test clips")
    if 1 < ua.num_units and ua.least_wilcoxon >= ALPHA:
        notes.append(
            f"the signed-rank test of {ua.num_units} {found.over} cannot give a p below "
            f"{ua.least_wilcoxon:.3g}, however far apart they are"
        )
    for x in (a, b):
        left = sorted(x.row_of.keys() - set(keys))
        if left:
            notes.append(f"left out, since the other has no such run: {x.name}, {_told(left)}")
    if repeated:
        notes.append(f"{repeated} clips are test clips of several folds and count as often")
    rows = [x.row_of[key] for x in (a, b) for key in keys]
    if any(row.selection == "oracle" for row in rows):
        notes.append("a step was chosen on the test clips themselves: no honest number")
    if any(row.shared_speakers for row in rows):
        notes.append("training and test may share speakers: mechanics, not accuracy")
    return notes


def _differences(a: Chosen, b: Chosen) -> dict[str, tuple[Any, Any]]:
    """By column of a results row, of the settings that make A and B unlike."""
    first, second = (next(iter(x.row_of.values())) for x in (a, b))
    pairs = {
        what: (getattr(first, what), getattr(second, what))
        for what in ("modalities", "selection", "train_on", "label_share")
    }
    return {what: pair for what, pair in pairs.items() if pair[0] != pair[1]}


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _told(keys: Sequence[Key] | dict[Key, Any]) -> str:
    folds, seeds = (sorted({key[i] for key in keys}) for i in (0, 1))
    return f"folds {', '.join(map(str, folds))} with seeds {', '.join(map(str, seeds))}"


def _clip_row(seed: int, found: PairedClips) -> tuple[Any, ...]:
    gains = (points(found.wa), points(found.ua))
    return seed, found.num_clips, *gains, found.only_a, found.only_b, p_value(found.p_mcnemar)


def _ends(name: str, interval: Interval) -> dict[str, float | None]:
    return {
        f"{name}_mean": interval.mean,
        f"{name}_low": interval.low,
        f"{name}_high": interval.high,
    }


def share(interval: Interval, sd: float | None) -> str:
    """A mean, its standard deviation over runs and its interval, in percent."""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.1%}"
    ends = f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    return f"{100 * interval.mean:.1f} ± {100 * (sd or 0):.1f} % {ends}"


def points(interval: Interval) -> str:
    """A difference and its interval, in percentage points."""
    if interval.low is None or interval.high is None:
        return f"{100 * interval.mean:+.1f}"
    return f"{100 * interval.mean:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def p_value(value: float | None) -> str:
    """As a table shows it."""
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _p_equals(value: float | None) -> str:
    text = p_value(value)
    return text if text.startswith("<") else f"= {text}"
