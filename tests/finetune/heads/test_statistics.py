"""The head on means and deviations, against numpy, and what it makes of absent streams."""

import numpy as np
import pytest
import torch

from finetune.heads import Training, head_named
from finetune.heads.statistics import (
    EPSILON,
    StatisticsHead,
    StatisticsSettings,
    statistics_of,
)
from pretrain.model.batch import Batch, Frames
from pretrain.model.memobert import Encoded

WIDTHS = {"eeg": 5, "face": 3}


def rows(**lengths: list[int]) -> dict[str, list[np.ndarray]]:
    """Stream to the rows [F, C] of each clip."""
    rng = np.random.default_rng(0)
    return {
        name: [rng.normal(2, 1, (n, WIDTHS[name])).astype(np.float32) for n in of_clips]
        for name, of_clips in lengths.items()
    }


def batch_of(streams: dict[str, list[np.ndarray]], padding: int = 0) -> tuple[Encoded, Batch]:
    """What lies at padding is not to be looked at."""
    frames, num = {}, len(next(iter(streams.values())))
    for name, clips in streams.items():
        longest = max(1, *map(len, clips)) + padding
        values_NFC = np.full((num, longest, WIDTHS[name]), 1e6, np.float32)
        for clip_FC, row_FC in zip(clips, values_NFC, strict=True):
            row_FC[: len(clip_FC)] = clip_FC
        real_NF = torch.arange(longest) < torch.tensor([[len(clip)] for clip in clips])
        frames[name] = Frames(
            values_NFC=torch.from_numpy(values_NFC),
            real_NF=real_NF,
            masked_NF=torch.zeros_like(real_NF),
            seconds_NF=torch.zeros(real_NF.shape),
            last_seconds=0.0,
        )
    encoded = Encoded(
        text_NTH=torch.zeros(num, 2, 0),
        frames_NFH={name: of.values_NFC for name, of in frames.items()},
        pooled_NH=torch.zeros(num, 8),
    )
    text_NT = torch.zeros(num, 2, dtype=torch.int64)
    batch = Batch(
        ids=[str(n) for n in range(num)],
        text_ids_NT=text_NT,
        text_mask_NT=text_NT == 0,
        frames=frames,
    )
    return encoded, batch


def prepared(encoded: Encoded, batch: Batch) -> StatisticsHead:
    torch.manual_seed(1)
    head = StatisticsHead(WIDTHS, 4, StatisticsSettings(hidden=6)).eval()
    head.prepare(Training(clips=[], encoded=lambda: iter([(encoded, batch)])))
    return head


def scores_of(head: StatisticsHead, encoded: Encoded, batch: Batch) -> np.ndarray:
    return head(encoded, batch, torch.zeros(len(batch.ids), dtype=torch.int64)).scores_NC.detach()


def by_numpy(values_FC: np.ndarray) -> np.ndarray:
    return np.concatenate([values_FC.mean(0), np.sqrt(values_FC.var(0) + EPSILON)])


def test_scores_are_those_of_the_equation():
    """s scaled by the training clips, W2 relu(W1 s); once more in numpy."""
    streams = rows(eeg=[4, 3, 6], face=[2, 5, 1])
    encoded, batch = batch_of(streams)
    head = prepared(encoded, batch)
    said = head(encoded, batch, torch.tensor([0, 3, 1]))
    s_ND = [np.stack([by_numpy(clip) for clip in clips]) for clips in streams.values()]
    scaled_ND = np.concatenate([(s - s.mean(0)) / s.std(0) for s in s_ND], 1)
    weight = {name: value.numpy() for name, value in head.layers.state_dict().items()}
    hidden_NH = np.maximum(0, scaled_ND @ weight["0.weight"].T + weight["0.bias"])
    scores_NC = hidden_NH @ weight["3.weight"].T + weight["3.bias"]
    np.testing.assert_allclose(said.scores_NC.detach(), scores_NC, atol=1e-4)
    log_NC = scores_NC - np.log(np.exp(scores_NC).sum(1, keepdims=True))
    expected = -log_NC[[0, 1, 2], [0, 3, 1]].sum()
    assert said.losses["cross_entropy"].item() == pytest.approx(expected, rel=1e-4)


def test_padding_and_neighbours_change_nothing():
    streams = rows(eeg=[4, 3, 6], face=[2, 5, 1])
    head = prepared(*batch_of(streams))
    whole_NC = scores_of(head, *batch_of(streams))
    np.testing.assert_allclose(scores_of(head, *batch_of(streams, padding=3)), whole_NC, atol=1e-5)
    alone_NC = np.concatenate(
        [scores_of(head, *batch_of({k: [v[n]] for k, v in streams.items()})) for n in range(3)]
    )
    np.testing.assert_allclose(alone_NC, whole_NC, atol=1e-5)


def test_a_clip_without_a_stream_counts_in_no_scale_and_stands_at_its_mean():
    streams = rows(eeg=[4, 0, 6], face=[2, 5, 1])
    head = prepared(*batch_of(streams))
    s_ND = np.stack([by_numpy(streams["eeg"][n]) for n in (0, 2)])
    np.testing.assert_allclose(head.eeg_mean, s_ND.mean(0), rtol=1e-5)
    np.testing.assert_allclose(head.eeg_deviation, s_ND.std(0), rtol=1e-4)
    found_NC = scores_of(head, *batch_of(streams))
    bare_NC = scores_of(head, *batch_of({"face": streams["face"]}))  # nobody has eeg
    np.testing.assert_allclose(found_NC[1], bare_NC[1], atol=1e-5)
    assert not np.allclose(found_NC[0], bare_NC[0], atol=1e-3)


def test_rows_that_are_all_alike_have_a_gradient_and_a_scale():
    head = prepared(*batch_of(rows(eeg=[1, 1], face=[1, 1])))
    assert (head.eeg_deviation[WIDTHS["eeg"] :] == 1).all()  # no clip deviates from another
    values_NFC = torch.full((2, 3, 5), 2.0, requires_grad=True)
    statistics_of(values_NFC, torch.ones(2, 3, dtype=torch.bool)).sum().backward()
    assert torch.isfinite(values_NFC.grad).all()


def test_it_is_found_by_its_name():
    assert head_named("statistics") is StatisticsHead
