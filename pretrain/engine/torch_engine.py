"""Plain torch: what DeepSpeed is compared with, and the engine of one process without it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from pretrain.engine.state import ADAMW, load_adamw, write_state
from pretrain.model.batch import AnyBatch
from pretrain.model.memobert import MEmoBert
from pretrain.optim import set_learning_rate
from pretrain.runtime import Runtime


class TorchEngine:
    """One sum of all gradients over the ranks, no wrapper around the model.

    Not DistributedDataParallel: the heads that a step's objective does not touch have no gradient,
    differently on each rank, and one flat sum is both simpler and exact.
    """

    def __init__(
        self, model: MEmoBert, optimizer: torch.optim.Optimizer, clip_norm: float, runtime: Runtime
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.runtime = runtime
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.checkpoint_bytes = 3 * sum(p.nbytes for p in self.parameters)
        if runtime.world_size > 1:
            for tensor in [*model.parameters(), *model.buffers()]:
                dist.broadcast(tensor.detach(), src=0)

    def passes(self, batches: Sequence[AnyBatch], objectives: Iterable[str]) -> list[AnyBatch]:
        return list(batches)

    def __call__(self, batch: AnyBatch) -> dict[str, torch.Tensor]:
        with self.runtime.autocast():
            return self.model(batch)

    def backward(self, loss: torch.Tensor, last: bool = True) -> None:
        loss.backward()

    def step(self, learning_rate: float) -> torch.Tensor:
        # A weight without gradient counts as zero, as under DeepSpeed: its moments decay.
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        if self.runtime.world_size > 1:
            flat = torch.cat([grad.flatten() for grad in grads])
            dist.all_reduce(flat)
            parts = flat.split([grad.numel() for grad in grads])
            grads = [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)]
        for parameter, grad in zip(self.parameters, grads, strict=True):
            parameter.grad = grad
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def whole_model(self) -> MEmoBert:
        return self.model

    def load_weights(self, tensors: dict[str, torch.Tensor], where: str) -> None:
        self.model.load_weights(tensors, where)

    def save_state(self, folder: Path) -> None:
        if self.runtime.is_main:
            write_state(self.optimizer.state_dict(), folder / ADAMW)

    def load_state(self, folder: Path) -> None:
        load_adamw(folder, self.optimizer)
