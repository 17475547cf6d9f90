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

from data_pipeline.schema import ClipSample, Stream
from finetune.clips.labelled import LabelledClip, Modality
from finetune.clips.prompt import Prompt
from pretrain.data.example import Example, Limits, make_example
from pretrain.model.batch import tick

Read = Callable[[LabelledClip, tuple[Modality, ...]], Example]


class ClipReader:
    """Cuts a clip to the limits and tokenizes it, with or without a prompt.

    `text` and `frames` are how much is read in the end: the limits, or as many as the position
    tables hold; 0 leaves the modality out. `wanted` are the limits as they were given.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, limits: Limits, *, prompt: Prompt | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.wanted = limits
        # [CLS], [SEP] and the full stop that a prompt gives the utterance.
        room = limits.max_text_positions - (2 if prompt is None else prompt.num_pieces + 3)
        self.text = _least(limits.text, room)
        table = limits.max_frame_positions
        self.frames = {name: _least(limit, table) for name, limit in limits.frames.items()}
        # Everything is cut before make_example, which leaves out what breaks its limits.
        self.limits = dataclasses.replace(limits, text=None, frames=dict.fromkeys(limits.frames))

    def __call__(self, sample: ClipSample, modalities: Sequence[Modality]) -> Example:
        """The clip as `modalities` show it. With a prompt, objective wwmlm asks at its [MASK]."""
        sample = self._cut(sample.only(modalities))
        if self.prompt is not None:
            words = self.prompt.words(sample.words)
            sample = dataclasses.replace(sample, text=" ".join(words), words=words)
        example = make_example(sample, self.tokenizer, self.limits)
        if self.prompt is None:
            return example
        # The answer is the label's word, which the classifier knows; this marks where it is asked.
        at_M = np.array([self.prompt.mask_position(example.ids_T)])
        return dataclasses.replace(
            example, objective="wwmlm", target_at_M=at_M, target_values=example.ids_T[at_M]
        )

    def num_pieces(self, sample: ClipSample) -> int:
        """Word pieces of the whole text, the prompt's among them, without [CLS] and [SEP]."""
        words = sample.words if self.prompt is None else self.prompt.words(sample.words)
        return len(self._word_of_piece(words))

    def most(self, modality: Modality) -> int:
        """Pieces, or frames, of a modality that are read of the longest clip."""
        return self.text if modality == "text" else self.frames.get(modality, 0)

    def num_read(self, sample: ClipSample, modality: Modality) -> int:
        """Pieces of the utterance without the prompt, or frames of a stream, that are read."""
        if not sample.has(modality):
            return 0
        if modality == "text":
            return len(self._word_of_piece(self._cut_words(sample.words)))
        return len(self._cut_frames(sample, modality))

    def _cut(self, sample: ClipSample) -> ClipSample:
        words = self._cut_words(sample.words) if sample.words else []
        streams = {name: self._cut_frames(sample, name) for name in self.frames if sample.has(name)}
        return dataclasses.replace(
            sample,
            words=words,
            text=" ".join(words) or None,
            streams={name: stream for name, stream in streams.items() if len(stream)},
        )

    def _cut_frames(self, sample: ClipSample, name: str) -> Stream:
        """The leading frames, within the limit and, by time, within the position table."""
        stream = sample.streams[name][: self.frames[name]]
        if self.limits.rates_hz is None:
            return stream
        hz, table = self.limits.rates_hz[name], self.limits.max_frame_positions
        within_F = [tick(seconds, hz) < table for seconds in stream.seconds_N.tolist()]
        return stream[np.array(within_F, dtype=bool)]

    def _cut_words(self, words: list[str]) -> list[str]:
        """The leading words that fit into the pieces allowed."""
        word_of_piece = self._word_of_piece(words)
        if len(word_of_piece) <= self.text:
            return words
        return words[: word_of_piece[self.text]]

    def _word_of_piece(self, words: list[str]) -> list[int]:
        return self.tokenizer(
            words, is_split_into_words=True, add_special_tokens=False, verbose=False
        ).word_ids()


def read_once(reader: ClipReader) -> Read:
    """`reader`, which reads each clip once per modality case, however many runs ask for it."""
    return functools.cache(lambda clip, case: reader(clip.sample, case))


def modality_cases(modalities: Sequence[Modality], cases: str) -> list[tuple[Modality, ...]]:
    """All of them first; with "seven" every other non-empty subset after it."""
    full = tuple(modalities)
    if cases == "full":
        return [full]
    return [c for size in range(len(full), 0, -1) for c in combinations(full, size)]


def _least(limit: int | None, room: int) -> int:
    return room if limit is None else min(limit, room)
