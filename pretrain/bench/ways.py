"""The ways to batch that are held against each other: the same model, objectives and losses.

    a  random padded batches, the vocabulary head on every text position, as a BERT script has it
    b  random padded batches, heads at the masked positions: this project before packing
    c  b, with clips of about one length together: the reference's buckets of 8192, by length
    packed  joined clips, and the last layer's feed-forward at the masked positions alone

a to c draw dropout as torch does, packed as pretrain.model.dropout; "b, fast dropout" and "packed,
torch's dropout" tell how much that is.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pretrain.data.collate import Example, collate
from pretrain.data.packing import Rows
from pretrain.model.batch import AnyBatch, Batch
from pretrain.model.dropout import drawn_by_torch
from pretrain.model.memobert import MEmoBert
from pretrain.objectives import OBJECTIVES

BUCKET = 8192
"""Clips that the reference sorts together."""
ROW_TOKENS = 8192
"""Most positions of a row, as data.micro_batch_tokens has it by default."""
GPU_CLIPS, GPU_ROW_TOKENS = 640, 65_536
"""Clips of a step, and most positions of a row, as configs/pretrain/reference.yaml has them."""


@dataclass(frozen=True, kw_only=True)
class Way:
    name: str
    batches: Callable[[Sequence[Example]], list[AnyBatch]]
    predict: Callable[[MEmoBert, AnyBatch], dict[str, torch.Tensor]] = MEmoBert.__call__
    by_length: bool = False
    torch_dropout: bool = False

    def step(self, model: MEmoBert, batches: Sequence[AnyBatch], scale: float = 1.0) -> None:
        """Forward and backward of every batch; gradients add up."""
        with drawn_by_torch() if self.torch_dropout else contextlib.nullcontext():
            for batch in batches:
                predictions = self.predict(model, batch)
                sums = [
                    OBJECTIVES[name].loss(predicted, batch.targets[name].values)[0]
                    / batch.counts[name]
                    for name, predicted in predictions.items()
                ]
                (scale * sum(sums)).backward()


def vocabulary_everywhere(model: MEmoBert, batch: Batch) -> dict[str, torch.Tensor]:
    """Logits over the vocabulary at every text position, of which the masked ones are taken."""
    encoded = model.encode(batch)
    predictions = {}
    for name, targets in batch.targets.items():
        hidden_XH = encoded[OBJECTIVES[name].stream].flatten(0, 1)
        if OBJECTIVES[name].head is None:
            predictions[name] = model.mask_logits(hidden_XH).index_select(0, targets.index_M)
        else:
            hidden_MH = hidden_XH.index_select(0, targets.index_M)
            predictions[name] = model.predict(name, hidden_MH)
    return predictions


def padded(size: int) -> Callable[[Sequence[Example]], list[AnyBatch]]:
    """Batches of `size` clips, in their order."""
    return lambda clips: [collate(clips[at : at + size], 0) for at in range(0, len(clips), size)]


def ways(batch_clips: int, row_tokens: int) -> list[Way]:
    """All of them; a batch of `batch_clips`, or a row of at most `row_tokens`."""
    cut, rows = padded(batch_clips), Rows(tokens=row_tokens, clips=10**6)
    return [
        Way(name="a", batches=cut, predict=vocabulary_everywhere, torch_dropout=True),
        Way(name="b", batches=cut, torch_dropout=True),
        Way(name="c", batches=cut, by_length=True, torch_dropout=True),
        Way(name="packed", batches=rows),
        Way(name="b, fast dropout", batches=cut),
        Way(name="packed, torch's dropout", batches=rows, torch_dropout=True),
    ]


def windows(lengths_U3: np.ndarray, size: int, number: int) -> np.ndarray:
    """[number x size] clips of a sorted bucket: batches at even distances, each of one length."""
    order = np.argsort(lengths_U3.sum(1), kind="stable")
    starts = ((np.arange(number) + 0.5) / number * (len(order) - size)).astype(int)
    return order[(starts[:, None] + np.arange(size)).ravel()]
