"""Full bidirectional attention over one sequence of words, faces and speech.

Two ways to the same numbers: `sdpa`, torch's fused kernel, and `plain`, the equation written out.
`sdpa` is the default; a test holds the two together.

Shapes: N clips, L positions of the joined sequence, A heads, D width of a head, H = A x D.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

KERNELS = ("sdpa", "plain")


def plain_attention(
    query_NALD: torch.Tensor,
    key_NALD: torch.Tensor,
    value_NALD: torch.Tensor,
    keep_N11L: torch.Tensor,
    dropout: float,
) -> torch.Tensor:
    """softmax(Q K^T / sqrt(D)) V over the positions to keep (Vaswani et al. 2017, equation 1)."""
    scores_NALL = query_NALD @ key_NALD.transpose(-1, -2) / math.sqrt(query_NALD.shape[-1])
    scores_NALL = scores_NALL.masked_fill(~keep_N11L, float("-inf"))
    return F.dropout(scores_NALL.softmax(-1), dropout) @ value_NALD


def sdpa_attention(
    query_NALD: torch.Tensor,
    key_NALD: torch.Tensor,
    value_NALD: torch.Tensor,
    keep_N11L: torch.Tensor,
    dropout: float,
) -> torch.Tensor:
    """The same by torch's scaled_dot_product_attention, which never writes the L x L scores."""
    return F.scaled_dot_product_attention(
        query_NALD, key_NALD, value_NALD, attn_mask=keep_N11L, dropout_p=dropout
    )


class SelfAttention(nn.Module):
    """Queries, keys and values of every position; names as in transformers' BERT."""

    def __init__(self, width: int, num_heads: int, dropout: float, kernel: str) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(
                f"width {width} is not a multiple of num_heads {num_heads}; "
                "choose heads that divide the width (BERT: 64 channels a head)"
            )
        if kernel not in KERNELS:
            raise ValueError(f"attention {kernel!r} is unknown; choose one of {KERNELS}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.attend = sdpa_attention if kernel == "sdpa" else plain_attention
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, x_NLH: torch.Tensor, keep_NL: torch.Tensor) -> torch.Tensor:
        context_NALD = self.attend(
            self._split(self.query(x_NLH)),
            self._split(self.key(x_NLH)),
            self._split(self.value(x_NLH)),
            keep_NL[:, None, None, :],
            self.dropout if self.training else 0.0,
        )
        return context_NALD.transpose(1, 2).flatten(2)

    def _split(self, x_NLH: torch.Tensor) -> torch.Tensor:
        return x_NLH.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Output(nn.Module):
    """Linear, dropout, then the norm of the sum with what came in: the post-LN of BERT."""

    def __init__(self, in_width: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, width)
        self.dropout = nn.Dropout(dropout)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x_NLC: torch.Tensor, residual_NLH: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(residual_NLH + self.dropout(self.dense(x_NLC)))


class Attention(nn.Module):
    """Attention and its output layer."""

    def __init__(self, width: int, num_heads: int, dropout: float, kernel: str) -> None:
        super().__init__()
        self.self = SelfAttention(width, num_heads, dropout, kernel)
        self.output = Output(width, width, dropout)

    def forward(self, x_NLH: torch.Tensor, keep_NL: torch.Tensor) -> torch.Tensor:
        return self.output(self.self(x_NLH, keep_NL), x_NLH)
