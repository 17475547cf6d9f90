"""Clips that are cut and masked, and a batch of them padded to one shape.

    [Example, ...] --collate--> Batch

Shapes: N clips, T word pieces with [CLS] and [SEP], F frames of a stream, C their width, M target
positions of one clip, or of an objective in the whole batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from pretrain.model.batch import Batch, Frames, Targets
from pretrain.objectives import OBJECTIVES


@dataclass(frozen=True, kw_only=True, eq=False)
class ExampleFrames:
    """One stream of one clip, cut to the limits and corrupted."""

    values_FC: np.ndarray
    """As in the shard, zeros at masked frames."""
    seconds_F: np.ndarray
    """float32."""
    masked_F: np.ndarray
    """bool, where the model adds its mask vector."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One clip as the model reads it, and what one objective asks of it."""

    id: str
    objective: str | None
    """None: nothing is corrupted, nothing is asked (finetuning)."""
    ids_T: np.ndarray
    """int64, [CLS] words [SEP]; [CLS] alone when the clip has no text."""
    frames: dict[str, ExampleFrames] = field(default_factory=dict)
    """By stream; what the clip lacks is not there."""
    target_at_M: np.ndarray | None = None
    """int64, positions in the text or stream of the objective."""
    target_values: np.ndarray | None = None
    """What was there: word pieces [M] int64, or rows of the target stream [M, C]."""
    target_word_M: np.ndarray | None = None
    """Of pieces: the word of the clip that each belongs to."""


def collate(examples: Sequence[Example], pad_id: int = 0, beside: Sequence[Example] = ()) -> Batch:
    """Pad the clips to the longest of each stream, and list the targets of each objective.

    pad_id: the tokenizer's; 0 is BERT's.
    beside: the other clips of a batch that is dealt to several processes; with them all processes
    pad to one shape.
    """
    if not examples:
        raise ValueError("a batch of no clips; expected one or more examples")
    among = (*examples, *beside)
    text_ids_NT, text_mask_NT = (
        padded[: len(examples)] for padded in _pad([e.ids_T for e in among], pad_id)
    )
    names = dict.fromkeys(name for e in among for name in e.frames)
    frames = {
        name: _pad_frames([e.frames.get(name) for e in among], len(examples)) for name in names
    }
    lengths = {"text": text_ids_NT.shape[1]}
    lengths |= {name: padded.real_NF.shape[1] for name, padded in frames.items()}
    asked = {e.objective for e in examples}
    targets = {
        name: _targets(name, examples, lengths[objective.stream])
        for name, objective in OBJECTIVES.items()
        if name in asked
    }
    real = [text_mask_NT, *(padded.real_NF for padded in frames.values())]
    return Batch(
        ids=[e.id for e in examples],
        text_ids_NT=text_ids_NT,
        text_mask_NT=text_mask_NT,
        frames=frames,
        targets=targets,
        counts={name: t.values.numel() for name, t in targets.items()},
        num_tokens=sum(int(mask.sum()) for mask in real),
    )


def collate_evenly(examples: Sequence[Example], most: int, pad_id: int) -> list[Batch]:
    """As few batches of at most `most` clips as there can be, of even sizes."""
    cuts = np.linspace(0, len(examples), -(-len(examples) // most) + 1).astype(int)
    return [collate(examples[a:b], pad_id) for a, b in zip(cuts, cuts[1:], strict=False)]


def _pad_frames(rows: Sequence[ExampleFrames | None], num_kept: int) -> Frames:
    """One stream of a batch: its first `num_kept` clips, padded to the longest of all."""

    def padded(field: str, fill: float) -> tuple[torch.Tensor, torch.Tensor]:
        found = _pad([None if row is None else getattr(row, field) for row in rows], fill)
        return found[0][:num_kept], found[1][:num_kept]

    values_NFC, real_NF = padded("values_FC", 0)
    seconds_NF = padded("seconds_F", 0.0)[0]
    return Frames(
        values_NFC=values_NFC,
        real_NF=real_NF,
        masked_NF=padded("masked_F", False)[0],
        seconds_NF=seconds_NF,
        last_seconds=float(seconds_NF.max()),
    )


def _pad(rows: Sequence[np.ndarray | None], fill: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [n, ...] to [N, longest, ...] and the mask of what is real; None is no row at all."""
    present = [row for row in rows if row is not None]
    longest = max(len(row) for row in present)
    padded = np.full((len(rows), longest, *present[0].shape[1:]), fill, dtype=present[0].dtype)
    mask_NL = np.zeros((len(rows), longest), dtype=bool)
    for n, row in enumerate(rows):
        if row is not None:
            padded[n, : len(row)] = row
            mask_NL[n, : len(row)] = True
    return torch.from_numpy(padded), torch.from_numpy(mask_NL)


def _targets(name: str, examples: Sequence[Example], padded_length: int) -> Targets:
    """Positions and values of one objective, over the clips that carry it."""
    mine = [(n, e) for n, e in enumerate(examples) if e.objective == name]
    index_M = np.concatenate([n * padded_length + e.target_at_M for n, e in mine])
    values = np.concatenate([e.target_values for _, e in mine])
    return Targets(
        index_M=torch.from_numpy(index_M.astype(np.int64)), values=torch.from_numpy(values)
    )
