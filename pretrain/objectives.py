"""The four pretraining objectives of MEmoBERT.

Each takes predictions at the target rows and the targets, and returns (loss_sum, count): the sum
as a float32 scalar on the device, the count as a number of the host. Sums and counts add up over
clips, micro-batches and ranks; sum / count is the mean of the paper's loss, exactly, however the
clips were dealt out.

Shapes: M target positions of the batch, V word pieces, C feature width, E expressions.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

LossAndCount = tuple[torch.Tensor, int]


def wwmlm(logits_MV: torch.Tensor, pieces_M: torch.Tensor) -> LossAndCount:
    """Whole-word masked language modelling: cross-entropy; counts word pieces."""
    loss_sum = F.cross_entropy(logits_MV.float(), pieces_M, reduction="sum")
    return loss_sum, pieces_M.numel()


def span_mvfr(predicted_MC: torch.Tensor, features_MC: torch.Tensor) -> LossAndCount:
    """Span masked visual feature regression: squared error; counts frames x 342."""
    return _squared_error(predicted_MC, features_MC)


def span_mafr(predicted_MC: torch.Tensor, features_MC: torch.Tensor) -> LossAndCount:
    """Span masked acoustic feature regression: squared error; counts frames x D."""
    return _squared_error(predicted_MC, features_MC)


def span_mvfc_kl(logits_ME: torch.Tensor, posterior_ME: torch.Tensor) -> LossAndCount:
    """Span masked visual feature classification: KL(q || p); counts frames x 8.

    q is the expression encoder's posterior, p the model's softmax. q is normalised again, since
    shards keep it in float16. The reference's mean runs over frames x 8, an eighth of the
    divergence per frame; so does this count.
    """
    q_ME = posterior_ME.float()
    q_ME = q_ME / q_ME.sum(-1, keepdim=True)
    log_p_ME = F.log_softmax(logits_ME.float(), dim=-1)
    loss_sum = F.kl_div(log_p_ME, q_ME, reduction="sum")
    return loss_sum, posterior_ME.numel()


def _squared_error(predicted_MC: torch.Tensor, features_MC: torch.Tensor) -> LossAndCount:
    loss_sum = F.mse_loss(predicted_MC.float(), features_MC.float(), reduction="sum")
    return loss_sum, features_MC.numel()


OBJECTIVES: dict[str, Callable[[torch.Tensor, torch.Tensor], LossAndCount]] = {
    "wwmlm": wwmlm,
    "span_mvfr": span_mvfr,
    "span_mvfc_kl": span_mvfc_kl,
    "span_mafr": span_mafr,
}
