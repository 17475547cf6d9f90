"""Part 1: clips a second, each way to batch on utterances of the same table."""

from collections.abc import Iterator

import torch

from pretrain.bench.clips import make_clips, real_share
from pretrain.bench.lengths import Caps, draw_lengths
from pretrain.bench.models import Size, build
from pretrain.bench.results import Row
from pretrain.bench.timing import Times, by_turns
from pretrain.bench.ways import BUCKET, Way, ways, windows
from pretrain.model.batch import Batch

AGAINST = ("a", "b", "c")
WINDOWS = 8
"""Batches of c: at so many lengths, from the shortest to the longest."""


def clips_a_second(
    size: Size, caps: Caps, batch_clips: int, num_batches: int, row_tokens: int, repeats: int
) -> Iterator[Row]:
    """Rows of every way, and packed against a, b and c.

    All ways but c are given the same clips, drawn at random; c gets windows of a sorted bucket.
    Since those are others, clips a second are real positions a second over the table's mean length.
    """
    device = torch.device("cpu")
    model = build(size)
    table_U3 = draw_lengths(caps, BUCKET, seed=1)
    count = batch_clips * num_batches
    clips = {
        False: make_clips(draw_lengths(caps, count, seed=2), seed=3),
        True: make_clips(table_U3[windows(table_U3, batch_clips, WINDOWS)], seed=3),
    }
    everything = ways(batch_clips, row_tokens)
    batches = {way.name: way.batches(clips[way.by_length]) for way in everything}

    def run(way: Way):
        def step() -> None:
            model.zero_grad(set_to_none=True)
            way.step(model, batches[way.name])

        return step

    times = by_turns({way.name: run(way) for way in everything}, repeats, device)
    mean = table_U3.sum(1).mean()
    about = {"part": "clips a second", "setting": f"{size.name}, {caps.name}"}
    rates = {}
    for way in everything:
        made = batches[way.name]
        tokens = sum(batch.num_tokens for batch in made)
        rates[way.name] = _rates(times[way.name], tokens / mean)
        wall = rates[way.name]["wall"]
        yield Row.of(**about, measure=f"{way.name}: clips/s", values=wall)
        if isinstance(made[0], Batch):
            share = real_share(made)
            yield Row.of(**about, measure=f"{way.name}: real share of positions", values=[share])
    for name in AGAINST:
        for clock in ("wall", "cpu"):
            ratios = [
                mine / other
                for mine, other in zip(rates["packed"][clock], rates[name][clock], strict=True)
            ]
            yield Row.of(**about, measure=f"packed / {name}, {clock} time", values=ratios)


def _rates(times: Times, clips: float) -> dict[str, list[float]]:
    return {"wall": [clips / s for s in times.wall], "cpu": [clips / s for s in times.cpu]}
