"""Each objective's loss on the held-out clips.

Every held-out clip is asked every objective that its modalities allow, under masks that depend on
the seed and the clip alone, so that two validations, of one run or of two, answer the same
questions. Which clips are held out: pretrain.data.held_out.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from data_pipeline.schema import ClipSample
from pretrain.data.clip_index import ClipIndex
from pretrain.data.collate import Example, collate
from pretrain.data.example import Limits, available_objectives, make_example
from pretrain.data.masking import ClipDropped, MaskingSettings, random_generator
from pretrain.data.packing import Rows
from pretrain.model.batch import AnyBatch
from pretrain.model.memobert import MEmoBert
from pretrain.objectives import OBJECTIVES
from pretrain.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Each objective's mean loss on the held-out clips."""

    clips: ClipIndex
    """The held-out ones."""
    tokenizer: PreTrainedTokenizerBase
    limits: Limits
    masking: MaskingSettings
    """Its dice is not thrown: a loss under it would mix masked frames with frames left alone."""
    seed: int
    objectives: tuple[str, ...]
    micro_batch_clips: int
    rows: Rows | None = None
    """As the loader's."""

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

    def _batches(self, rank: int, world_size: int) -> Iterator[AnyBatch]:
        targets = {OBJECTIVES[name].target for name in self.objectives}
        streams = {*self.limits.frames, *targets} - {"text"}
        examples: list[Example] = []
        number = 0
        for shard in range(len(self.clips)):
            for sample in self.clips.samples(shard, streams):
                number += 1
                if number % world_size == rank:
                    examples += self._examples(sample)
                while len(examples) >= self.micro_batch_clips:
                    yield from self._cut(examples[: self.micro_batch_clips])
                    del examples[: self.micro_batch_clips]
        if examples:
            yield from self._cut(examples)

    def _cut(self, examples: list[Example]) -> list[AnyBatch]:
        if self.rows is not None:
            return self.rows(examples)
        return [collate(examples, self.tokenizer.pad_token_id)]

    def _examples(self, sample: ClipSample) -> Iterator[Example]:
        masking = dataclasses.replace(self.masking, dice=False)
        possible = available_objectives(sample, self.limits)
        for name in self.objectives:
            if name in possible:
                rng = random_generator(self.seed, "validation", name, sample.id)
                # Dropped here is dropped in training: the same limits, told there by reason.
                with contextlib.suppress(ClipDropped):
                    yield make_example(sample, self.tokenizer, self.limits, name, masking, rng)
