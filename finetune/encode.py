"""From a labelled clip to the Example that a classifier reads: nothing is masked but the prompt.

No clip is ever left out here, since a test clip that is not judged would flatter the result: what
is longer than the model has positions for is cut, and the prompt never is.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from transformers import PreTrainedTokenizerBase

from data_pipeline.schema import ClipSample
from finetune.datasets import LabelledClip, Modality, keep_modalities
from finetune.prompt import Prompt
from pretrain.example import Example, Limits, make_example
from pretrain.masking import IGNORED, MaskingSettings
from pretrain.model.embeddings import FACE_HZ

Reader = Callable[[LabelledClip, tuple[Modality, ...]], Example]


class ClipEncoder:
    """Cuts a clip to the limits and tokenizes it, with or without a prompt.

    max_text_pieces, max_faces, max_speech: of an utterance, frames, states; None is as many as the
    position tables hold. positions: the model's, "index" or "seconds".
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prompt: Prompt | None,
        max_text_pieces: int | None,
        max_faces: int | None,
        max_speech: int | None,
        max_text_positions: int,
        max_frame_positions: int,
        positions: str,
    ) -> None:
        self.tokenizer = tokenizer
        self.prompt = prompt
        # [CLS], [SEP] and the full stop that a prompt gives the utterance.
        room = max_text_positions - (2 if prompt is None else prompt.num_pieces + 3)
        self.max_pieces = room if max_text_pieces is None else min(max_text_pieces, room)
        table = max_frame_positions
        self.max_faces = table if max_faces is None else min(max_faces, table)
        self.max_speech = table if max_speech is None else min(max_speech, table)
        # Everything is cut before make_example, which leaves out what breaks its limits.
        self.limits = Limits(
            max_pieces=None,
            max_faces=None,
            max_speech=None,
            max_text_positions=max_text_positions,
            max_frame_positions=max_frame_positions,
            positions=positions,
        )
        self._rng = np.random.default_rng(0)  # task None draws nothing from it

    def __call__(self, sample: ClipSample, modalities: Sequence[Modality]) -> Example:
        """The clip as `modalities` show it. With a prompt, task wwmlm asks at its [MASK]."""
        sample = self._cut(keep_modalities(sample, modalities))
        if self.prompt is not None:
            words = self.prompt.words(sample.words)
            sample = dataclasses.replace(sample, text=" ".join(words), words=words)
        example = make_example(
            sample, self.tokenizer, self.limits, None, MaskingSettings(), self._rng
        )
        if self.prompt is None:
            return example
        # The answer is the label's word, which the classifier knows; a label here marks where.
        labels_T = np.full_like(example.ids_T, IGNORED)
        at = self.prompt.mask_position(example.ids_T)
        labels_T[at] = example.ids_T[at]
        return dataclasses.replace(example, task="wwmlm", wwmlm_labels_T=labels_T)

    def num_pieces(self, sample: ClipSample) -> int:
        """Word pieces of the whole text, the prompt's among them, without [CLS] and [SEP]."""
        words = sample.words if self.prompt is None else self.prompt.words(sample.words)
        return len(self._word_of_piece(words))

    def num_pieces_read(self, sample: ClipSample) -> int:
        """Word pieces of the utterance that are read, without the prompt."""
        return len(self._word_of_piece(self._cut_words(sample.words))) if sample.words else 0

    def _cut(self, sample: ClipSample) -> ClipSample:
        changes: dict[str, object] = {}
        if sample.words:
            words = self._cut_words(sample.words)
            changes |= {"words": words, "text": " ".join(words) or None}
        if sample.face is not None:
            kept_F = np.arange(len(sample.face)) < self.max_faces
            if self.limits.positions == "seconds":
                ticks_F = np.floor(sample.face_seconds * FACE_HZ + 0.501)
                kept_F &= ticks_F < self.limits.max_frame_positions
            for name in ("face", "face_probs", "face_seconds"):
                changes[name] = getattr(sample, name)[kept_F] if kept_F.any() else None
        if sample.speech is not None:
            changes["speech"] = sample.speech[: self.max_speech] if self.max_speech else None
        return dataclasses.replace(sample, **changes)

    def _cut_words(self, words: list[str]) -> list[str]:
        """The leading words that fit into the pieces allowed."""
        word_of_piece = self._word_of_piece(words)
        if len(word_of_piece) <= self.max_pieces:
            return words
        return words[: word_of_piece[self.max_pieces]]

    def _word_of_piece(self, words: list[str]) -> list[int]:
        return self.tokenizer(
            words, is_split_into_words=True, add_special_tokens=False, verbose=False
        ).word_ids()


def read_once(encoder: ClipEncoder) -> Reader:
    """`encoder`, which encodes each clip once per modality case, however many runs ask for it."""
    return functools.cache(lambda clip, case: encoder(clip.sample, case))


def modality_cases(modalities: Sequence[Modality], cases: str) -> list[tuple[Modality, ...]]:
    """All of them first; with "seven" every other non-empty subset after it."""
    full = tuple(modalities)
    if cases == "full":
        return [full]
    return [c for size in range(len(full), 0, -1) for c in combinations(full, size)]
