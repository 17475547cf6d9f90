"""What a run does between two lines of its log: losses, gradients, speed.

Sums live on the device and are read once a line, so that they make no step wait.
"""

import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pretrain.monitoring.flops import peak_tflops
from pretrain.objectives import OBJECTIVES
from pretrain.runtime import Runtime

AMOUNTS = ("clips", "tokens", "positions", "squares")
"""Of a step, over all ranks: clips, their tokens, what is computed with padding, and the sum of the
clips' tokens squared."""


class Meter:
    """Losses, gradients and amounts since the last line.

    Args:
        clip_norm: longer gradients are clipped.
        flops: (tokens, squares) -> arithmetic of a step, see pretrain.monitoring.flops.
    """

    def __init__(
        self, runtime: Runtime, clip_norm: float, flops: Callable[[float, float], float]
    ) -> None:
        self.runtime = runtime
        self.clip_norm = clip_norm
        self.flops = flops
        self._names = list(OBJECTIVES)
        self._peak = _peak_flops(runtime)
        self.reset()

    def reset(self) -> None:
        def zeros(size: int) -> torch.Tensor:
            return torch.zeros(size, dtype=torch.float64, device=self.runtime.device)

        self._sums = zeros(1 + len(self._names))  # loss, then objectives, of this rank
        self._norms = zeros(3)  # their sum, the largest, how many were clipped: alike on all ranks
        self._counts = dict.fromkeys(self._names, 0)  # of all ranks, as the amounts below
        self._amounts = dict.fromkeys(AMOUNTS, 0)
        self._steps = 0
        self._seconds = 0.0
        self._since = time.perf_counter()

    def add_loss(self, loss: torch.Tensor, sums: Mapping[str, torch.Tensor]) -> None:
        """This rank's part of a step's loss, from one micro-batch, and its objectives' sums."""
        self._sums[0] += loss.detach()
        for name, loss_sum in sums.items():
            self._sums[1 + self._names.index(name)] += loss_sum.detach()

    def add_step(
        self, counts: Mapping[str, int], amounts: Mapping[str, int], grad_norm: torch.Tensor
    ) -> None:
        """What all ranks together did in one step, and the norm of its gradient before it was
        clipped, 0-dim, on the device."""
        for name, count in counts.items():
            self._counts[name] += count
        for name in AMOUNTS:
            self._amounts[name] += amounts[name]
        self._steps += 1
        self._norms[0] += grad_norm
        self._norms[1] = torch.maximum(self._norms[1], grad_norm.double())
        self._norms[2] += grad_norm > self.clip_norm

    def pause(self) -> None:
        """Stop the clock, for a validation or a checkpoint."""
        self._seconds += time.perf_counter() - self._since

    def go_on(self) -> None:
        self._since = time.perf_counter()

    def state(self) -> dict[str, Any]:
        """What there is since `reset`, of all ranks together, for a checkpoint; waits for the
        device. Every rank calls it."""
        return {
            "sums": self.runtime.sum_over_ranks(self._sums.clone()).tolist(),
            "norms": self._norms.tolist(),
            "counts": dict(self._counts),
            "amounts": dict(self._amounts),
            "steps": self._steps,
            "seconds": self._seconds,
        }

    def go_on_from(self, state: Mapping[str, Any]) -> None:
        """As it was at a checkpoint; the sums go to rank 0, whatever ranks they were of.

        One that lacks something, of an older version of the code, is left: the line begins anew.
        """
        if not {"norms", "steps"} <= state.keys():
            return
        if self.runtime.is_main:
            self._sums += torch.tensor(state["sums"], dtype=torch.float64, device=self._sums.device)
        self._norms += torch.tensor(state["norms"], dtype=torch.float64, device=self._norms.device)
        self._counts |= {n: c for n, c in state["counts"].items() if n in self._counts}
        self._amounts |= state["amounts"]
        self._steps = state["steps"]
        self._seconds = state["seconds"]

    def read(self) -> dict[str, float]:
        """Means since `reset`, over all ranks; waits for the device."""
        sums = self.runtime.sum_over_ranks(self._sums).tolist()
        norm, largest, clipped = self._norms.tolist()
        self.pause()
        amounts, flops = (
            self._amounts,
            self.flops(self._amounts["tokens"], self._amounts["squares"]),
        )
        row = {
            "loss": sums[0] / self._steps,
            "grad_norm": norm / self._steps,
            "grad_norm_max": largest,
            "clipped_share": clipped / self._steps,
            "clips_per_second": amounts["clips"] / self._seconds,
            "tokens_per_second": amounts["tokens"] / self._seconds,
            "gflops_per_second": flops / self._seconds / 1e9,
            "packing": amounts["tokens"] / amounts["positions"],
            "memory_gb": _memory_gb(self.runtime.device),
        }
        if self._peak is not None:
            row["mfu"] = flops / self._seconds / self._peak
        row |= {
            name: loss_sum / self._counts[name]
            for name, loss_sum in zip(self._names, sums[1:], strict=True)
            if self._counts[name]
        }
        self.reset()
        return row


def _peak_flops(runtime: Runtime) -> float | None:
    """Of all ranks' devices, if it is known: that of bf16, for runs in it."""
    if runtime.device.type != "cuda" or runtime.dtype != torch.bfloat16:
        return None
    peak = peak_tflops(torch.cuda.get_device_name(runtime.device))
    return None if peak is None else peak * 1e12 * runtime.world_size


def _memory_gb(device: torch.device) -> float:
    """Most memory used so far: of the GPU by tensors, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
