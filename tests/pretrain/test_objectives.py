"""Golden losses: each objective against sums worked out in numpy, from the formulas."""

import numpy as np
import pytest
import torch

from pretrain.objectives import OBJECTIVES, kl_divergence, squared_error, wwmlm


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_the_objectives_of_memobert():
    """Name, stream, target, weight and ratio (ICASSP 2022)."""
    found = [(o.name, o.stream, o.target, o.weight, o.ratio) for o in OBJECTIVES.values()]
    assert found == [
        ("wwmlm", "text", "text", 2.0, 0.15),
        ("span_mvfr", "face", "face", 1.0, 0.20),
        ("span_mvfc_kl", "face", "face_probs", 1.0, 0.20),
        ("span_mafr", "speech", "speech", 1.0, 0.15),
    ]


def test_wwmlm_is_the_summed_cross_entropy_over_pieces():
    logits = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])
    pieces = np.array([0, 1])
    p = softmax(logits)
    expected = -np.log(p[0, 0]) - np.log(p[1, 1])
    # log(1.185122) and log(23.38298) - 0.5, by hand.
    assert expected == pytest.approx(0.169846 + 2.652008, abs=1e-5)
    loss, count = wwmlm(torch.tensor(logits), torch.tensor(pieces))
    assert count == 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name, width", [("span_mvfr", 342), ("span_mafr", 64)])
def test_regressions_are_summed_squared_errors_over_frames_times_width(name, width):
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(5, width)).astype(np.float32)
    original = rng.normal(size=(5, width)).astype(np.float16)  # as shards keep them
    loss, count = OBJECTIVES[name].loss(torch.from_numpy(predicted), torch.from_numpy(original))
    assert count == 5 * width
    difference = predicted.astype(np.float64) - original.astype(np.float64)
    assert loss.item() == pytest.approx((difference**2).sum(), rel=1e-5)


def test_mvfc_is_the_divergence_of_the_model_from_the_posterior():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4, 8))
    posterior = softmax(rng.normal(size=(4, 8)) * 3).astype(np.float16)
    posterior[0] = 0
    posterior[0, 2] = 1  # a certain face: 0 log 0 is 0
    q = posterior.astype(np.float64)
    q /= q.sum(-1, keepdims=True)
    p = softmax(logits)
    terms = np.zeros_like(q)
    terms[q > 0] = q[q > 0] * (np.log(q[q > 0]) - np.log(p[q > 0]))
    loss, count = OBJECTIVES["span_mvfc_kl"].loss(torch.tensor(logits), torch.from_numpy(posterior))
    assert count == 4 * 8
    assert loss.item() == pytest.approx(terms.sum(), rel=1e-5)


def test_mvfc_normalises_a_posterior_that_float16_left_short_of_one():
    logits = torch.zeros(1, 8)
    q = torch.full((1, 8), 0.12)  # sums to 0.96
    assert kl_divergence(logits, q)[0].item() == pytest.approx(0.0, abs=1e-6)


def test_sums_and_counts_of_parts_add_up_to_the_whole():
    rng = np.random.default_rng(2)
    x = torch.tensor(rng.normal(size=(7, 8)), dtype=torch.float32)
    y = torch.tensor(softmax(rng.normal(size=(7, 8))), dtype=torch.float32)
    for name in ("span_mvfr", "span_mvfc_kl", "span_mafr"):
        whole, count = OBJECTIVES[name].loss(x, y)
        a, b = OBJECTIVES[name].loss(x[:3], y[:3]), OBJECTIVES[name].loss(x[3:], y[3:])
        torch.testing.assert_close(a[0] + b[0], whole)
        assert a[1] + b[1] == count


def test_low_precision_predictions_are_summed_in_float32():
    x = torch.full((1000, 342), 1.0, dtype=torch.bfloat16)
    loss, count = squared_error(x, torch.zeros(1000, 342, dtype=torch.float16))
    assert loss.dtype == torch.float32
    assert loss.item() == count  # bfloat16 would stop counting at 256
