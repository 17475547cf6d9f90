"""Part 4: how a step grows with the model, and with the length of its clips.

Clips of the paper's limits, all of one length, packed, forward and backward. Of a model of twice
the width an encoder layer has four times the weights, and no less arithmetic.
"""

from collections.abc import Iterator

import numpy as np
import torch

from pretrain.bench.clips import make_clips
from pretrain.bench.models import Size, build
from pretrain.bench.results import Row
from pretrain.bench.timing import by_turns
from pretrain.bench.ways import Way
from pretrain.data.packing import Rows, length_of

WIDTHS = (96, 192, 384)
"""1, 4 and 16 times the weights of a layer."""
LENGTHS = (1, 2, 4, 8)
CLIP = np.array([30, 36, 64]) // 2
"""Pieces, faces and states of a clip of length 1; four times that is within the position tables."""


def growth(clips: int, repeats: int) -> Iterator[Row]:
    """Milliseconds of a step, and of its arithmetic what is done in a second."""
    way = Way(name="packed", batches=Rows(tokens=10**6, clips=10**6))
    sizes = [Size(name=f"width {w}", width=w, layers=4, heads=w // 32) for w in WIDTHS]
    cases = [(size, 1) for size in sizes] + [(sizes[1], length) for length in LENGTHS[1:]]
    work, flops = {}, {}
    for size, times in cases:
        name = f"{size.name}, length {times}"
        made = make_clips(np.tile(CLIP * times, (clips, 1)), seed=3)
        work[name] = _step(way, size, way.batches(made))
        flops[name] = size.flops(np.array([length_of(clip) for clip in made]))
    found = by_turns(work, repeats, torch.device("cpu"))
    for name, times in found.items():
        about = {"part": "growth", "setting": name}
        yield Row.of(**about, measure="ms a step", values=[1000 * s for s in times.wall])
        rates = [flops[name] / s / 1e9 for s in times.wall]
        yield Row.of(**about, measure="GFLOP/s", values=rates)


def _step(way: Way, size: Size, batches: list):
    model = build(size)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        way.step(model, batches)

    return step
