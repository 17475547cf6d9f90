import math

import pytest
import torch
import toys

from pretrain.model.memobert import MEmoBert
from pretrain.optim import build_adamw, learning_rate, parameter_groups


def toy():
    sizes = {"width": 8, "num_layers": 1, "num_heads": 2, "ffn_width": 16}
    return MEmoBert(vocab_size=20, **sizes, **toys.model_sizes(speech_width=4))


def test_the_reference_exclusions_by_name():
    model = toy()
    decayed, spared = parameter_groups(model, 0.01)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed = {names[id(p)] for p in decayed["params"]}
    spared = {names[id(p)] for p in spared["params"]}
    assert decayed | spared == set(names.values()) and not decayed & spared
    for name in (
        "embeddings.LayerNorm.weight",
        "encoder.layer.0.attention.output.LayerNorm.weight",
        "encoder.layer.0.output.LayerNorm.bias",
        "encoder.layer.0.attention.self.query.bias",
        "frame_embeddings.face.LayerNorm.weight",
        "cls.predictions.transform.LayerNorm.weight",
        "cls.predictions.bias",
        "heads.span_mvfr.bias",
    ):
        assert name in spared
    for name in (
        "frame_embeddings.face.input_norm.weight",  # a norm, and decayed all the same
        "frame_embeddings.speech.input_norm.weight",
        "heads.span_mvfr.norm.weight",
        "frame_embeddings.face.mask_embedding.weight",
        "embeddings.word_embeddings.weight",
        "encoder.layer.0.attention.self.query.weight",
    ):
        assert name in decayed


def test_frozen_parameters_are_left_out():
    model = toy()
    model.embeddings.requires_grad_(False)
    groups = parameter_groups(model, 0.01)
    taken = {id(p) for group in groups for p in group["params"]}
    assert not any(id(p) in taken for p in model.embeddings.parameters())


def test_the_reference_schedule():
    rate = dict(peak=5e-5, warmup=4000, total=40_000)
    assert learning_rate(1, **rate) == pytest.approx(5e-5 / 4000)
    assert learning_rate(2000, **rate) == pytest.approx(2.5e-5)
    assert learning_rate(4000, **rate) == 5e-5
    assert learning_rate(22_000, **rate) == pytest.approx(2.5e-5)
    assert learning_rate(40_000, **rate) == 1e-8
    assert learning_rate(50_000, **rate) == 1e-8


def test_without_warm_up_the_first_step_is_the_peak_less_one_step():
    rate = dict(peak=1.0, warmup=0, total=100)
    assert learning_rate(1, **rate) == pytest.approx(0.99)
    assert learning_rate(100, **rate) == 1e-8
    assert learning_rate(100, **rate, floor=0.1) == 0.1


def test_adamw_takes_the_step_of_the_paper():
    """One update worked out by hand: bias correction, decoupled decay, eps outside the root."""
    model = toy()
    optimizer = build_adamw(model, learning_rate=1e-3, weight_decay=0.01)
    assert all(g["betas"] == (0.9, 0.98) and g["eps"] == 1e-6 for g in optimizer.param_groups)
    weight, bias = model.pooler.dense.weight, model.pooler.dense.bias
    w0 = weight[0, 0].item()
    weight.grad, bias.grad = torch.full_like(weight, 0.5), torch.full_like(bias, -2.0)
    optimizer.step()
    m_hat, v_hat = 0.1 * 0.5 / (1 - 0.9), 0.02 * 0.25 / (1 - 0.98)
    expected = w0 * (1 - 1e-3 * 0.01) - 1e-3 * m_hat / (math.sqrt(v_hat) + 1e-6)
    assert weight[0, 0].item() == pytest.approx(expected, rel=1e-5)
    assert bias[0].item() == pytest.approx(1e-3 * 2.0 / (2.0 + 1e-6), rel=1e-5)
