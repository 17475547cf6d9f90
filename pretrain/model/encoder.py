"""The transformer of BERT: layers of attention and a two-layer network, norms after the sums.

Shapes: N clips, L positions, H width, I inner width of the feed-forward network.
"""

import torch
import torch.nn.functional as F
from torch import nn

from pretrain.model.attention import Attention, Output


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

    def forward(self, x_NLH: torch.Tensor, keep_NL: torch.Tensor) -> torch.Tensor:
        x_NLH = self.attention(x_NLH, keep_NL)
        return self.output(self.intermediate(x_NLH), x_NLH)


class Encoder(nn.Module):
    """`num_layers` layers, one after the other."""

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
        self.layer = nn.ModuleList(
            Layer(width, num_heads, ffn_width, dropout, kernel) for _ in range(num_layers)
        )

    def forward(self, x_NLH: torch.Tensor, keep_NL: torch.Tensor) -> torch.Tensor:
        """`keep_NL` is True at real positions; what padding rows come out as means nothing."""
        for layer in self.layer:
            x_NLH = layer(x_NLH, keep_NL)
        return x_NLH


class Pooler(nn.Module):
    """tanh(Linear([CLS])): one vector a clip, for a classifier."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, x_NLH: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(x_NLH[:, 0]))
