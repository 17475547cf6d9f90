"""Forward, backward, step, state: by plain torch, or by DeepSpeed. The same few methods.

    for batch in engine.passes(batches, objectives):    # those of this rank's step
        predictions = engine(batch)                     # under autocast where precision says so
        engine.backward(loss, last=...)                 # losses add up over passes and ranks
    norm = engine.step(learning_rate)                   # once a step: reduce, clip, update, zero

`loss` is this pass's part of the step's loss, its sums divided by the counts of all ranks and
passes, so gradients are *summed* over ranks. DeepSpeed takes means instead, and is given `loss`
times the number of ranks. `norm` is that of the step's gradient over all ranks before it is
clipped, a 0-dim tensor on the device; infinite, or nan, where the gradient is.

All run torch.optim.AdamW on fp32 weights, and write one training state, adamw.pt: saved by any
engine at any ZeRO stage on any number of ranks, it loads into any other.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch

from pretrain.model.batch import AnyBatch
from pretrain.model.memobert import MEmoBert


class Engine(Protocol):
    model: MEmoBert
    """At ZeRO stage 3 its weights are split over the ranks, see `whole_model`."""
    checkpoint_bytes: int
    """What a checkpoint takes, about: the weights and AdamW's two moments."""

    def passes(self, batches: Sequence[AnyBatch], objectives: Iterable[str]) -> list[AnyBatch]:
        """What this rank feeds in one step: its micro-batches, and what its ZeRO stage needs
        besides (pretrain.engine.passes). Every rank calls it."""

    def __call__(self, batch: AnyBatch) -> dict[str, torch.Tensor]: ...

    def backward(self, loss: torch.Tensor, last: bool = True) -> None:
        """`last`: of the step's passes."""

    def step(self, learning_rate: float) -> torch.Tensor: ...

    def whole_model(self) -> MEmoBert:
        """The model with every weight, to look at and not to train. Every rank calls it."""

    def load_weights(self, tensors: dict[str, torch.Tensor], where: str) -> None:
        """As MEmoBert.load_weights. Every rank calls it, before the first step."""

    def save_state(self, folder: Path) -> None:
        """Every rank calls it; rank 0 writes, and holds the whole state in its host's memory."""

    def load_state(self, folder: Path) -> None:
        """Every rank calls it, before the first step."""
