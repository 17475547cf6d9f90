"""What the training clips of a fold teach: a universal answer for each.

Shapes: N clips that are learned from, those of sources last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.clips.labelled import LabelledClip
from finetune.protocols import Splits
from finetune.systems.unimse.answers import (
    EMOTION,
    NOTHING,
    POLARITIES,
    POLARITY,
    SCORE,
    Field,
    score_text,
)
from finetune.systems.unimse.config import Options
from finetune.systems.unimse.labels.similarity import Similarity
from finetune.systems.unimse.labels.universal import (
    Labelled,
    complete,
    polarity_of,
    read_score,
    read_source,
    unheard,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """Answers of training clips."""

    values: list[dict[str, str]]
    """Of each clip, field to word; then of each text of `borrowed`."""
    borrowed: list[str]
    """Texts of sources that are learned from."""
    label_N: np.ndarray
    """int64, the judged class of each, of borrowed texts the completed one."""
    typical: dict[str, str]
    """Polarity to the median of its scores; empty without scores."""
    notes: list[str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """Makes the lesson of any fold."""

    classes: tuple[str, ...]
    options: Options
    polarities: dict[str, str]
    """Of the judged classes."""
    sources: dict[str, list[Labelled]]
    similarity: Similarity

    @classmethod
    def build(cls, classes: tuple[str, ...], options: Options) -> "Teacher":
        """Raises ConfigError for an emotion of unknown polarity, SourceError for a table that
        cannot be used."""
        sources = {
            name: read_source(name, source, options.polarity)
            for name, source in options.sources.items()
        }
        return cls(
            classes=classes,
            options=options,
            polarities={n: polarity_of(n, options.polarity, "data.labels") for n in classes},
            sources=sources,
            similarity=Similarity(encoder=options.similarity),
        )

    @property
    def fields(self) -> tuple[Field, ...]:
        """Of an answer, in their order."""
        sources = self.options.sources
        scored = self.options.score is not None or any(not s.labels for s in sources.values())
        return (
            Field(name=POLARITY, words=POLARITIES),
            *([Field(name=SCORE)] if scored else []),
            Field(name=EMOTION, words=self.classes),
            *(Field(name=n, words=tuple(s.labels)) for n, s in sources.items() if s.labels),
        )

    def lesson(self, splits: Splits, seed: int) -> Lesson:
        """From the labels of train alone; of dev and test the words are looked at, to leave out
        what a source has of them."""
        own = [self._own(clip) for clip in splits.train]
        borrowed, givers, notes = self._borrow(splits, seed)
        names = [field.name for field in self.fields[1:]]
        values, empty = complete([*own, *borrowed], givers, names, self.similarity.rows)
        # What is learned must say the judged class; a polarity that no class has cannot.
        pairs = list(zip(borrowed, values[len(own) :], strict=True))
        pairs = [(text, said) for text, said in pairs if EMOTION in said]
        if unsaid := empty.pop(EMOTION, 0):
            notes.append(f"{unsaid} texts of sources have a polarity of no class: not learned")
        notes += [f"{n} answers have no {field}: {NOTHING}" for field, n in empty.items()]
        values = [*values[: len(own)], *(said for _, said in pairs)]
        return Lesson(
            values=values,
            borrowed=[one.text for one, _ in pairs],
            label_N=np.array([self.classes.index(said[EMOTION]) for said in values], np.int64),
            typical=_typical(values) if SCORE in names else {},
            notes=notes,
        )

    def _borrow(
        self, splits: Splits, seed: int
    ) -> tuple[list[Labelled], list[Labelled], list[str]]:
        """Texts of sources that are learned from, those that only give, and notes."""
        judged = [clip.sample.text or "" for clip in (*splits.dev, *splits.test)]
        borrowed, givers, notes = [], [], []
        for name, texts in self.sources.items():
            kept = unheard(texts, judged)
            if len(kept) < len(texts):
                notes.append(
                    f"{len(texts) - len(kept)} of {len(texts)} texts of {name} are left out: dev "
                    "or test has their words"
                )
            order = np.random.default_rng(np.random.SeedSequence((seed, 2))).permutation(len(kept))
            learn = self.options.sources[name].learn
            borrowed += [kept[i] for i in sorted(order[:learn])]
            givers += [kept[i] for i in sorted(order[learn:])]
        return borrowed, givers, notes

    def _own(self, clip: LabelledClip) -> Labelled:
        emotion = self.classes[clip.label]
        values = {POLARITY: self.polarities[emotion], EMOTION: emotion}
        said = clip.sample.column(self.options.score) if self.options.score else None
        if said not in (None, ""):
            where = f"{clip.sample.id}, column {self.options.score}"
            values[SCORE] = score_text(read_score(str(said), where))
        return Labelled(text=clip.sample.text or "", values=values)


def _typical(values: Sequence[dict[str, str]]) -> dict[str, str]:
    scores: dict[str, list[float]] = {polarity: [] for polarity in POLARITIES}
    for said in values:
        if said.get(SCORE, NOTHING) != NOTHING:
            scores[said[POLARITY]].append(float(said[SCORE]))
    return {p: score_text(float(np.median(s))) if s else NOTHING for p, s in scores.items()}
