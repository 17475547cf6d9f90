"""The downstream classifier of MEmoBERT: pooled [CLS] -> Linear, GELU, LN, Linear.

The norm is `norm`, not `LayerNorm`: the official one is `output.2`, so that its weight is decayed
(pretrain.optim.UNDECAYED goes by names).
"""

import torch
import torch.nn.functional as F
from torch import nn

from pretrain.model.memobert import Batch, Encoded


class LinearHead(nn.Module):
    """Linear H -> 2H, GELU, LN, Linear 2H -> C. N clips, H model width, C classes."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(2 * width, eps=1e-12)
        self.classifier = nn.Linear(2 * width, num_classes)
        for layer in (self.dense, self.classifier):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, encoded: Encoded, batch: Batch) -> torch.Tensor:
        return self.classifier(self.norm(F.gelu(self.dense(encoded.pooled_NH))))
