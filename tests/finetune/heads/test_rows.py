"""Rows of a modality: which of text and streams are real, and what stands for what is not there."""

import pytest
import torch

from finetune.heads.rows import mean_of, rows_of
from pretrain.model.batch import Batch, Frames
from pretrain.model.memobert import Encoded


def batch_of(lengths: list[int], frames: dict[str, Frames]) -> tuple[Encoded, Batch]:
    """`lengths`: pieces with [CLS] and [SEP], 1 for a clip without text."""
    mask_NT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    batch = Batch(
        ids=list(map(str, lengths)),
        text_ids_NT=mask_NT.long(),
        text_mask_NT=mask_NT,
        frames=frames,
    )
    text_NTH = torch.arange(1.0, mask_NT.numel() + 1).reshape(*mask_NT.shape, 1)
    encoded = Encoded(
        text_NTH=text_NTH,
        frames_NFH={name: rows.values_NFC for name, rows in frames.items()},
        pooled_NH=torch.zeros(len(lengths), 1),
    )
    return encoded, batch


def test_text_is_its_pieces_without_the_special_ones():
    encoded, batch = batch_of([5, 4, 1], {})
    values, real = rows_of(encoded, batch, "text", 1)
    assert real.tolist() == [[True] * 3 + [False], [True] * 2 + [False] * 2, [False] * 4]
    assert values[0, :3, 0].tolist() == [2, 3, 4] and not values[~real].any()
    assert mean_of(values, real)[:, 0].tolist() == [3.0, 7.5, 0.0]


@pytest.mark.parametrize("lengths", [[1, 1], [1], [2, 2]])
def test_a_batch_in_which_nobody_speaks_is_one_row_of_zeros(lengths):
    values, real = rows_of(*batch_of(lengths, {}), "text", 7)
    assert values.shape == (len(lengths), 1, 7) and not values.any() and not real.any()


def test_a_stream_that_no_clip_has_is_one_row_of_zeros():
    values, real = rows_of(*batch_of([3, 3], {}), "face", 4)
    assert values.shape == (2, 1, 4) and not values.any() and not real.any()
