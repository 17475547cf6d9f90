"""What every head is. N clips of a batch, C classes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from finetune.clips.labelled import LabelledClip
from finetune.config import PromptConfig
from pretrain.model.batch import Batch
from pretrain.model.memobert import Encoded


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadOutput:
    """What a head says of a batch."""

    scores_NC: torch.Tensor
    """Logits over the classes, float32."""
    losses: dict[str, torch.Tensor]
    """By name: scalars, each summed over the clips; training lowers their sum."""
    prediction_N: torch.Tensor | None = None
    """Class number, or C for none of the classes; None is the highest score."""
    shared: dict[str, torch.Tensor] = field(default_factory=dict)
    """Rows [N, ...] that `Head.batch_losses` wants of every clip of the batch, of all processes;
    of a stream they may be [N, F, ...], since all processes pad alike."""


@dataclass(frozen=True)
class NoSettings:
    """Of a head that has nothing to set."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadParts:
    """What a head may be built of."""

    model: nn.Module
    """The MEmoBERT, or what stands in its place with `weights: features`."""
    width: int
    """Of `encoded.pooled_NH`."""
    widths: Mapping[str, int]
    """Modality in use to the width of its rows, `encoded[modality]`."""
    classes: tuple[str, ...]
    tokenizer: PreTrainedTokenizerBase
    frozen: bool = False
    """The model stays as it is while the head learns."""
    prompt: PromptConfig = PromptConfig()
    settings: Any = NoSettings()
    """What the setting's `options` say, as the head's own `Settings`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """The training clips of a run, before its first step."""

    clips: Sequence[LabelledClip]
    encoded: Callable[[], Iterator[tuple[Encoded, Batch]]]
    """What the model makes of them then, in batches and in their order, without gradients."""


class Head(nn.Module, ABC):
    """From hidden states to scores and losses.

    A run that is killed goes on with these as they were: parameters, buffers, torch's own random
    numbers, and generators of torch or numpy that are attributes of a module. `prepare` is asked
    again, of the same clips.
    """

    Settings: ClassVar[type] = NoSettings
    """A frozen dataclass of what a user may set, under `options`."""
    reads: tuple[str, ...] | None = None
    """The modalities whose rows it looks at; None is all that there are."""
    asks: ClassVar[bool] = False
    """True: clips are read with the prompt, and the batch asks for the word at its [MASK]."""

    @classmethod
    @abstractmethod
    def build(cls, parts: HeadParts) -> "Head":
        """A new head. Raises what it cannot be built of, before any clip is read."""

    def prepare(self, train: Training) -> None:
        """Look at the training clips of a run before its first step, for class weights and such."""

    @abstractmethod
    def forward(self, encoded: Encoded, batch: Batch, label_N: torch.Tensor) -> HeadOutput:
        """What it says of a batch."""

    def batch_losses(
        self, shared: dict[str, torch.Tensor], label_B: torch.Tensor, mine: slice
    ) -> dict[str, torch.Tensor]:
        """Losses that look at the whole batch of B clips, such as a contrastive one: scalars, each
        summed over the clips `mine` alone, in training only.

        `shared`: what `forward` gave, of all processes, in the batch's order and with gradients.
        """
        return {}
