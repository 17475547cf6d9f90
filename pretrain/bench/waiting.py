"""Part 5: what a step waits for its clips: fetched from a loader, or there already."""

from collections.abc import Iterator

import torch

from pretrain.bench.host import clips_of, loader_of
from pretrain.bench.models import Size, build
from pretrain.bench.results import Row
from pretrain.bench.timing import by_turns
from pretrain.bench.ways import Way
from pretrain.data.packing import Rows
from pretrain.model.batch import AnyBatch

STEPS = 4


def waiting(size: Size, batch_clips: int, repeats: int) -> Iterator[Row]:
    """The same steps on a CPU, of clips that are made; a thread prepares two steps ahead, as in a
    run, and starts anew with each repeat."""
    rows = Rows(tokens=8192, clips=batch_clips)
    model, way = build(size), Way(name="packed", batches=rows)

    def step(batches: list[AnyBatch]) -> None:
        model.zero_grad(set_to_none=True)
        way.step(model, batches)

    with clips_of(None, "") as (index, tokenizer):

        def fetched() -> None:
            with loader_of(index, tokenizer, rows, batch_clips, prefetch_steps=2) as loader:
                for _ in range(STEPS):
                    step(loader.next_step().batches)

        with loader_of(index, tokenizer, rows, batch_clips) as loader:
            there = [loader.next_step().batches for _ in range(STEPS)]
        work = {"fetched": fetched, "there": lambda: [step(batches) for batches in there]}
        times = by_turns(work, repeats, torch.device("cpu"))
    about = {"part": "waiting for clips", "setting": f"{size.name}, 30/36/64"}
    for name, found in times.items():
        seconds = [s / STEPS for s in found.wall]
        yield Row.of(**about, measure=f"s a step, its clips {name}", values=seconds)
    for clock in ("wall", "cpu"):
        pairs = zip(getattr(times["fetched"], clock), getattr(times["there"], clock), strict=True)
        ratios = [mine / bare for mine, bare in pairs]
        yield Row.of(**about, measure=f"fetched / there, {clock} time", values=ratios)
