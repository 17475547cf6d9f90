"""Examples as a few long arrays: how they go from one process to another.

    examples = from_columns(to_columns(examples))

A clip has nine arrays; to pickle each and find it again is twice the work of copying them all.

Shapes: as in pretrain.data.collate; N examples, X rows of all of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pretrain.data.collate import Example, ExampleFrames

FIELDS = ("values_FC", "seconds_F", "masked_F")


@dataclass(frozen=True, kw_only=True, eq=False)
class Joined:
    """Arrays end to end."""

    rows_X: np.ndarray
    lengths: list[int]

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray]) -> "Joined":
        return cls(rows_X=np.concatenate(arrays), lengths=[len(array) for array in arrays])

    def parts(self) -> Iterator[np.ndarray]:
        """The arrays, as views."""
        at = 0
        for length in self.lengths:
            yield self.rows_X[at : at + length]
            at += length


@dataclass(frozen=True, kw_only=True, eq=False)
class Columns:
    """Examples that are each asked an objective."""

    about: list[tuple[str, str, tuple[str, ...], bool]]
    """[N]: id, objective, streams in their order, whether word pieces are asked."""
    ids: Joined
    frames: dict[tuple[str, str], Joined]
    """(stream, field) of the examples that have the stream."""
    target_at: Joined
    target_values: dict[str, Joined]
    """By objective."""
    target_words: Joined | None
    """Of those that are asked word pieces; None where none is."""


def to_columns(examples: Sequence[Example]) -> Columns:
    streams = dict.fromkeys(name for e in examples for name in e.frames)
    objectives = dict.fromkeys(e.objective for e in examples)
    words = [e.target_word_M for e in examples if e.target_word_M is not None]
    return Columns(
        about=[(e.id, e.objective, tuple(e.frames), e.target_word_M is not None) for e in examples],
        ids=Joined.of([e.ids_T for e in examples]),
        frames={
            (s, f): Joined.of([getattr(e.frames[s], f) for e in examples if s in e.frames])
            for s in streams
            for f in FIELDS
        },
        target_at=Joined.of([e.target_at_M for e in examples]),
        target_values={
            name: Joined.of([e.target_values for e in examples if e.objective == name])
            for name in objectives
        },
        target_words=Joined.of(words) if words else None,
    )


def from_columns(columns: Columns) -> list[Example]:
    """The examples, whose arrays are views."""
    ids, target_at = columns.ids.parts(), columns.target_at.parts()
    frames = {key: joined.parts() for key, joined in columns.frames.items()}
    values = {name: joined.parts() for name, joined in columns.target_values.items()}
    words = iter(()) if columns.target_words is None else columns.target_words.parts()
    return [
        Example(
            id=clip,
            objective=objective,
            ids_T=next(ids),
            frames={s: ExampleFrames(**{f: next(frames[s, f]) for f in FIELDS}) for s in streams},
            target_at_M=next(target_at),
            target_values=next(values[objective]),
            target_word_M=next(words) if asks_words else None,
        )
        for clip, objective, streams, asks_words in columns.about
    ]
