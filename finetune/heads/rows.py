"""The rows of one modality, whichever model gave them. N clips, F rows, C width."""

import torch

from pretrain.model.batch import Batch
from pretrain.model.memobert import Encoded


def rows_of(
    encoded: Encoded, batch: Batch, modality: str, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [N, F, C] of `text` or of a stream, zeros where nothing is, and which are real [N, F].

    Of text they are the word pieces, without [CLS] and [SEP]. A stream that no clip of the batch
    has is one row of zeros.
    """
    if modality == "text" and batch.text_ids_NT.shape[1] > 2:
        values_NFC, real_NF = encoded.text_NTH[:, 1:], batch.text_mask_NT[:, 1:].clone()
        last_N = batch.text_mask_NT.sum(1) - 2  # [SEP]; of a clip of [CLS] alone nothing is real
        real_NF[torch.arange(len(real_NF), device=real_NF.device), last_N] = False
    elif modality in batch.frames:
        values_NFC, real_NF = encoded[modality], batch.frames[modality].real_NF
    else:
        blank_N1C = encoded.pooled_NH.new_zeros(len(batch.ids), 1, width)
        return blank_N1C, torch.zeros(
            blank_N1C.shape[:2], dtype=torch.bool, device=blank_N1C.device
        )
    return values_NFC.masked_fill(~real_NF[..., None], 0.0), real_NF


def mean_of(values_NFC: torch.Tensor, real_NF: torch.Tensor) -> torch.Tensor:
    """[N, C], the mean over real rows; zeros where there are none."""
    real_NF1 = real_NF[..., None].to(values_NFC.dtype)
    return (values_NFC * real_NF1).sum(1) / real_NF1.sum(1).clamp(min=1)
