"""AdamW, which parameters it decays, and the learning rate over the steps.

torch's own AdamW, its fused kernel, under DeepSpeed too: DeepSpeed's fused one does not resume
exactly. On a CPU too, where it is several times faster than a kernel for every operation.
"""

from typing import Any

import torch
from torch import nn

UNDECAYED = ("bias", "LayerNorm.weight")
"""A parameter whose name holds one of these is not decayed. It is the reference's rule, names and
all: the norms named LayerNorm, which are BERT's own and the last of each embedder, are spared;
the norm after an embedder's linear layer (`input_norm`) and those of the frame heads (`norm`) are
decayed, as there."""


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimizer, decayed and not, in the model's order; frozen ones left out."""
    decayed, spared = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (spared if any(part in name for part in UNDECAYED) else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]


def build_adamw(
    model: nn.Module,
    *,
    learning_rate: float = 5e-5,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-6,
) -> torch.optim.AdamW:
    """The reference's AdamW, with bias correction; one kernel updates many weights."""
    groups = parameter_groups(model, weight_decay)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=tuple(betas), eps=eps, fused=True)


def learning_rate(step: int, *, peak: float, warmup: int, total: int, floor: float = 1e-8) -> float:
    """The rate of update `step`, counted from 1: up from 0 to `peak` over `warmup` steps, down to 0
    at `total`, and never below `floor`."""
    if step < warmup:
        factor = step / warmup
    else:
        factor = (total - step) / (total - warmup)
    return max(peak * factor, floor)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Of all groups, for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
