"""Part 2: the encoder's arithmetic a second, real positions alone, against torch.mm's."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from pretrain.bench.clips import make_clips
from pretrain.bench.lengths import Caps, draw_lengths
from pretrain.bench.models import Size, build
from pretrain.bench.results import Row
from pretrain.bench.timing import by_turns
from pretrain.data.packing import Rows, length_of

LAYERS = 2


def against_mm(
    size: Size, caps: Caps, num_clips: int, row_tokens: int, threads: int, repeats: int
) -> Iterator[Row]:
    """Two layers, forward and backward, with dropout, in fp32."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield from _measure(size, caps, num_clips, row_tokens, threads, repeats)
    finally:
        torch.set_num_threads(before)


def _measure(
    size: Size, caps: Caps, num_clips: int, row_tokens: int, threads: int, repeats: int
) -> Iterator[Row]:
    device = torch.device("cpu")
    encoder = build(size, layers=LAYERS).encoder
    clips = make_clips(draw_lengths(caps, num_clips, seed=2), seed=3)
    lengths_N = np.array([length_of(clip) for clip in clips])
    rows = Rows(tokens=row_tokens, clips=10**6)(clips)
    inputs = [torch.randn(batch.num_tokens, size.width, requires_grad=True) for batch in rows]

    def layers() -> None:
        for x, batch in zip(inputs, rows, strict=True):
            hidden = encoder(x, batch.segments)
            hidden.backward(torch.ones_like(hidden))

    products, flops_mm = _products(size, [len(x) for x in inputs])
    times = by_turns({"encoder": layers, "mm": products}, repeats, device)
    mine = [size.flops(lengths_N, LAYERS) / s / 1e9 for s in times["encoder"].wall]
    of_mm = [flops_mm / s / 1e9 for s in times["mm"].wall]
    about = {
        "part": "GFLOP/s of the encoder",
        "setting": f"{size.name}, {caps.name}, {threads} thread{'s' * (threads > 1)}",
    }
    yield Row.of(**about, measure="encoder, real positions", values=mine)
    yield Row.of(**about, measure="torch.mm at its shapes", values=of_mm)
    for clock in ("wall", "cpu"):
        pairs = zip(getattr(times["mm"], clock), getattr(times["encoder"], clock), strict=True)
        shares = [size.flops(lengths_N, LAYERS) / flops_mm * bare / mine for bare, mine in pairs]
        yield Row.of(**about, measure=f"share, {clock} time", values=shares)


def _products(size: Size, row_lengths: list[int]) -> tuple[Callable[[], None], float]:
    """A layer's linear maps by torch.mm into memory that is there already: forward, and backward to
    input and weight; and their arithmetic."""
    shapes = [(size.width, size.width)] * 4
    shapes += [(size.width, size.ffn_width), (size.ffn_width, size.width)]
    weights = {shape: torch.randn(shape) for shape in set(shapes)}
    most = max(row_lengths)
    tensors = {width: torch.randn(most, width) for width in (size.width, size.ffn_width)}
    outputs = {width: torch.empty(most, width) for width in tensors}
    grads = {shape: torch.empty(shape) for shape in weights}

    def run() -> None:
        for n in row_lengths:
            for before, after in shapes:
                x, y, w = tensors[before][:n], tensors[after][:n], weights[before, after]
                torch.mm(x, w, out=outputs[after][:n])
                torch.mm(y, w.t(), out=outputs[before][:n])
                torch.mm(x.t(), y, out=grads[before, after])

    return run, 6.0 * sum(row_lengths) * sum(a * b for a, b in shapes)
