"""Dropout whose random numbers a CPU draws four at a time.

torch's own draws a number an element, 8 to 11 ns each: more than the GELU of four elements, and at
width 384 as long as a third of a layer's matrix products. Here one 64-bit number of torch's
generator decides four elements, each by 16 bits, so `p` is rounded to a multiple of 2**-16 (0.1 to
0.100006) and the scale is that of the rounded one: the mean stays exact. On other devices it is
torch's.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

LEVELS = 2**16
_four_at_a_time = True


class Dropout(nn.Dropout):
    """As torch's, by the function below."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return dropout(x, self.p if self.training else 0.0)


def dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """`x` with a share `p` of its elements zero and the others scaled to the same mean; drawn
    from torch's generator, whose state a checkpoint keeps."""
    dropped = round(p * LEVELS)
    if x.device.type != "cpu" or not _four_at_a_time or not 0 < dropped < LEVELS:
        return F.dropout(x, p)
    return x * keep_mask(x.shape, dropped).to(x.dtype).mul_(LEVELS / (LEVELS - dropped))


def keep_mask(shape: torch.Size, dropped: int) -> torch.Tensor:
    """bool, true with chance 1 - dropped / LEVELS, on the CPU."""
    numel = shape.numel()
    draws = torch.empty(-(-numel // 4), dtype=torch.int64).random_(-(2**63), None)
    return (draws.view(torch.int16)[:numel] >= dropped - LEVELS // 2).view(shape)


@contextlib.contextmanager
def drawn_by_torch() -> Iterator[None]:
    """Within it the plain twin runs on every device: to compare, in tests and the benchmark."""
    global _four_at_a_time
    _four_at_a_time = False
    try:
        yield
    finally:
        _four_at_a_time = True
