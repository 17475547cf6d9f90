"""A model and a head behind one forward: what the training loop sees. N clips, C classes."""

from typing import NamedTuple

import torch
from torch import nn

from finetune.heads import Head
from pretrain.model.batch import Batch
from pretrain.model.memobert import MEmoBert


class ClassifierOutput(NamedTuple):
    """What a classifier says of a batch."""

    losses: dict[str, torch.Tensor]
    """By name: scalars, summed over the clips."""
    scores_NC: torch.Tensor
    """Logits over the classes."""
    prediction_N: torch.Tensor
    """Class number, or C for none of the classes."""
    shared: dict[str, torch.Tensor]
    """See finetune.heads.HeadOutput."""

    @property
    def loss_sum(self) -> torch.Tensor:
        """What training lowers."""
        first, *rest = self.losses.values()
        return sum(rest, first)


class Classifier(nn.Module):
    """The encoder's hidden states, and a head on top."""

    def __init__(self, model: MEmoBert, head: Head) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, batch: Batch, label_N: torch.Tensor) -> ClassifierOutput:
        said = self.head(self.model.encode(batch), batch, label_N)
        prediction_N = said.prediction_N
        if prediction_N is None:
            prediction_N = said.scores_NC.argmax(-1)
        return ClassifierOutput(said.losses, said.scores_NC, prediction_N, said.shared)
