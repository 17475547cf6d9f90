"""What the model answers about the held-out clips: each objective's loss, and masked words.

Every held-out clip is asked every objective that its modalities allow, under masks that depend on
the seed, the clip and the objective alone, so that two validations, of one run or of two, answer
the same questions. Which clips are held out: pretrain.data.held_out.

The same questions are asked again with modalities left out, in every subset that has the one that
the objective is about: masked words by the text alone, with the face, with the speech, with both. A
clip that lacks a modality is asked in these subsets too, so that all have the same questions.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from data_pipeline.schema import ClipSample
from pretrain.data.clip_index import ClipIndex
from pretrain.data.collate import Example, collate
from pretrain.data.example import Limits, available_objectives, given, make_example
from pretrain.data.masking import ClipDropped, MaskingSettings, random_generator
from pretrain.data.packing import Rows, join
from pretrain.model.batch import AnyBatch
from pretrain.model.memobert import MEmoBert
from pretrain.objectives import OBJECTIVES, streams_of
from pretrain.runtime import Runtime

COUNTED = ("loss", "count", "clips", "words", "words_right", "pieces", "pieces_right")


@dataclass(frozen=True, kw_only=True)
class Answers:
    """To one objective, of a model that was given one subset of the modalities."""

    subset: str
    """`text+face`: what it was given."""
    objective: str
    loss: float
    """Mean over the targets."""
    clips: int
    """How many were asked."""
    words: int | None = None
    """Masked words, of an objective about words: those that became [MASK]. The words that masking
    replaces by others, or lets stand, are in the loss alone."""
    word_accuracy: float | None = None
    """Share of them whose pieces are all predicted right, out of the whole vocabulary."""
    piece_accuracy: float | None = None
    """Share of their pieces that are."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Asks a model about the held-out clips."""

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
    subsets: bool = False
    """Ask with modalities left out, too."""

    @property
    def everything(self) -> str:
        """The subset that leaves nothing out."""
        return "+".join(self._modalities())

    @torch.no_grad()
    def __call__(self, model: MEmoBert, runtime: Runtime) -> list[Answers]:
        """By subset and objective; what no held-out clip has targets for is missing.

        Every rank takes its share of the clips; all get the same answer.
        """
        asked = [(subset, name) for subset in self._subsets() for name in self.objectives]
        sums_A7 = torch.zeros(len(asked), len(COUNTED), dtype=torch.float64)
        was_training = model.training
        model.eval()
        for subset, examples in self._groups(runtime.rank, runtime.world_size):
            batch = self._batch(examples).to(runtime.device)
            with runtime.autocast():
                predictions = model(batch)
            for name, predicted in predictions.items():
                mine = [example for example in examples if example.objective == name]
                sums_A7[asked.index((subset, name))] += self._count(name, predicted, batch, mine)
        model.train(was_training)
        runtime.sum_over_ranks(sums_A7)
        return [
            _answers("+".join(subset), name, dict(zip(COUNTED, sums_7, strict=True)))
            for (subset, name), sums_7 in zip(asked, sums_A7.tolist(), strict=True)
            if sums_7[COUNTED.index("count")]
        ]

    def _modalities(self) -> tuple[str, ...]:
        return tuple(m for m in ("text", *self.limits.frames) if self.limits.reads(m))

    def _subsets(self) -> list[tuple[str, ...]]:
        """Everything first."""
        all_of_them = self._modalities()
        sizes = range(len(all_of_them), 0, -1) if self.subsets else [len(all_of_them)]
        return [found for size in sizes for found in itertools.combinations(all_of_them, size)]

    def _groups(
        self, rank: int, world_size: int
    ) -> Iterator[tuple[tuple[str, ...], list[Example]]]:
        """The examples of each batch, all given the same subset."""
        streams = streams_of(self.limits.frames, self.objectives)
        waiting: dict[tuple[str, ...], list[Example]] = {subset: [] for subset in self._subsets()}
        number = 0
        for shard in range(len(self.clips)):
            for sample in self.clips.samples(shard, streams):
                number += 1
                for example in self._examples(sample) if number % world_size == rank else ():
                    stream = OBJECTIVES[example.objective].stream
                    for subset in waiting:
                        if stream in subset:
                            waiting[subset].append(given(example, subset))
                for subset, examples in waiting.items():
                    while len(examples) >= self.micro_batch_clips:
                        for group in self._cut(examples[: self.micro_batch_clips]):
                            yield subset, group
                        del examples[: self.micro_batch_clips]
        for subset, examples in waiting.items():
            for group in self._cut(examples) if examples else ():
                yield subset, group

    def _cut(self, examples: list[Example]) -> list[list[Example]]:
        return [examples] if self.rows is None else self.rows.cut(examples)

    def _batch(self, examples: list[Example]) -> AnyBatch:
        if self.rows is None:
            return collate(examples, self.tokenizer.pad_token_id)
        return join(examples)

    def _examples(self, sample: ClipSample) -> Iterator[Example]:
        masking = dataclasses.replace(self.masking, dice=False)
        possible = available_objectives(sample, self.limits)
        for name in self.objectives:
            if name in possible:
                rng = random_generator(self.seed, "validation", name, sample.id)
                # Dropped here is dropped in training: the same limits, told there by reason.
                with contextlib.suppress(ClipDropped):
                    yield make_example(sample, self.tokenizer, self.limits, name, masking, rng)

    def _count(
        self, name: str, predicted: torch.Tensor, batch: AnyBatch, examples: Sequence[Example]
    ) -> torch.Tensor:
        """COUNTED [7], of the examples of an objective, in the order of its targets."""
        values = batch.targets[name].values
        loss_sum, count = OBJECTIVES[name].loss(predicted, values)
        words = [0, 0, 0, 0]
        if OBJECTIVES[name].head is None:  # the word head
            right_M = (predicted.argmax(-1) == values).cpu().numpy()
            words = count_words(right_M, examples, self.tokenizer.mask_token_id)
        return torch.tensor([loss_sum.item(), count, len(examples), *words], dtype=torch.float64)


def count_words(right_M: np.ndarray, examples: Sequence[Example], mask_id: int) -> list[int]:
    """Masked words, those of them that are right in every piece, masked pieces, those right.

    right_M: of the pieces that `examples` ask for, one after another.
    """
    counts = np.zeros(4, dtype=np.int64)
    parts = np.split(right_M, np.cumsum([len(e.target_at_M) for e in examples])[:-1])
    for example, right_m in zip(examples, parts, strict=True):
        masked_m = example.ids_T[example.target_at_M] == mask_id
        word_m, right_m = example.target_word_M[masked_m], right_m[masked_m]
        wrong = np.unique(word_m[~right_m])
        words = len(np.unique(word_m))
        counts += words, words - len(wrong), len(word_m), right_m.sum()
    return counts.tolist()


def _answers(subset: str, objective: str, sums: Mapping[str, float]) -> Answers:
    about_words = {}
    if sums["words"]:
        about_words = {
            "words": int(sums["words"]),
            "word_accuracy": sums["words_right"] / sums["words"],
            "piece_accuracy": sums["pieces_right"] / sums["pieces"],
        }
    return Answers(
        subset=subset,
        objective=objective,
        loss=sums["loss"] / sums["count"],
        clips=int(sums["clips"]),
        **about_words,
    )
