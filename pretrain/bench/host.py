"""Part 3: clips and megabytes a second that the host reads, masks and packs, by part.

The same clips, read again and again from a memory that holds them: a disk is not measured. A plain
reading of the tars by Python's tarfile is what the loader is held against. Clips are those of a
folder, or made: whole utterances of MELD's lengths and of the paper's widths, cut at its limits.

    tar       every member's bytes
    samples   arrays, each checked against its manifest and passport
    lanes     word pieces, limits, masks: what a worker does (pretrain.data.lanes)
    steps     and joined into rows: what one process does for training
    steps, W  the same, its lanes read by W workers
"""

import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data_pipeline.files.weights import resolve_weights
from pretrain.bench.results import Row
from pretrain.bench.shards import make_shards, word_tokenizer
from pretrain.bench.timing import Times, by_turns
from pretrain.bench.ways import ROW_TOKENS
from pretrain.data.clip_index import ClipIndex, build_index
from pretrain.data.example import Limits
from pretrain.data.loader import Loader
from pretrain.data.manifests import read_manifests
from pretrain.data.masking import MaskingSettings
from pretrain.data.packing import Rows
from pretrain.objectives import OBJECTIVES

CPU = torch.device("cpu")
LANES, STEPS = 4, 6
MADE_CLIPS = 1024


@contextmanager
def clips_of(
    shards: Path | None, text_checkpoint: str
) -> Iterator[tuple[ClipIndex, PreTrainedTokenizerBase]]:
    """Of a folder, with a BERT's tokenizer; of None, made for the while, with one of their own."""
    with tempfile.TemporaryDirectory(prefix="bench-") as made:
        if shards is None:
            make_shards(Path(made), MADE_CLIPS)
            tokenizer = word_tokenizer()
        else:
            tokenizer = AutoTokenizer.from_pretrained(resolve_weights(text_checkpoint))
        folder = str(shards or made)
        yield build_index(read_manifests([folder]).shards[folder]), tokenizer


def loader_of(
    index: ClipIndex,
    tokenizer: PreTrainedTokenizerBase,
    rows: Rows,
    batch_clips: int,
    **how: int,
) -> Loader:
    """`how`: workers, prefetch_steps. Of the paper's limits and masks."""
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
        rows=rows,
        **how,
    )


def host_rates(
    shards: Path | None,
    text_checkpoint: str,
    batch_clips: int,
    workers: tuple[int, ...],
    repeats: int,
) -> Iterator[Row]:
    """Rates in wall time, and of one core in CPU time, which workers have elsewhere."""
    part = "host" if shards is None else f"host, {shards.name}"
    with clips_of(shards, text_checkpoint) as (index, tokenizer):
        sizes = [index.tar(n).stat().st_size for n in range(len(index))]
        megabytes = sum(sizes) / 1e6 / index.num_clips
        rows = Rows(tokens=ROW_TOKENS, clips=batch_clips)
        alone = loader_of(index, tokenizer, rows, batch_clips)
        (reader,) = loader_of(index, tokenizer, rows, batch_clips).readers
        work: dict[str, Callable[[], object]] = {
            "tar": lambda: [_read_tar(index, n) for n in range(len(index))],
            "samples": lambda: [_read_samples(index, n) for n in range(len(index))],
            "lanes": lambda: [reader.read_step() for _ in range(STEPS)],
            "steps": lambda: [alone.next_step() for _ in range(STEPS)],
        }
        times = by_turns(work, repeats, CPU)
        for count in workers:
            # Each apart: between its turns it would read ahead, beside what else is timed.
            with loader_of(index, tokenizer, rows, batch_clips, workers=count) as loader:
                times |= by_turns({f"steps, {count}": _steps_of(loader)}, repeats, CPU)
    clips = dict.fromkeys(times, STEPS * batch_clips)
    clips |= dict.fromkeys(("tar", "samples"), index.num_clips)
    for name in times:
        yield from _rows(part, name, times[name], clips[name], megabytes)
    for name in times:
        for clock in ("wall", "cpu"):
            if clock == "cpu" and name.startswith("steps, "):
                continue  # most of it is the workers'
            pairs = zip(getattr(times[name], clock), getattr(times["tar"], clock), strict=True)
            shares = [clips[name] / mine * theirs / index.num_clips for mine, theirs in pairs]
            measure = f"rate of the plain tar's, {clock} time"
            yield Row.of(part=part, setting=name, measure=measure, values=shares)


def _steps_of(loader: Loader) -> Callable[[], object]:
    return lambda: [loader.next_step() for _ in range(STEPS)]


def _rows(part: str, name: str, times: Times, clips: int, megabytes: float) -> Iterator[Row]:
    about = {"part": part, "setting": name}
    yield Row.of(**about, measure="clips/s", values=[clips / s for s in times.wall])
    yield Row.of(**about, measure="MB/s", values=[clips * megabytes / s for s in times.wall])
    yield Row.of(**about, measure="clips/s of CPU time", values=[clips / s for s in times.cpu])


def _read_tar(index: ClipIndex, shard: int) -> int:
    with tarfile.open(index.tar(shard), mode="r:") as tar:
        return sum(len(tar.extractfile(member).read()) for member in tar)


def _read_samples(index: ClipIndex, shard: int) -> int:
    return sum(len(sample.streams) for sample in index.samples(shard))
