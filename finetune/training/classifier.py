"""A model and a head behind one forward: what the training loop sees. N clips, C classes."""

from typing import NamedTuple

import torch
from torch import nn

from finetune.heads import Head
from finetune.training.whole_batch import WholeBatch
from pretrain.model.batch import Batch


class ClassifierOutput(NamedTuple):
    """What a classifier says of a batch."""

    losses: dict[str, torch.Tensor]
    """By name: scalars, summed over the clips of this process."""
    scores_NC: torch.Tensor
    """Logits over the classes."""
    prediction_N: torch.Tensor
    """Class number, or C for none of the classes."""


class Classifier(nn.Module):
    """The encoder's hidden states, and a head on top."""

    def __init__(self, model: nn.Module, head: Head) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self._frozen = False

    def freeze(self) -> None:
        """Keep the model as it is, without dropout; the head alone learns."""
        self._frozen = True
        self.model.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if self._frozen:
            self.model.eval()
        return self

    def forward(
        self, batch: Batch, label_N: torch.Tensor, whole: WholeBatch | None = None
    ) -> ClassifierOutput:
        """`whole`: in training, the batch that these clips are a part of; without it there are no
        losses over all of it."""
        said = self.head(self.model.encode(batch), batch, label_N)
        losses = dict(said.losses)
        if whole is not None and said.shared:
            losses |= self.head.batch_losses(whole.gather(said.shared), whole.label_B, whole.mine)
        prediction_N = said.prediction_N
        if prediction_N is None:
            prediction_N = said.scores_NC.argmax(-1)
        return ClassifierOutput(losses, said.scores_NC, prediction_N)
