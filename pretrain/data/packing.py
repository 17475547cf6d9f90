"""The clips of a step, cut into joined batches under a budget of positions: first fit, no padding.

    first_fit([90, 40, 100, 30], budget=130, most=8)  ->  [[0, 1], [2, 3]]

A step's loss is sums over counts, so that every cut gives the same one; which clips are in the
step, and how each is masked, was settled before. Clips stay in the order in which they were drawn.

Shapes: as in pretrain.model.batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data_pipeline.errors import UserError
from pretrain.data.collate import Example
from pretrain.model.batch import JoinedBatch, JoinedFrames, Segments, Targets
from pretrain.objectives import OBJECTIVES


class PackingError(UserError):
    """A clip that no row has room for."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The joined batches that a step is cut into."""

    tokens: int
    """Most positions of one batch."""
    clips: int
    """Most clips of one batch."""

    def __call__(self, examples: Sequence[Example]) -> list[JoinedBatch]:
        return [join(row) for row in self.cut(examples)]

    def cut(self, examples: Sequence[Example]) -> list[list[Example]]:
        """The clips of each batch."""
        rows = first_fit([length_of(e) for e in examples], self.tokens, self.clips)
        return [[examples[at] for at in row] for row in rows]


def length_of(example: Example) -> int:
    """Positions of a clip: word pieces with [CLS] and [SEP], and rows of its streams."""
    return len(example.ids_T) + sum(len(f.seconds_F) for f in example.frames.values())


def first_fit(lengths: Sequence[int], budget: int, most: int) -> list[list[int]]:
    """Rows of places in `lengths`: each goes to the first row with room, both in positions and in
    number of clips.

    Raises PackingError for one that is longer than `budget`.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for at, length in enumerate(lengths):
        if length > budget:
            raise PackingError(
                f"a clip of {length} positions, but data.micro_batch_tokens={budget}; set it to "
                f"{length} or more, or shorten clips by data.limits"
            )
        for row, left in enumerate(room):
            if length <= left and len(rows[row]) < most:
                break
        else:
            row = len(rows)
            rows.append([])
            room.append(budget)
        rows[row].append(at)
        room[row] -= length
    return rows


def join(examples: Sequence[Example]) -> JoinedBatch:
    """The clips one after another."""
    streams = list(dict.fromkeys(name for e in examples for name in e.frames))
    lengths_NK = np.array(
        [
            [len(e.ids_T), *(len(e.frames[s].seconds_F) if s in e.frames else 0 for s in streams)]
            for e in examples
        ]
    )
    lengths_N = lengths_NK.sum(1)
    # Where each part of each clip begins: among the joined positions, and among its part's rows.
    begins_NK = (np.cumsum(lengths_NK.ravel()) - lengths_NK.ravel()).reshape(lengths_NK.shape)
    per_part_K = lengths_NK.sum(0)
    rows_NK = np.cumsum(lengths_NK, 0) - lengths_NK + np.cumsum(per_part_K) - per_part_K
    total = int(lengths_N.sum())
    row_P = np.arange(total) + np.repeat((rows_NK - begins_NK).ravel(), lengths_NK.ravel())
    targets = _targets(examples, begins_NK, streams)
    return JoinedBatch(
        ids=[e.id for e in examples],
        text_ids_R=torch.from_numpy(np.concatenate([e.ids_T for e in examples])),
        text_index_R=torch.from_numpy(_count_up(lengths_NK[:, 0])),
        longest_text=int(lengths_NK[:, 0].max()),
        frames={s: _join_frames(s, examples, lengths_NK[:, 1 + k]) for k, s in enumerate(streams)},
        row_P=torch.from_numpy(row_P),
        segments=_segments(lengths_N),
        targets=targets,
        counts={name: t.values.numel() for name, t in targets.items()},
        num_tokens=total,
    )


def _segments(lengths_N: np.ndarray) -> Segments:
    return Segments(
        lengths=tuple(lengths_N.tolist()),
        ends_E=torch.from_numpy(np.cumsum([0, *lengths_N]).astype(np.int32)),
        longest=int(lengths_N.max()),
    )


def _count_up(lengths_N: np.ndarray) -> np.ndarray:
    """0 .. n - 1 for each n, one after another."""
    return np.arange(lengths_N.sum()) - np.repeat(np.cumsum(lengths_N) - lengths_N, lengths_N)


def _join_frames(stream: str, examples: Sequence[Example], lengths_N: np.ndarray) -> JoinedFrames:
    mine = [e.frames[stream] for e in examples if stream in e.frames]
    seconds_R = np.concatenate([frames.seconds_F for frames in mine])
    return JoinedFrames(
        values_RC=torch.from_numpy(np.concatenate([frames.values_FC for frames in mine])),
        masked_R=torch.from_numpy(np.concatenate([frames.masked_F for frames in mine])),
        seconds_R=torch.from_numpy(seconds_R),
        index_R=torch.from_numpy(_count_up(lengths_N)),
        clip_R=torch.from_numpy(np.repeat(np.arange(len(examples)), lengths_N)),
        num_clips=len(examples),
        last_seconds=float(seconds_R.max()),
        longest=int(lengths_N.max()),
    )


def _targets(
    examples: Sequence[Example], begins_NK: np.ndarray, streams: list[str]
) -> dict[str, Targets]:
    """Of each objective that some clip carries, in their order."""
    targets = {}
    for name, objective in OBJECTIVES.items():
        mine = [n for n, e in enumerate(examples) if e.objective == name]
        if not mine:
            continue
        part = 0 if objective.stream == "text" else 1 + streams.index(objective.stream)
        index_M = np.concatenate([begins_NK[n, part] + examples[n].target_at_M for n in mine])
        values = np.concatenate([examples[n].target_values for n in mine])
        targets[name] = Targets(
            index_M=torch.from_numpy(index_M.astype(np.int64)), values=torch.from_numpy(values)
        )
    return targets
