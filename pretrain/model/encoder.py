"""The transformer of BERT: layers of attention and a two-layer network, norms after the sums.

Clips come padded or joined, see pretrain.model.batch.

Shapes: N clips, L positions, P positions of joined clips, H width, I inner width of the
feed-forward network, M positions that are asked for.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from pretrain.model.attention import Attention, Output
from pretrain.model.batch import Segments


class Intermediate(nn.Module):
    """Linear to the inner width, GELU (the exact one, with erf)."""

    def __init__(self, width: int, ffn_width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, ffn_width)

    def forward(self, x_NLH: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.dense(x_NLH))


class Layer(nn.Module):
    """x = LN(x + attention(x)); x = LN(x + feed-forward(x))."""

    def __init__(
        self, width: int, num_heads: int, ffn_width: int, dropout: float, kernel: str
    ) -> None:
        super().__init__()
        self.attention = Attention(width, num_heads, dropout, kernel)
        self.intermediate = Intermediate(width, ffn_width)
        self.output = Output(ffn_width, width, dropout)

    def forward(
        self,
        x: torch.Tensor,
        clips: torch.Tensor | Segments,
        asked_M: torch.Tensor | None = None,
    ) -> torch.Tensor:
        x = self.attention(x, clips, asked_M)
        return self.output(self.intermediate(x), x)


class Encoder(nn.Module):
    """`num_layers` layers, one after the other.

    `recompute`, which may be set at any time: keep of each layer what goes into it alone, and
    compute the rest again in the backward pass (Chen et al. 2016). It is less memory for about a
    third more work. The numbers are the same: torch sets its generators back, so that dropout drops
    the same.
    """

    def __init__(
        self,
        width: int,
        num_layers: int,
        num_heads: int,
        ffn_width: int,
        dropout: float,
        kernel: str = "sdpa",
    ) -> None:
        super().__init__()
        self.recompute = False
        self.layer = nn.ModuleList(
            Layer(width, num_heads, ffn_width, dropout, kernel) for _ in range(num_layers)
        )

    def compile_layers(self, backend: str = "inductor") -> None:
        """Let torch.compile make a program of a layer, one for all of them and for all lengths, at
        the first batch.

        Of the last layer it is the attention alone: behind it are the positions that are asked for.
        """
        *lower, last = self.layer
        for module in (*lower, last.attention.self):
            module.compile(backend=backend, dynamic=True)

    def forward(
        self,
        x: torch.Tensor,
        clips: torch.Tensor | Segments,
        asked_M: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states of the last layer, shaped as `x`; what padding comes out as means nothing.

        Args:
            x: [N, L, H] of padded clips, [P, H] of joined ones.
            clips: bool [N, L], true at real positions; or where the joined clips lie.
            asked_M: of joined clips, the positions that alone are wanted: then it is [M, H]. The
                last layer mixes positions for the last time in its attention, so what follows runs
                at these alone: three quarters of the layer, for a tenth of the positions.
        """
        *lower, last = self.layer
        for layer in lower:
            x = self._run(layer, x, clips)
        return self._run(last, x, clips, asked_M)

    def _run(self, layer: nn.Module, *inputs: Any) -> torch.Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False)
        return layer(*inputs)


class Pooler(nn.Module):
    """tanh(Linear([CLS])): one vector a clip, for a classifier."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, x_NLH: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(x_NLH[:, 0]))
