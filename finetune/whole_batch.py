"""The rows of a whole batch, wherever its clips are: what a contrastive loss needs.

Each process holds the clips `rank::num_processes` of a batch. Every process computes the same loss
of all rows; its gradient comes back to each row summed over the processes and is then averaged by
DistributedDataParallel, which leaves the gradient of the one loss.
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.distributed.nn.functional import all_gather


def gather_rows(
    rows: dict[str, torch.Tensor], label_N: torch.Tensor, batch_size: int, accelerator: Accelerator
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Rows [N, ...] and labels [N] of this process, as those of all: [B, ...] and [B]."""
    if accelerator.num_processes == 1:
        return rows, label_N
    ranks = range(accelerator.num_processes)
    sizes = [len(range(rank, batch_size, accelerator.num_processes)) for rank in ranks]

    def gathered(rows_N: torch.Tensor) -> torch.Tensor:
        blank = [0, 0] * (rows_N.ndim - 1) + [0, max(sizes) - len(rows_N)]  # equal on all of them
        parts = all_gather(F.pad(rows_N, blank).contiguous())
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    return {name: gathered(row) for name, row in rows.items()}, gathered(label_N)
