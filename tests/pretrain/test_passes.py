"""Passes that touch the same weights in the same order, whatever their clips have and are asked."""

import copy

import pytest
import torch
import toys
import zero_ranks

from pretrain.build import build_model
from pretrain.config import ModelSettings
from pretrain.engine.passes import alike
from pretrain.model.batch import AnyBatch
from pretrain.model.memobert import MEmoBert
from pretrain.objectives import OBJECTIVES
from pretrain.runtime import seed_everything

ON = zero_ranks.ON


@pytest.fixture(scope="module")
def model() -> MEmoBert:
    seed_everything(3)
    sizes = {"width": 24, "num_layers": 2, "num_heads": 2, "ffn_width": 48, "dropout": 0.0}
    text = {"text_checkpoint": zero_ranks.TEXT, "text_init": "none"}
    return build_model(ModelSettings(**text, **sizes), toys.passport())[0]


@pytest.fixture(params=["joined", "padded"])
def dealt(request) -> list[list[AnyBatch]]:
    """Two ranks' batches: three without a face, and one of faces alone."""
    return [zero_ranks.batches(zero_ranks.examples(rank), request.param) for rank in (0, 1)]


def backward(model: MEmoBert, batch: AnyBatch) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Gradients, and the weights in the order in which they got them."""
    model, order = copy.deepcopy(model), []
    for name, weight in model.named_parameters():
        weight.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
    predictions = model(batch)
    sum(
        OBJECTIVES[t].loss(x, batch.targets[t].values)[0] for t, x in predictions.items()
    ).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, order


def test_what_is_added_changes_no_gradient_by_a_bit(model, dealt):
    batch = dealt[0][0]
    (fed,) = alike([batch], 1, model, ON)
    assert fed.frames.keys() == {"face", "speech"} and list(fed.targets) == ON
    grads, _ = backward(model, batch)
    more, _ = backward(model, fed)
    assert grads.keys() < more.keys()
    for name, grad in more.items():
        assert torch.equal(grad, grads.get(name, torch.zeros_like(grad))), name


def test_a_repeated_batch_asks_nothing(model, dealt):
    fed = alike(dealt[1], 3, model, ON)
    assert len(fed) == 3 and fed[1].ids == fed[2].ids == dealt[1][0].ids
    assert fed[1].counts == {} and not fed[1].num_tokens
    grads, _ = backward(model, fed[2])
    assert grads and not any(grad.any() for grad in grads.values())


def test_every_pass_of_every_rank_reaches_the_same_weights_in_one_order(model, dealt):
    plain = {tuple(backward(model, batch)[1]) for batches in dealt for batch in batches}
    assert len(plain) > 1
    fed = [batch for batches in dealt for batch in alike(batches, 3, model, ON)]
    (order,) = {tuple(backward(model, batch)[1]) for batch in fed}
    never = {"pooler.dense", "heads.span_mvfc_kl"}  # nothing reads it; that objective is off
    untouched = {n for n, _ in model.named_parameters()} - {*order}
    assert untouched and all(n.startswith(tuple(never)) for n in untouched)
