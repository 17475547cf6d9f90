"""The linear head, against its formula."""

import numpy as np
import torch
from scipy.special import erf

from finetune.heads.linear import LinearHead
from finetune.training.classifier import Classifier
from pretrain.model.memobert import Encoded
from pretrain.optim import parameter_groups


def test_the_head_is_linear_gelu_norm_linear_on_the_pooled_state():
    torch.manual_seed(0)
    head = LinearHead(6, 4)
    pooled_NH = torch.randn(5, 6)
    encoded = Encoded(text_NTH=torch.zeros(5, 2, 6), frames_NFH={}, pooled_NH=pooled_NH)
    w = {name: p.detach().double().numpy() for name, p in head.named_parameters()}
    x = pooled_NH.double().numpy() @ w["dense.weight"].T + w["dense.bias"]
    assert x.shape == (5, 12)
    x = x * 0.5 * (1 + erf(x / np.sqrt(2)))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    expected = x @ w["classifier.weight"].T + w["classifier.bias"]
    found = head(encoded, None, torch.zeros(5, dtype=torch.int64)).scores_NC.detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_norm_is_decayed_as_the_official_one_is():
    """There the head is a Sequential called `output`, whose norm is `output.2`: the rule of names
    spares its biases alone."""
    official = torch.nn.Sequential(
        torch.nn.Linear(6, 12), torch.nn.GELU(), torch.nn.LayerNorm(12), torch.nn.Linear(12, 4)
    )
    groups = [
        parameter_groups(torch.nn.ModuleDict({"output": official}), 0.01),
        parameter_groups(Classifier(torch.nn.Identity(), LinearHead(6, 4)), 0.01),
    ]
    shapes = [[[tuple(p.shape) for p in group["params"]] for group in both] for both in groups]
    assert shapes[0] == shapes[1] == [[(12, 6), (12,), (4, 12)], [(12,), (12,), (4,)]]
