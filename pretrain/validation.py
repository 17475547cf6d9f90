"""Held-out clips: which they are, and each objective's loss on them.

The choice reads no clip: a clip id made by data_pipeline.schema.clip_id ends in its start time, and
what stands before names the video file. Clips of one file (a film, a dialogue) stay together;
files of one recording or of one speaker may be parted, which is a matter of finetuning's folds.
Every held-out clip is asked every objective that its modalities allow, under masks that depend on
the seed and the clip alone, so that two validations, of one run or of two, answer the same
questions.
"""

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from data_pipeline.schema import ClipSample
from data_pipeline.shards import read_shard
from pretrain.clip_index import ShardClips
from pretrain.example import Example, Limits, available_objectives, collate, make_example
from pretrain.masking import ClipDropped, MaskingSettings, random_generator
from pretrain.model.batch import Batch
from pretrain.model.memobert import MEmoBert
from pretrain.objectives import OBJECTIVES
from pretrain.runtime import Runtime

_START = re.compile(r"-\d{6,}$")


def choose_held_out(ids: list[str], num_clips: int) -> set[str]:
    """At most `num_clips` of `ids`, never all.

    Whole video files, in the order of a hash of their names, as long as they fit: nothing of a
    held-out film is trained on. Where no file is small enough, single clips by their hash.
    The choice is the same on every rank and in every run on these clips.
    """
    num_clips = min(num_clips, len(ids) - 1)
    if num_clips <= 0:
        return set()
    files: dict[str, list[str]] = {}
    for clip in ids:
        files.setdefault(_file(clip), []).append(clip)
    held: set[str] = set()
    for name in sorted(files, key=_hash):
        if len(held) + len(files[name]) <= num_clips:
            held.update(files[name])
    return held or set(sorted(ids, key=_hash)[:num_clips])


def describe_held_out(train: list[ShardClips], held: list[ShardClips]) -> str:
    """`40 clips of 2 video files held out`, and how many of these files are trained on."""
    clips = [clip for shard in held for clip in shard.ids]
    files = {_file(clip) for clip in clips}
    seen = files & {_file(clip) for shard in train for clip in shard.ids}
    text = f"{len(clips)} clips of {len(files)} video files held out"
    return text + (f", {len(seen)} of which are trained on too" if seen else "")


def split_shards(
    shards: list[ShardClips], held: set[str]
) -> tuple[list[ShardClips], list[ShardClips]]:
    """(training clips, held-out clips) of `shards`; a shard with none of a kind is left out."""
    return _keep(shards, lambda clip: clip not in held), _keep(shards, lambda clip: clip in held)


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Each objective's mean loss on the held-out clips."""

    shards: list[ShardClips]
    tokenizer: PreTrainedTokenizerBase
    limits: Limits
    masking: MaskingSettings
    """Its dice is not thrown: a loss under it would mix masked frames with frames left alone."""
    seed: int
    objectives: tuple[str, ...]
    micro_batch_clips: int

    @torch.no_grad()
    def __call__(self, model: MEmoBert, runtime: Runtime) -> dict[str, float]:
        """Objective to mean loss; one that no held-out clip has targets for is missing.

        Every rank takes its share of the clips; all get the same answer.
        """
        sums_K2 = torch.zeros(len(self.objectives), 2, dtype=torch.float64)
        was_training = model.training
        model.eval()
        for batch in self._batches(runtime.rank, runtime.world_size):
            batch = batch.to(runtime.device)
            with runtime.autocast():
                predictions = model(batch)
            for name, predicted in predictions.items():
                loss_sum, count = OBJECTIVES[name].loss(predicted, batch.targets[name].values)
                sums_K2[self.objectives.index(name)] += torch.tensor([loss_sum.item(), count])
        model.train(was_training)
        runtime.sum_over_ranks(sums_K2)
        return {
            name: (total / count).item()
            for name, (total, count) in zip(self.objectives, sums_K2, strict=True)
            if count > 0
        }

    def _batches(self, rank: int, world_size: int) -> Iterator[Batch]:
        targets = {OBJECTIVES[name].target for name in self.objectives}
        streams = {*self.limits.frames, *targets} - {"text"}
        examples: list[Example] = []
        number = 0
        for shard in self.shards:
            wanted = set(shard.rows.tolist())
            for row, sample in enumerate(read_shard(shard.tar, streams=streams)):
                if row not in wanted:
                    continue
                number += 1
                if number % world_size == rank:
                    examples += self._examples(sample)
                while len(examples) >= self.micro_batch_clips:
                    yield collate(examples[: self.micro_batch_clips], self.tokenizer.pad_token_id)
                    del examples[: self.micro_batch_clips]
        if examples:
            yield collate(examples, self.tokenizer.pad_token_id)

    def _examples(self, sample: ClipSample) -> Iterator[Example]:
        masking = dataclasses.replace(self.masking, dice=False)
        possible = available_objectives(sample, self.limits)
        for name in self.objectives:
            if name in possible:
                rng = random_generator(self.seed, "validation", name, sample.id)
                # Dropped here is dropped in training: the same limits, told there by reason.
                with contextlib.suppress(ClipDropped):
                    yield make_example(sample, self.tokenizer, self.limits, name, masking, rng)


def _keep(shards: list[ShardClips], wanted: Callable[[str], bool]) -> list[ShardClips]:
    kept = []
    for shard in shards:
        keep = np.array([wanted(clip) for clip in shard.ids], dtype=bool)
        if keep.any():
            ids = [clip for clip, k in zip(shard.ids, keep, strict=True) if k]
            kept.append(dataclasses.replace(shard, rows=shard.rows[keep], ids=ids))
    return kept


def _file(clip: str) -> str:
    return _START.sub("", clip)


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
