"""The downstream classifier of MEmoBERT: pooled [CLS] -> Linear, GELU, LN, Linear.

The norm is `norm`, not `LayerNorm`: the official one is `output.2`, so that its weight is decayed
(pretrain.optim.UNDECAYED goes by names).
"""

import torch
import torch.nn.functional as F
from torch import nn

from finetune.heads import register
from finetune.heads.base import Head, HeadOutput, HeadParts
from pretrain.model.batch import Batch
from pretrain.model.memobert import Encoded


@register("linear")
class LinearHead(Head):
    """Linear H -> 2H, GELU, LN, Linear 2H -> C. N clips, H model width, C classes."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(2 * width, eps=1e-12)
        self.classifier = nn.Linear(2 * width, num_classes)
        for layer in (self.dense, self.classifier):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    @classmethod
    def build(cls, parts: HeadParts) -> "LinearHead":
        return cls(parts.width, len(parts.classes))

    def forward(self, encoded: Encoded, batch: Batch, label_N: torch.Tensor) -> HeadOutput:
        scores_NC = self.classifier(self.norm(F.gelu(self.dense(encoded.pooled_NH)))).float()
        loss = F.cross_entropy(scores_NC, label_N, reduction="sum")
        return HeadOutput(scores_NC=scores_NC, losses={"cross_entropy": loss})
