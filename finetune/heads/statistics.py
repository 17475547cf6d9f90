"""An MLP on the mean and deviation over time of each stream, the plain classifier of features by
the frame: differential entropies of EEG, DenseNet's features of a face.

    s = [mean_t x; deviation_t x] of each stream, scaled to 0 and 1 over the training clips
    scores = W2 drop(relu(W1 s))

N clips, S streams, F rows, C width, D = 2 C of all streams.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import nn

from data_pipeline.config import Share
from finetune.heads import register
from finetune.heads.base import Head, HeadOutput, HeadParts, Training
from finetune.heads.rows import mean_of, rows_of
from pretrain.model.batch import Batch
from pretrain.model.memobert import Encoded

EPSILON = 1e-5
"""Inside the root, so that rows that are all alike have a gradient."""


@dataclass(frozen=True, kw_only=True)
class StatisticsSettings:
    """How large the MLP is."""

    hidden: PositiveInt = 64
    """Width between its two layers."""
    dropout: Share = 0.5
    """There."""


@register("statistics")
class StatisticsHead(Head):
    """Any streams side by side; zeros, the training mean, stand for one that a clip lacks."""

    Settings = StatisticsSettings

    def __init__(
        self, widths: dict[str, int], num_classes: int, settings: StatisticsSettings
    ) -> None:
        super().__init__()
        self.widths = widths
        for name, width in widths.items():
            self.register_buffer(f"{name}_mean", torch.zeros(2 * width))
            self.register_buffer(f"{name}_deviation", torch.ones(2 * width))
        self.layers = nn.Sequential(
            nn.Linear(2 * sum(widths.values()), settings.hidden),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, num_classes),
        )

    @classmethod
    def build(cls, parts: HeadParts) -> "StatisticsHead":
        return cls(dict(parts.widths), len(parts.classes), parts.settings)

    def prepare(self, train: Training) -> None:
        """Take the scale of the statistics from the training clips that have them."""
        found = [self._statistics(encoded, batch) for encoded, batch in train.encoded()]
        for name in self.widths:
            rows_ND = torch.cat([part[name][0][part[name][1]] for part in found])
            if len(rows_ND):
                getattr(self, f"{name}_mean").copy_(rows_ND.mean(0))
                scale_D = rows_ND.std(0, correction=0)
                getattr(self, f"{name}_deviation").copy_(scale_D.masked_fill(scale_D < 1e-6, 1.0))

    def forward(self, encoded: Encoded, batch: Batch, label_N: torch.Tensor) -> HeadOutput:
        scaled = [
            (values_ND - getattr(self, f"{name}_mean"))
            / getattr(self, f"{name}_deviation")
            * has_N[:, None]
            for name, (values_ND, has_N) in self._statistics(encoded, batch).items()
        ]
        scores_NC = self.layers(torch.cat(scaled, 1)).float()
        loss = F.cross_entropy(scores_NC, label_N, reduction="sum")
        return HeadOutput(scores_NC=scores_NC, losses={"cross_entropy": loss})

    def _statistics(
        self, encoded: Encoded, batch: Batch
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Stream to [N, D] and to whether a clip has it [N]."""
        found = {}
        for name, width in self.widths.items():
            rows = rows_of(encoded, batch, name, width)
            found[name] = statistics_of(*rows), rows[1].any(1)
        return found


def statistics_of(values_NFC: torch.Tensor, real_NF: torch.Tensor) -> torch.Tensor:
    """[N, 2 C]: mean and deviation over the real rows."""
    mean_NC = mean_of(values_NFC, real_NF)
    variance_NC = mean_of((values_NFC - mean_NC[:, None]).square(), real_NF)
    return torch.cat([mean_NC, (variance_NC + EPSILON).sqrt()], 1)
