"""Part 3: clips and megabytes a second that the host reads, masks and packs, by part.

The same clips, read again and again from a memory that holds them: a disk is not measured. A plain
reading of the tars by Python's tarfile is what the loader is held against.

    tar       every member's bytes
    samples   arrays, each checked against its manifest and passport
    lanes     word pieces, limits, masks: what a worker does (pretrain.data.lanes)
    steps     and joined into rows: what one process does for training
    steps, W  the same, its lanes read by W workers
"""

import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from transformers import AutoTokenizer

from data_pipeline.files.weights import resolve_weights
from pretrain.bench.results import Row
from pretrain.bench.timing import Times, by_turns
from pretrain.data.clip_index import ClipIndex, build_index
from pretrain.data.example import Limits
from pretrain.data.loader import Loader
from pretrain.data.manifests import read_manifests
from pretrain.data.masking import MaskingSettings
from pretrain.data.packing import Rows
from pretrain.objectives import OBJECTIVES

LANES, STEPS = 4, 3
ROW_TOKENS = 8192


def host_rates(
    shards: Path, text_checkpoint: str, batch_clips: int, workers: tuple[int, ...], repeats: int
) -> Iterator[Row]:
    """Rates in wall time, and of one core in CPU time, which workers have elsewhere."""
    index = build_index(read_manifests([str(shards)]).shards[str(shards)])
    tokenizer = AutoTokenizer.from_pretrained(resolve_weights(text_checkpoint))
    megabytes = sum(index.tar(n).stat().st_size for n in range(len(index))) / 1e6 / index.num_clips

    def loader(count: int) -> Loader:
        return Loader(
            index,
            tokenizer=tokenizer,
            limits=Limits(),
            masking=MaskingSettings(),
            batch_clips=batch_clips,
            micro_batch_clips=batch_clips,
            num_lanes=LANES,
            weights={name: objective.weight for name, objective in OBJECTIVES.items()},
            mixing="step",
            seed=1,
            rows=Rows(tokens=ROW_TOKENS, clips=batch_clips),
            workers=count,
        )

    with ExitStack() as open_ones:
        loaders = {
            f"steps, {count}" if count else "steps": open_ones.enter_context(loader(count))
            for count in (0, *workers)
        }
        (reader,) = loader(0).readers
        work: dict[str, Callable[[], object]] = {
            "tar": lambda: [_read_tar(index, n) for n in range(len(index))],
            "samples": lambda: [_read_samples(index, n) for n in range(len(index))],
            "lanes": lambda: [reader.read_step() for _ in range(STEPS)],
        }
        work |= {name: _steps_of(one) for name, one in loaders.items()}
        clips = {name: STEPS * batch_clips for name in work}
        clips |= dict.fromkeys(("tar", "samples"), index.num_clips)
        times = by_turns(work, repeats, torch.device("cpu"))
    for name in work:
        yield from _rows(name, times[name], clips[name], megabytes)
    plain = times["tar"]
    for name in work:
        shares = [
            (clips[name] / mine) / (clips["tar"] / theirs)
            for mine, theirs in zip(times[name].wall, plain.wall, strict=True)
        ]
        yield Row.of(part="host", setting=name, measure="rate of the plain tar's", values=shares)


def _steps_of(loader: Loader) -> Callable[[], object]:
    return lambda: [loader.next_step() for _ in range(STEPS)]


def _rows(name: str, times: Times, clips: int, megabytes: float) -> Iterator[Row]:
    about = {"part": "host", "setting": name}
    yield Row.of(**about, measure="clips/s", values=[clips / s for s in times.wall])
    yield Row.of(**about, measure="MB/s", values=[clips * megabytes / s for s in times.wall])
    yield Row.of(**about, measure="clips/s of CPU time", values=[clips / s for s in times.cpu])


def _read_tar(index: ClipIndex, shard: int) -> int:
    with tarfile.open(index.tar(shard), mode="r:") as tar:
        return sum(len(tar.extractfile(member).read()) for member in tar)


def _read_samples(index: ClipIndex, shard: int) -> int:
    return sum(len(sample.streams) for sample in index.samples(shard))
