import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretrain.model.dropout import LEVELS, Dropout, dropout, keep_mask


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_share_and_mean_are_those_of_torch(p):
    torch.manual_seed(0)
    x = torch.ones(1000, 1001)
    out = dropout(x, p)
    assert (out == 0).double().mean().item() == pytest.approx(p, abs=4 * (p / 1e6) ** 0.5)
    assert out.double().mean().item() == pytest.approx(1, abs=0.003)
    kept = out[out != 0]
    assert kept.unique().tolist() == pytest.approx([1 / (1 - round(p * LEVELS) / LEVELS)])
    assert F.dropout(x, p)[0].max().item() == pytest.approx(kept[0].item(), rel=1e-4)


def test_neighbours_and_rows_are_independent():
    torch.manual_seed(0)
    mask = keep_mask(torch.Size([4000, 250]), LEVELS // 2).numpy().astype(float)
    for a, b in ((mask[:, :-1], mask[:, 1:]), (mask[:, :-4], mask[:, 4:]), (mask[:-1], mask[1:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.004
    lanes = mask.reshape(-1, 4).mean(0)  # of one number drawn
    assert lanes == pytest.approx(np.full(4, 0.5), abs=0.004)


def test_gradients_pass_where_values_did():
    x = torch.randn(7, 9, requires_grad=True)
    out = dropout(x, 0.4)
    out.sum().backward()
    torch.testing.assert_close(x.grad, (out / x).detach())


def test_it_is_drawn_from_torchs_generator():
    x = torch.ones(3, 5)
    torch.manual_seed(4)
    state = torch.get_rng_state()
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    torch.set_rng_state(state)
    assert torch.equal(dropout(x, 0.5), first) and torch.equal(dropout(x, 0.5), second)


def test_none_all_and_evaluation():
    x = torch.randn(11)
    assert torch.equal(dropout(x, 0.0), x)
    assert torch.equal(dropout(x, 1.0), torch.zeros(11))
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert dropout(x.bfloat16(), 0.5).dtype == torch.bfloat16
