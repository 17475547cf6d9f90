"""On a GPU: tokens a second, share of the peak and memory, by model size and batching.

A step is forward and backward of some clips and one update, under bf16 autocast, from batches that
are on the device. The peak is the card's dense bf16 one. Real positions alone count, in tokens and
in arithmetic, which is that of the encoder (pretrain.monitoring.flops).
"""

import math
from collections.abc import Iterator

import numpy as np
import torch

from pretrain.bench.clips import make_clips
from pretrain.bench.lengths import Caps, draw_lengths
from pretrain.bench.models import Size, build
from pretrain.bench.results import Row
from pretrain.bench.timing import by_turns
from pretrain.bench.ways import Way, padded
from pretrain.data.collate import Example
from pretrain.data.packing import Rows, length_of
from pretrain.monitoring.flops import peak_tflops
from pretrain.optim import build_adamw


def ladder(
    size: Size, caps: Caps, num_clips: int, row_tokens: int, repeats: int, device: torch.device
) -> Iterator[Row]:
    """Padded and packed, eager and compiled.

    A padded batch has as many clips as fit `row_tokens` with the longest. What fails, such as for
    want of memory, is a row that says so.
    """
    clips = make_clips(draw_lengths(caps, num_clips, seed=2), seed=3)
    longest = max(map(length_of, clips))
    batches, rows = padded(row_tokens // longest), Rows(tokens=row_tokens, clips=num_clips)
    kinds = [
        Way(name="padded", batches=batches),
        Way(name="padded, compiled", batches=batches),
        Way(name="packed", batches=rows),
        Way(name="packed, compiled", batches=rows),
    ]
    for way in kinds:
        about = {"part": f"{device.type}, bf16", "setting": f"{size.name}, {caps.name}"}
        try:
            measures = _measure(size, way, clips, repeats, device)
        except RuntimeError as error:  # torch's for memory and for kernels are kinds of it
            measures = {f"failed, {type(error).__name__}": [math.nan]}
        for measure, values in measures.items():
            yield Row.of(**about, measure=f"{way.name}: {measure}", values=values)


def _measure(
    size: Size, way: Way, clips: list[Example], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    batches = [batch.to(device) for batch in way.batches(clips)]
    model = build(size).to(device)
    if way.name.endswith("compiled"):
        torch._dynamo.reset()  # it stops compiling a function after 8 times
        model.encoder.compile_layers()
    optimizer = build_adamw(model, weight_decay=0.01)

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            way.step(model, batches)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    step()  # compiles
    wall = by_turns({"step": step}, repeats, device)["step"].wall
    lengths_N = np.array([length_of(clip) for clip in clips])
    measures = {"tokens/s": [lengths_N.sum() / seconds for seconds in wall]}
    measures["TFLOP/s"] = [size.flops(lengths_N) / seconds / 1e12 for seconds in wall]
    if device.type == "cuda":
        measures["memory, GB"] = [torch.cuda.max_memory_allocated(device) / 1e9]
        peak = peak_tflops(torch.cuda.get_device_name(device))
        if peak is not None:
            measures["MFU"] = [one / peak for one in measures["TFLOP/s"]]
    return measures
