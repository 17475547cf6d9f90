"""Models of the benchmark, and the arithmetic that their encoders need."""

from dataclasses import dataclass

import numpy as np
import torch

from pretrain.bench.clips import RATES_HZ, TARGET_WIDTHS, VOCABULARY, WIDTHS
from pretrain.model.memobert import MEmoBert


@dataclass(frozen=True, kw_only=True)
class Size:
    name: str
    width: int
    layers: int
    heads: int

    @property
    def ffn_width(self) -> int:
        return 4 * self.width

    def flops(self, lengths_N: np.ndarray, layers: int | None = None) -> float:
        """Of the encoder, forward and backward, at the positions of these clips alone.

        A product of [n, k] and [k, m] is 2 n k m; backward is two products for each of forward. A
        layer has four of width x width and two of width x inner width a position, and in attention
        two of length x width a position. Norms, GELU and heads are not counted.
        """
        lengths_N = lengths_N.astype(float)
        weights = 4 * self.width**2 + 2 * self.width * self.ffn_width
        forward = 2 * (weights * lengths_N.sum() + 2 * self.width * (lengths_N**2).sum())
        return 3 * forward * (self.layers if layers is None else layers)


SIZES = {
    size.name: size
    for size in (
        Size(name="small", width=384, layers=6, heads=12),
        Size(name="base", width=768, layers=12, heads=12),
        Size(name="large", width=1024, layers=24, heads=16),
    )
}
"""small: the MiniLM of configs/pretrain/tiny.yaml; base and large: BERT's."""


def build(size: Size, dropout: float = 0.1, layers: int | None = None) -> MEmoBert:
    """In training mode, with weights of seed 0."""
    torch.manual_seed(0)
    return MEmoBert(
        vocab_size=VOCABULARY,
        width=size.width,
        num_layers=size.layers if layers is None else layers,
        num_heads=size.heads,
        ffn_width=size.ffn_width,
        streams=[{"name": n, "width": WIDTHS[n], "rate_hz": RATES_HZ[n]} for n in WIDTHS],
        objectives=TARGET_WIDTHS,
        dropout=dropout,
    ).train()
