"""MEmoBERT itself on the device: its losses, gradients, packing, and the memory of a rank.

Needs torch and transformers, no more. Random clips of MELD's lengths, without dropout.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pretrain.bench.clips import make_clips
from pretrain.bench.lengths import CAPPED, draw_lengths
from pretrain.bench.models import SIZES, Size, build
from pretrain.bench.ways import ROW_TOKENS, Way, padded
from pretrain.check.table import Place, Row, Skipped, difference
from pretrain.data.packing import Rows
from pretrain.objectives import OBJECTIVES
from pretrain.optim import build_adamw

SIZE = SIZES["small"]
NUM_CLIPS, STEPS = 16, 5
PACKED = Way(name="packed", batches=Rows(tokens=2048, clips=NUM_CLIPS))
PADDED = Way(name="padded", batches=padded(NUM_CLIPS // 2))
LOSS_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
GRADIENT_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
PACKED_TOLERANCE = {"cpu": 1e-5, "cuda": 1e-4}
FIX = (
    "this torch computes otherwise on the two: try run.precision=fp32, model.attention=plain (the "
    "plain twin) and another version of torch; report the GPU and this figure"
)


@dataclass(frozen=True, kw_only=True)
class Trained:
    losses: list[float]
    """Of some steps."""
    gradient_W: np.ndarray
    """Of the first, of all weights."""


def train(
    size: Size, way: Way, device: torch.device, dtype: torch.dtype = torch.float32
) -> Trained:
    """Some steps on the same clips, each objective's mean weighted equally."""
    clips = make_clips(draw_lengths(CAPPED, NUM_CLIPS, seed=2), seed=3)
    counts = {t: sum(b.counts.get(t, 0) for b in PADDED.batches(clips)) for t in OBJECTIVES}
    batches = [batch.to(device) for batch in way.batches(clips)]
    model = build(size, dropout=0.0).to(device)
    optimizer = build_adamw(model, weight_decay=0.01)
    losses, gradient_W = [], None
    for _ in range(STEPS):
        total = torch.zeros((), device=device)
        for batch in batches:
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                predictions = model(batch)
            loss = sum(
                OBJECTIVES[name].loss(predicted, batch.targets[name].values)[0] / counts[name]
                for name, predicted in predictions.items()
            )
            loss.backward()
            total += loss.detach()
        if gradient_W is None:
            parts = [p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]
            gradient_W = torch.cat(parts).numpy()
        for group in optimizer.param_groups:
            group["lr"] = 1e-4
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total.item())
    return Trained(losses=losses, gradient_W=gradient_W)


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """Length of the difference of two gradients, as a share of the expected one's."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def memobert(place: Place) -> Iterator[Row]:
    """Losses of some steps, and the first one's gradient, in fp32 and bf16, against fp32 on the
    CPU."""
    expected, found = place.pair(lambda device: train(SIZE, PACKED, device))
    half = train(SIZE, PACKED, place.device, torch.bfloat16)
    twins = place.twins
    for name, one, dtype in (
        (f"fp32: {twins}", found, torch.float32),
        (f"bf16 against fp32{' on the CPU' * place.on_gpu}", half, torch.bfloat16),
    ):
        losses = difference(one.losses, expected.losses)
        yield Row.judged(f"losses, {name}", losses, LOSS_TOLERANCE[dtype], FIX)
        gradient = apart(one.gradient_W, expected.gradient_W)
        yield Row.judged(f"gradients, {name}", gradient, GRADIENT_TOLERANCE[dtype], FIX)


def packing(place: Place) -> Iterator[Row]:
    """Joined clips against padded ones, fp32."""
    found, expected = (train(SIZE, way, place.device) for way in (PACKED, PADDED))
    tolerance = PACKED_TOLERANCE[place.device.type]
    fix = "clips reach each other in a joined row: set data.packing=none, and report it"
    for name, figure in (
        ("losses", difference(found.losses[:1], expected.losses[:1])),
        ("gradients", apart(found.gradient_W, expected.gradient_W)),
    ):
        yield Row.judged(f"packed and padded, {name}", figure, tolerance, fix)


def memory(place: Place) -> Iterator[Row]:
    """GB of the GPU that a rank of BERT's base size takes: a pass of the default length, and an
    update, in bf16."""
    if not place.on_gpu:
        raise Skipped("torch counts the memory of GPUs; memory_gb of metrics.csv has a process's")
    card = torch.cuda.get_device_properties(place.device).total_memory / 1e9
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(place.device)
    clips = make_clips(draw_lengths(CAPPED, 160, seed=2), seed=3)
    first = Rows(tokens=ROW_TOKENS, clips=len(clips))(clips)[:1]
    try:
        one_pass(SIZES["base"], first, place.device)
    except torch.OutOfMemoryError:
        why = "lower data.micro_batch_tokens; the step, and what it learns, stay the same"
        yield Row(check="memory of a rank, GB", verdict="failed", tolerance=card, why=why)
        return
    peak = torch.cuda.max_memory_allocated(place.device) / 1e9
    yield Row.judged("memory of a rank, GB", peak, card, "")


def one_pass(size: Size, batches: Sequence, device: torch.device) -> None:
    """Forward, backward and an update, in bf16."""
    model = build(size).to(device)
    optimizer = build_adamw(model, weight_decay=0.01)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        PACKED.step(model, [batch.to(device) for batch in batches])
    optimizer.step()
