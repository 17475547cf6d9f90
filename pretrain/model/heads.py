"""What is predicted from a hidden state: a word piece, a frame of features, a class.

    head(hidden_MH, input_weight) -> predictions

The decoders of words and frames own no matrix: they multiply with the weight of the embedder they
undo, handed in at each call, so the two cannot come apart in saving, loading or moving.

Shapes: M target positions, H model width, V word pieces, C feature width.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Transform(nn.Module):
    """Linear, GELU, LN: the layer before BERT's word decoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x_MH: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(F.gelu(self.dense(x_MH)))


class WordHead(nn.Module):
    """Masked words: logits over the vocabulary, by the transpose of the word embeddings."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.transform = Transform(width)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, x_MH: torch.Tensor, words_VH: torch.Tensor) -> torch.Tensor:
        return F.linear(self.transform(x_MH), words_VH, self.bias)


class FrameHead(nn.Module):
    """Masked frames (MVFR, MAFR): the features, by the transpose of the embedder's linear."""

    def __init__(self, width: int, feature_width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(feature_width))

    def forward(self, x_MH: torch.Tensor, linear_HC: torch.Tensor) -> torch.Tensor:
        return F.linear(self.norm(F.gelu(self.dense(x_MH))), linear_HC.t(), self.bias)


class ClassHead(nn.Module):
    """Masked frames by class (MVFC): logits over the classes, tied to nothing."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x_MH: torch.Tensor, input_weight: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.norm(F.gelu(self.dense(x_MH))))
