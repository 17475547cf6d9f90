"""From pooled statistics to emotions. N clips, C classes."""

import torch
import torch.nn.functional as F
from torch import nn

from finetune.heads.base import HeadOutput
from finetune.systems.speech_resnet.batch import Spectrograms
from finetune.systems.speech_resnet.network import SegmentLayer, SpeechResNet
from finetune.training.classifier import Classifier


class EmotionLayers(nn.Module):
    """The segment-level layer, ReLU, dropout, Linear E -> C."""

    def __init__(self, pooled_width: int, width: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.segment = SegmentLayer(pooled_width, width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, num_classes)

    def forward(
        self, pooled_N2D: torch.Tensor, batch: Spectrograms, label_N: torch.Tensor
    ) -> HeadOutput:
        segment_NE = self.dropout(F.relu(self.segment(pooled_N2D)))
        scores_NC = self.classifier(segment_NE).float()
        loss = F.cross_entropy(scores_NC, label_N, reduction="sum")
        return HeadOutput(scores_NC=scores_NC, losses={"cross_entropy": loss})


class SpeechClassifier(Classifier):
    """A trunk that is frozen, and so never in training mode, still hears masked clips in
    training."""

    def train(self, mode: bool = True) -> "SpeechClassifier":
        super().train(mode)
        self.model.is_masked = mode
        return self


def build_classifier(
    trunk: SpeechResNet, *, embedding: int, dropout: float, num_classes: int
) -> SpeechClassifier:
    """The trunk under new layers, as `finetune.training.fit` trains it."""
    layers = EmotionLayers(trunk.pooled_width, embedding, num_classes, dropout)
    return SpeechClassifier(trunk, layers)
