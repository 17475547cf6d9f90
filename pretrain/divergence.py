"""Whether losses, gradients and weights are still numbers, and from which clips they came.

    watch.add_pass(loss, batch.ids)       # once a pass
    watch.add_step(step, norm)            # once a step
    watch.check()                         # where the loop waits for the device anyway

What is watched stays on the device until `check`, beside the names of the clips on the host. Of
several bad steps the first counts: a bad update makes every loss after it bad.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from data_pipeline.errors import UserError
from pretrain.runtime import Runtime

MOST_NAMED = 20
"""Clips in a message; the rest is counted."""


class DivergedError(UserError):
    """A loss, a gradient or weights that are no numbers any more."""


@dataclass(frozen=True)
class _Pass:
    loss: torch.Tensor
    clips: list[str]


@dataclass
class Watch:
    """Of one rank, since the last check."""

    runtime: Runtime
    advice: Callable[[], str]
    """What ends every message."""
    _passes: list[_Pass] = field(default_factory=list)
    """Of the step that is under way."""
    _steps: list[tuple[int, torch.Tensor, list[_Pass]]] = field(default_factory=list)
    """Number, the gradient's norm, passes."""

    def add_pass(self, loss: torch.Tensor, clips: list[str]) -> None:
        self._passes.append(_Pass(loss.detach(), clips))

    def add_step(self, step: int, norm: torch.Tensor) -> None:
        """`norm`: of the gradient of all ranks."""
        self._steps.append((step, norm, self._passes))
        self._passes = []

    def check(self) -> None:
        """Waits for the device, and for the other ranks, who call it after the same step.

        Raises DivergedError on every rank: with the clips of the first pass whose loss was no
        number, on whichever rank; or, where all were and the gradient was not, with the step's.
        """
        steps, self._steps = self._steps, []
        first = next((n for n, bad in enumerate(_are_bad(steps)) if bad), len(steps))
        first = -int(self.runtime.max_over_ranks(torch.tensor(-first)))  # of any rank
        if first == len(steps):
            return
        step, norm, passes = steps[first]
        told = self._of_all_ranks([(p.loss.item(), p.clips) for p in passes])
        bad = [(loss, clips) for loss, clips in told if not math.isfinite(loss)]
        if not bad:
            what = f"the gradient's norm is {norm.item()} at step {step}, whose losses are numbers"
            raise self._error(f"{what}; its clips are {_named([n for _, c in told for n in c])}")
        loss, clips = bad[0]
        what = f"the loss is {loss} at step {step}, in {len(bad)} of its {len(told)} passes"
        if len(bad) == len(told) > 1:
            what += ", so perhaps by the update before it"
        raise self._error(f"{what}; the first of them has the clips {_named(clips)}")

    def check_weights(self, model: torch.nn.Module, step: int) -> None:
        """Raises DivergedError unless every weight is a number; one answer from the device. Ranks
        have the same weights."""
        if not torch.stack([p.detach().isfinite().all() for p in model.parameters()]).all():
            raise self._error(f"a weight is no finite number at step {step}")

    def _of_all_ranks(self, mine: list) -> list:
        parts: list[list] = [mine] * self.runtime.world_size
        if self.runtime.world_size > 1:
            dist.all_gather_object(parts, mine)
        return [one for part in parts for one in part]

    def _error(self, what: str) -> DivergedError:
        return DivergedError(f"{what}; {self.advice()}")


def _are_bad(steps: Sequence[tuple[int, torch.Tensor, list[_Pass]]]) -> list[bool]:
    """Whether a step has a norm, or a loss, that is no number; one answer from the device."""
    if not steps:
        return []
    finite = [
        torch.stack([norm, *(p.loss.to(norm.dtype) for p in passes)]).isfinite().all()
        for _, norm, passes in steps
    ]
    return [not one for one in torch.stack(finite).tolist()]


def _named(clips: Sequence[str]) -> str:
    more = len(clips) - MOST_NAMED
    return ", ".join(clips[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
