"""The pretraining objectives: what each reads, asks for, loses, and how much it weighs.

A loss takes predictions at the target rows and the targets, and returns (loss_sum, count): the sum
as a float32 scalar on the device, the count as a number of the host. Sums and counts add up over
clips, micro-batches and ranks; sum / count is the mean of the paper's loss, exactly, however the
clips were dealt out.

A new objective is one more entry of OBJECTIVES: config, masking, model, log and metrics follow.

Shapes: M target positions of the batch, V word pieces, C feature width, E expressions.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pretrain.model.heads import ClassHead, FrameHead

LossAndCount = tuple[torch.Tensor, int]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One thing that pretraining asks for."""

    name: str
    title: str
    """As reports have it."""
    stream: str
    """What is corrupted, and whose hidden states answer: `text`, or a stream of frames."""
    target: str
    """The stream whose rows are asked for; `text` is its word pieces."""
    loss: Callable[[torch.Tensor, torch.Tensor], LossAndCount]
    head: Callable[[int, int], nn.Module] | None
    """(model width, target width) -> head(hidden_MH, input_weight); None is the word head, which
    every model has. `input_weight` is that of the stream's input layer, for heads tied to it."""
    weight: float
    """Of its share of steps or clips; 0 is off, unless the config says otherwise."""
    ratio: float
    """Share of the words, or of the frames, that it asks for."""


def wwmlm(logits_MV: torch.Tensor, pieces_M: torch.Tensor) -> LossAndCount:
    """Whole-word masked language modelling: cross-entropy; counts word pieces."""
    loss_sum = F.cross_entropy(logits_MV.float(), pieces_M, reduction="sum")
    return loss_sum, pieces_M.numel()


def squared_error(predicted_MC: torch.Tensor, features_MC: torch.Tensor) -> LossAndCount:
    """Regression of masked frames: squared error; counts frames x C."""
    loss_sum = F.mse_loss(predicted_MC.float(), features_MC.float(), reduction="sum")
    return loss_sum, features_MC.numel()


def kl_divergence(logits_ME: torch.Tensor, posterior_ME: torch.Tensor) -> LossAndCount:
    """Classification of masked frames by a posterior: KL(q || p); counts frames x E.

    q is the expression encoder's posterior, p the model's softmax. q is normalised again, since
    shards keep it in float16. The reference's mean runs over frames x 8, an eighth of the
    divergence per frame; so does this count.
    """
    q_ME = posterior_ME.float()
    q_ME = q_ME / q_ME.sum(-1, keepdim=True)
    log_p_ME = F.log_softmax(logits_ME.float(), dim=-1)
    loss_sum = F.kl_div(log_p_ME, q_ME, reduction="sum")
    return loss_sum, posterior_ME.numel()


WWMLM = Objective(
    name="wwmlm",
    title="WWMLM",
    stream="text",
    target="text",
    loss=wwmlm,
    head=None,
    weight=2.0,
    ratio=0.15,
)
SPAN_MVFR = Objective(
    name="span_mvfr",
    title="SpanMVFR",
    stream="face",
    target="face",
    loss=squared_error,
    head=FrameHead,
    weight=1.0,
    ratio=0.20,
)
SPAN_MVFC_KL = Objective(
    name="span_mvfc_kl",
    title="SpanMVFC-KL",
    stream="face",
    target="face_probs",
    loss=kl_divergence,
    head=ClassHead,
    weight=1.0,
    ratio=0.20,
)
SPAN_MAFR = Objective(
    name="span_mafr",
    title="SpanMAFR",
    stream="speech",
    target="speech",
    loss=squared_error,
    head=FrameHead,
    weight=1.0,
    ratio=0.15,
)

OBJECTIVES: dict[str, Objective] = {
    objective.name: objective for objective in (WWMLM, SPAN_MVFR, SPAN_MVFC_KL, SPAN_MAFR)
}
"""Those of MEmoBERT (ICASSP 2022), with its weights and ratios."""


def streams_of(frames: Iterable[str], objectives: Iterable[str]) -> set[str]:
    """The streams of a clip to read: those of `frames`, and what `objectives` ask for."""
    return {*frames, *(OBJECTIVES[name].target for name in objectives)} - {"text"}
