"""Models of the benchmark, and the arithmetic that their encoders need."""

from dataclasses import dataclass

import numpy as np
import torch

from pretrain.bench.clips import RATES_HZ, TARGET_WIDTHS, VOCABULARY, WIDTHS
from pretrain.model.memobert import MEmoBert
from pretrain.monitoring.flops import encoder_flops


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
        """Of the encoder, forward and backward, at the positions of these clips alone."""
        lengths_N = lengths_N.astype(float)
        return encoder_flops(
            lengths_N.sum(),
            (lengths_N**2).sum(),
            width=self.width,
            ffn_width=self.ffn_width,
            num_layers=self.layers if layers is None else layers,
        )


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
