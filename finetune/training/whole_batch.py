"""The rows of a whole batch, wherever its clips are: what a contrastive loss needs.

Each process holds the clips `rank::num_processes` of a batch, and its part of a loss is a sum over
those. Rows that were gathered carry gradients back to the process that they came from, summed over
the processes, so the sum of all parts has the gradient of the one loss.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.distributed.nn.functional import all_gather


@dataclass(frozen=True, kw_only=True, eq=False)
class WholeBatch:
    """A batch of B clips over all processes, and which of them are here."""

    label_B: torch.Tensor
    rank: int = 0
    num_processes: int = 1

    @property
    def mine(self) -> slice:
        """The clips of this process."""
        return slice(self.rank, None, self.num_processes)

    def gather(self, rows: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Rows [N, ...] of this process, the rest of their shapes being that of all processes, as
        those of the whole batch, [B, ...] in its order."""
        if self.num_processes == 1:
            return rows
        return {name: self._gathered(rows_N) for name, rows_N in rows.items()}

    def _gathered(self, rows_N: torch.Tensor) -> torch.Tensor:
        num_clips = len(self.label_B)
        longest = -(-num_clips // self.num_processes)
        blank = [0, 0] * (rows_N.ndim - 1) + [0, longest - len(rows_N)]  # equal on all of them
        parts = all_gather(F.pad(rows_N, blank).contiguous())
        return torch.stack(parts, 1).flatten(0, 1)[:num_clips]  # dealt out clip by clip
