"""Universal labels: what a text's own corpus does not say of it, the most similar text of another
corpus does, among those of the same polarity.

Training clips and the tables of `sources` alone are looked at; the released code reads the labels
of whole corpora, test among them. A text that a source shares with a clip that is judged is left
out.
"""

import csv
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipeline.config import ConfigError
from data_pipeline.corpora._open_data import plain_words
from data_pipeline.errors import UserError
from data_pipeline.table.words import normalize_text
from finetune.systems.unimse.answers import LARGEST_SCORE, POLARITY, SCORE, score_text
from finetune.systems.unimse.config import Source

POLARITY_OF = {
    **dict.fromkeys("happy happiness hap joy joyful excited exc excitement".split(), "positive"),
    **dict.fromkeys("amused proud peaceful powerful pleased positive".split(), "positive"),
    **dict.fromkeys("neutral neu calm other surprise surprised".split(), "neutral"),
    **dict.fromkeys("anger angry ang mad sad sadness fear fearful scared".split(), "negative"),
    **dict.fromkeys("disgust disgusted frustrated frustration fru contempt".split(), "negative"),
    **dict.fromkeys("bored boredom anxious anxiety negative".split(), "negative"),
}
"""Of the names that corpora give; surprise may be either, and counts as neutral."""
AT_ONCE = 1024
"""Rows of the table of similarities, so that corpora of 20,000 texts fit into memory."""
Rows = Callable[[Sequence[str]], Any]
"""Texts to rows whose products are cosines."""


class SourceError(UserError):
    """A table of a source that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A text, and what is known of it."""

    text: str
    values: dict[str, str]
    """Field of the answer to its word; polarity is always there."""

    @property
    def polarity(self) -> str:
        return self.values[POLARITY]


def polarity_of(emotion: str, told: Mapping[str, str], where: str) -> str:
    """Raises ConfigError for a name that nobody has told of."""
    found = told.get(emotion) or POLARITY_OF.get(emotion.casefold())
    if found is None:
        raise ConfigError(
            f"{where}: nobody says whether {emotion!r} is positive, neutral or negative; add it, "
            f"options.polarity={{{emotion}: neutral}}"
        )
    return found


def polarity_of_score(score: float) -> str:
    return "positive" if score > 0 else "negative" if score < 0 else "neutral"


def read_source(name: str, source: Source, polarity: Mapping[str, str]) -> list[Labelled]:
    """The texts of a source, in the order of its table.

    Raises SourceError for a table that is not there, lacks a column, or has no row that can be
    used, and for a sentiment that is no number from -3 to 3.
    """
    where = f"options.sources.{name}"
    try:
        with open(source.table, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            absent = [c for c in (source.text, source.label) if c not in (reader.fieldnames or ())]
            if absent:
                raise SourceError(
                    f"{where}: {source.table} has no column {', '.join(absent)}; it has "
                    f"{', '.join(reader.fieldnames or ()) or 'none'}; set text and label"
                )
            lines = [(row[source.text] or "", (row[source.label] or "").strip()) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{where}: cannot read {source.table}: {error}") from error
    emotion_of = {said.casefold(): e for e, names in source.labels.items() for said in names}
    polarity_by = {e: polarity_of(e, polarity, where) for e in source.labels}
    found = []
    for text, label in lines:
        text = normalize_text(text) or ""
        if not plain_words(text) or not label:
            continue
        if source.labels:
            emotion = emotion_of.get(label.casefold())
            if emotion is None:
                continue
            values = {POLARITY: polarity_by[emotion], name: emotion}
        else:
            score = read_score(str(source.scores.get(label, label)), where)
            values = {POLARITY: polarity_of_score(score), SCORE: score_text(score)}
        found.append(Labelled(text=text, values=values))
    if not found:
        raise SourceError(
            f"{where}: none of the {len(lines)} rows of {source.table} has words and a label that "
            f"is asked for; its column {source.label} has "
            f"{', '.join(list(dict.fromkeys(label for _, label in lines))[:8]) or 'nothing'}"
        )
    return found


def read_score(said: str, where: str) -> float:
    """Raises SourceError for what is no sentiment."""
    try:
        score = float(said)
    except ValueError:
        score = np.nan
    if not abs(score) <= LARGEST_SCORE:
        raise SourceError(
            f"{where}: {said!r} is no sentiment; expected a number from -3 to 3, or, of emotions, "
            "`labels`, of words, `scores`"
        )
    return score


def unheard(texts: Sequence[Labelled], judged: Collection[str]) -> list[Labelled]:
    """Those whose words no judged clip says."""
    words = {plain_words(text) for text in judged}
    return [one for one in texts if plain_words(one.text) not in words]


def complete(
    takers: Sequence[Labelled],
    givers: Sequence[Labelled],
    fields: Sequence[str],
    rows: Rows,
) -> tuple[list[dict[str, str]], Counter[str]]:
    """(the values of each taker with those of `fields` that it lacked, taken of the most similar
    giver of its polarity that has one, the first of equals; how many of a field stay empty, since
    there is no such giver, or the taker has no words)."""
    every = [*takers, *givers]
    x_NH = None
    completed = [dict(one.values) for one in takers]
    empty: Counter[str] = Counter()
    for field, polarity in itertools.product(fields, dict.fromkeys(t.polarity for t in takers)):
        alike = [
            (i, field in one.values) for i, one in enumerate(every) if one.polarity == polarity
        ]
        has = [i for i, there in alike if there]
        lacks = [i for i, there in alike if not there and i < len(takers)]
        said = [i for i in lacks if has and plain_words(every[i].text)]
        empty[field] += len(lacks) - len(said)
        if said and x_NH is None:
            x_NH = rows([one.text for one in every])
        for start in range(0, len(said), AT_ONCE):
            part = said[start : start + AT_ONCE]
            nearest_P = np.asarray((x_NH[part] @ x_NH[has].T).argmax(1)).ravel()
            for i, nearest in zip(part, nearest_P, strict=True):
                completed[i][field] = every[has[nearest]].values[field]
    return completed, +empty
