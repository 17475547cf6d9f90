"""A model plus a way to read an emotion off it, behind one forward: what the training loop sees.

N clips, C classes, V word pieces.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from finetune.prompt import Verbalizer
from pretrain.model.memobert import Batch, MEmoBert
from pretrain.objectives import wwmlm


class Judgement(NamedTuple):
    """What a classifier says of a batch."""

    loss_sum: torch.Tensor
    """Scalar: cross-entropy, summed over the clips."""
    scores_NC: torch.Tensor
    """Logits over the classes."""
    prediction_N: torch.Tensor
    """Class number, or C for none of the classes."""


class HeadClassifier(nn.Module):
    """A head with weights of its own on top of the encoder; cross-entropy over the classes."""

    def __init__(self, model: MEmoBert, head: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, batch: Batch, label_N: torch.Tensor) -> Judgement:
        scores_NC = self.head(self.model.encode(batch), batch).float()
        loss_sum = F.cross_entropy(scores_NC, label_N, reduction="sum")
        return Judgement(loss_sum, scores_NC, scores_NC.argmax(-1))


class PromptClassifier(nn.Module):
    """The pretrained word head at [MASK]; no new weights.

    Trained with cross-entropy over the whole vocabulary, as in pretraining. The batch must ask
    for the word at one position per clip, in order (finetune.prompt.Prompt does).

    decode "label_words": the likeliest of the label words wins, so every prediction is a class.
    "vocabulary": the likeliest of all pieces wins, and one that is no label word is class C.
    """

    def __init__(
        self, model: MEmoBert, verbalizer: Verbalizer, decode: str = "label_words"
    ) -> None:
        super().__init__()
        if decode not in ("label_words", "vocabulary"):
            raise ValueError(f"decode {decode!r} is unknown; choose label_words or vocabulary")
        self.model = model
        self.decode = decode
        self.register_buffer("piece_C", torch.tensor(verbalizer.pieces), persistent=False)

    def forward(self, batch: Batch, label_N: torch.Tensor) -> Judgement:
        logits_NV = self.model(batch)["wwmlm"]
        loss_sum, _ = wwmlm(logits_NV, self.piece_C[label_N])
        scores_NC = logits_NV[:, self.piece_C].float()
        return Judgement(loss_sum, scores_NC, self._decode(logits_NV, scores_NC))

    def _decode(self, logits_NV: torch.Tensor, scores_NC: torch.Tensor) -> torch.Tensor:
        best_N = scores_NC.argmax(-1)
        if self.decode == "label_words":
            return best_N
        said_N = logits_NV.argmax(-1)
        return torch.where(said_N == self.piece_C[best_N], best_N, scores_NC.shape[1])
