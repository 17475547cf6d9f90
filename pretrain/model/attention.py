"""Full bidirectional attention over one sequence of words, faces and speech, a clip by itself.

Kernels are functions, several to the same numbers; tests hold them together.

    padded clips, by a mask of what is real   `sdpa`      torch's fused kernel
                                              `plain`     the equation written out
    joined clips, by where each ends          `varlen`    flash attention: a GPU, half precision
                                              `clipwise`  the equation, one clip after another

Of joined clips nothing but the device decides (`joined_kernel`). On a CPU the loop over the clips
was the fastest exact way of those measured (docs/results/pretrain_bench.md).

Shapes: N clips, L positions of the joined sequence, A heads, D width of a head, H = A x D; P
positions of all clips.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.varlen import varlen_attn

from pretrain.model.batch import Segments
from pretrain.model.dropout import Dropout, dropout


def plain_attention(
    query_NALD: torch.Tensor,
    key_NALD: torch.Tensor,
    value_NALD: torch.Tensor,
    keep_N11L: torch.Tensor,
    p: float,
) -> torch.Tensor:
    """softmax(Q K^T / sqrt(D)) V over the positions to keep (Vaswani et al. 2017, equation 1)."""
    scores_NALL = query_NALD @ key_NALD.transpose(-1, -2) / math.sqrt(query_NALD.shape[-1])
    scores_NALL = scores_NALL.masked_fill(~keep_N11L, float("-inf"))
    return dropout(scores_NALL.softmax(-1), p) @ value_NALD


def sdpa_attention(
    query_NALD: torch.Tensor,
    key_NALD: torch.Tensor,
    value_NALD: torch.Tensor,
    keep_N11L: torch.Tensor,
    p: float,
) -> torch.Tensor:
    """The same by torch's scaled_dot_product_attention, which never writes the L x L scores."""
    return F.scaled_dot_product_attention(
        query_NALD, key_NALD, value_NALD, attn_mask=keep_N11L, dropout_p=p
    )


KERNELS = {"sdpa": sdpa_attention, "plain": plain_attention}


@torch.compiler.disable
def clipwise_attention(
    query_PAD: torch.Tensor,
    key_PAD: torch.Tensor,
    value_PAD: torch.Tensor,
    segments: Segments,
    p: float,
) -> torch.Tensor:
    """The equation for each clip alone.

    Products of strided views, so no head is copied. Not traced by torch.compile, for which every
    batch would be another program.
    """
    scale = 1 / math.sqrt(query_PAD.shape[-1])
    nothing = query_PAD.new_empty(())
    contexts_LAD = []
    clips = (x.split(segments.lengths) for x in (query_PAD, key_PAD, value_PAD))
    for parts_LAD in zip(*clips, strict=True):
        query_ALD, key_ALD, value_ALD = (x.transpose(0, 1) for x in parts_LAD)
        scores_ALL = torch.baddbmm(nothing, query_ALD, key_ALD.mT, beta=0, alpha=scale)
        context_ALD = dropout(scores_ALL.softmax(-1), p) @ value_ALD
        contexts_LAD.append(context_ALD.transpose(0, 1))
    return torch.cat(contexts_LAD)


def varlen_attention(
    query_PAD: torch.Tensor,
    key_PAD: torch.Tensor,
    value_PAD: torch.Tensor,
    segments: Segments,
    p: float,
) -> torch.Tensor:
    """Flash attention over sequences of different lengths (Dao 2023), on a GPU in half precision.

    torch's public function knows no dropout; the operator below it does, and differentiates.
    """
    ends_E, longest = segments.ends_E, segments.longest
    if p == 0:
        return varlen_attn(query_PAD, key_PAD, value_PAD, ends_E, ends_E, longest, longest)
    return torch.ops.aten._flash_attention_forward(
        query_PAD, key_PAD, value_PAD, ends_E, ends_E, longest, longest, p, False, False
    )[0]


JOINED_KERNELS = {"varlen": varlen_attention, "clipwise": clipwise_attention}


def joined_kernel(device_type: str, dtype: torch.dtype, kernel: str) -> str:
    """Name of the kernel for joined clips: `varlen` where flash attention runs and `kernel`, the
    model's for padded ones, does not ask for the equation."""
    half = dtype in (torch.float16, torch.bfloat16)
    return "varlen" if device_type == "cuda" and half and kernel != "plain" else "clipwise"


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
            raise ValueError(f"attention {kernel!r} is unknown; choose one of {tuple(KERNELS)}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.kernel = kernel
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, clips: torch.Tensor | Segments) -> torch.Tensor:
        """[N, L, H] with the mask [N, L] of what is real, or [P, H] with where the clips lie."""
        p = self.dropout if self.training else 0.0
        parts = [self._heads(linear(x)) for linear in (self.query, self.key, self.value)]
        if isinstance(clips, Segments):
            name = joined_kernel(x.device.type, parts[0].dtype, self.kernel)
            return JOINED_KERNELS[name](*parts, clips, p).flatten(1)
        parts_NALD = [part.transpose(1, 2) for part in parts]
        context_NALD = KERNELS[self.kernel](*parts_NALD, clips[:, None, None, :], p)
        return context_NALD.transpose(1, 2).flatten(2)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.num_heads, -1))


class Output(nn.Module):
    """Linear, dropout, then the norm of the sum with what came in: the post-LN of BERT."""

    def __init__(self, in_width: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, width)
        self.dropout = Dropout(dropout)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x_NLC: torch.Tensor, residual_NLH: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(residual_NLH + self.dropout(self.dense(x_NLC)))


class Attention(nn.Module):
    """Attention and its output layer."""

    def __init__(self, width: int, num_heads: int, dropout: float, kernel: str) -> None:
        super().__init__()
        self.self = SelfAttention(width, num_heads, dropout, kernel)
        self.output = Output(width, width, dropout)

    def forward(
        self,
        x: torch.Tensor,
        clips: torch.Tensor | Segments,
        asked_M: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`asked_M`: of joined clips, the positions that alone are wanted, as [M, H]."""
        context = self.self(x, clips)
        if asked_M is not None:
            x, context = x.index_select(0, asked_M), context.index_select(0, asked_M)
        return self.output(context, x)
