"""One answer for labels of all kinds: what the T5 learns to write, and what is read off it.

    negative , -1.6 , sad , frustrated
    polarity   score  judged  of another corpus

The first field and the judged one are always there; a score and emotions of other corpora where
some corpus of the run has them. Fields are turned into pieces one by one, so that a word has the
same pieces wherever it stands.

Shapes: C classes, A tokens of an answer.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from data_pipeline.config import ConfigError

POLARITIES = ("positive", "neutral", "negative")
POLARITY, SCORE, EMOTION = "polarity", "score", "emotion"
LARGEST_SCORE = 3.0
NOTHING = "none"
"""Stands in a field that no text could complete."""
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True, kw_only=True)
class Field:
    """One of an answer."""

    name: str
    """polarity, score, emotion (the judged one), or the source that has it."""
    words: tuple[str, ...] = ()
    """That may stand in it; none for a score."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerBook:
    """Which answers there are."""

    fields: tuple[Field, ...]
    """In their order: polarity first."""
    polarity_of: dict[str, str]
    """Class, of the judged ones, to its polarity."""
    typical: dict[str, str]
    """Polarity to the score that stands between it and the word when classes are compared; empty
    without scores."""
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def build(
        cls,
        fields: Sequence[Field],
        polarity_of: Mapping[str, str],
        typical: Mapping[str, str],
        tokenizer: PreTrainedTokenizerBase,
    ) -> "AnswerBook":
        """Raises ConfigError for words that cannot be told apart in an answer."""
        book = cls(
            fields=tuple(fields),
            polarity_of=dict(polarity_of),
            typical=dict(typical),
            tokenizer=tokenizer,
        )
        for field in fields:
            _check_words(field, book)
        return book

    @property
    def classes(self) -> tuple[str, ...]:
        return next(field.words for field in self.fields if field.name == EMOTION)

    @property
    def eos(self) -> int:
        """What ends an answer; BERT's pieces have [SEP] for it."""
        return eos_of(self.tokenizer)

    @property
    def longest(self) -> int:
        """Tokens of the longest answer that can be taught."""
        of_score = len(self.pieces(f"-{LARGEST_SCORE:.1f}"))
        words = [[len(self.pieces(w)) for w in (*f.words, NOTHING)] for f in self.fields]
        comma = len(self.pieces(","))
        return sum(max(of_score, *lengths) + max(comma, 1) for lengths in words)

    def pieces(self, word: str) -> list[int]:
        return self.tokenizer(word, add_special_tokens=False).input_ids

    def ids(self, values: Mapping[str, str]) -> list[int]:
        """The tokens of a whole answer. values: field to its word; one that lacks is `none`."""
        return [token for part in self._parts(values, self.fields) for token in part]

    def candidates(self) -> tuple[np.ndarray, np.ndarray]:
        """(tokens [C, A] int64, counted [C, A] float32): for each class the answer that says it, up
        to the end of its word, and which of its tokens its likelihood counts: polarity and word,
        each with what ends it. Not the score between them, which is the same for all classes of a
        polarity and stands for whatever score would be there."""
        names = [field.name for field in self.fields]
        upto = self.fields[: names.index(EMOTION) + 1]
        rows = []
        for word in self.classes:
            polarity = self.polarity_of[word]
            values = {POLARITY: polarity, EMOTION: word}
            values |= {SCORE: self.typical.get(polarity, NOTHING)} if SCORE in names else {}
            rows.append(self._parts(values, upto))
        longest = max(sum(map(len, parts)) for parts in rows)
        ids_CA = np.full((len(rows), longest), self.tokenizer.pad_token_id, np.int64)
        counted_CA = np.zeros((len(rows), longest), np.float32)
        for ids_A, counted_A, parts in zip(ids_CA, counted_CA, rows, strict=True):
            at = 0
            for field, part in zip(upto, parts, strict=True):
                ids_A[at : at + len(part)] = part
                counted_A[at : at + len(part)] = field.name != SCORE
                at += len(part)
        return ids_CA, counted_CA

    def _parts(self, values: Mapping[str, str], fields: Sequence[Field]) -> list[list[int]]:
        """The tokens of each field, with the comma, or the end, behind it."""
        last = self.fields[-1]
        comma = self.pieces(",")
        return [
            [*self.pieces(values.get(f.name, NOTHING)), *([self.eos] if f is last else comma)]
            for f in fields
        ]

    def read(self, ids_A: Sequence[int]) -> dict[str, str | float | None]:
        """What generated tokens say, see `parse`."""
        return self.parse(self.tokenizer.decode(ids_A, skip_special_tokens=True))

    def parse(self, text: str) -> dict[str, str | float | None]:
        """Field to its word or score; None where there is nothing that may stand there. Any text
        can be parsed; what follows the last field is left out."""
        said = text.split(",")
        return {
            field.name: _value(field, said[n]) if n < len(said) else None
            for n, field in enumerate(self.fields)
        }

    def to_json(self) -> dict[str, Any]:
        """For recognizer.json; the tokenizer lies beside it."""
        return {
            "fields": [dataclasses.asdict(field) for field in self.fields],
            "polarity_of": self.polarity_of,
            "typical": self.typical,
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> "AnswerBook":
        fields = [Field(name=f["name"], words=tuple(f["words"])) for f in told["fields"]]
        return cls.build(fields, told["polarity_of"], told["typical"], tokenizer)


def _check_words(field: Field, book: AnswerBook) -> None:
    """Raise ConfigError for words that an answer could not say, or not apart."""
    seen: dict[tuple[int, ...] | str, str] = {}
    for word in (NOTHING, *field.words):
        pieces = tuple(book.pieces(word))
        others = [seen[key] for key in (pieces, _plain(word)) if key in seen]
        seen |= dict.fromkeys((pieces, _plain(word)), word)
        why = ""
        if "," in word or not pieces or book.tokenizer.unk_token_id in pieces:
            why = "holds a comma, or what the tokenizer has no piece for"
        elif others:
            why = f"looks like {others[0]!r} in its pieces"
        if why:
            raise ConfigError(
                f"{field.name}: the word {word!r} {why}, so an answer could not say it; name the "
                "class by another word"
            )


def score_text(score: float) -> str:
    """As an answer has it: one decimal, no minus before zero."""
    return f"{round(score, 1) + 0.0:.1f}"


def eos_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Raises ConfigError for a tokenizer without an end, or without padding."""
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    if eos is None or tokenizer.pad_token_id is None:
        raise ConfigError(
            "the tokenizer has no piece that ends a text, or none for padding; name one of a T5 or "
            "of a BERT"
        )
    return eos


def _value(field: Field, said: str) -> str | float | None:
    plain = _plain(said)
    if field.words:
        return next((word for word in field.words if _plain(word) == plain), None)
    if not _NUMBER.fullmatch(plain):
        return None
    score = float(plain)
    return score if math.isfinite(score) and abs(score) <= LARGEST_SCORE else None


def _plain(text: str) -> str:
    """Without case and spaces: pieces are decoded with spaces of their own ("- 1. 6")."""
    return "".join(text.casefold().split())
