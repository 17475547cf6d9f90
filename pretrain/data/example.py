"""From a ClipSample to what the model reads: words to pieces, limits, masks.

    sample --make_example--> Example (one clip, numpy) --collate--> Batch (padded, torch)
                                                       --join--> JoinedBatch (pretrain.data.packing)

Shapes: T word pieces with [CLS] and [SEP], F frames of a stream, C their width, M target positions
of one clip.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from transformers import PreTrainedTokenizerBase

from data_pipeline.schema import ClipSample, Stream
from pretrain.data.collate import Example, ExampleFrames
from pretrain.data.collate import collate as collate
from pretrain.data.masking import IGNORED, ClipDropped, MaskingSettings, mask_spans, mask_words
from pretrain.data.words import word_pieces
from pretrain.model.batch import tick
from pretrain.objectives import OBJECTIVES, Objective


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much of a clip is read. None reads the whole utterance; 0 leaves the modality out."""

    text: int | None = 30
    """Word pieces without [CLS] and [SEP]; a longer utterance is dropped, never cut."""
    frames: dict[str, int | None] = field(default_factory=lambda: {"face": 36, "speech": 64})
    """Stream to the number of its first frames that are read; others are not read at all."""
    max_text_positions: int = 512
    """Rows of the model's position table for text; a clip that needs more is dropped."""
    max_frame_positions: int = 512
    """Rows of the model's position tables for frames; a clip that needs more is dropped."""
    rates_hz: dict[str, float] | None = None
    """Of a model that places frames by their time: stream to rows a second. None is by index."""

    def reads(self, modality: str) -> bool:
        """Whether anything of `text` or of a stream is read."""
        return (self.text if modality == "text" else self.frames.get(modality, 0)) != 0

    def longest(self) -> int:
        """Positions of the longest clip there can be."""
        room = self.max_text_positions
        pieces = room if self.text is None else min(self.text + 2, room)
        tables = [self.max_frame_positions if n is None else n for n in self.frames.values()]
        return pieces + sum(tables)

    def last_position(self, stream: str, seconds_F: np.ndarray) -> int:
        """Of these frames, in the stream's position table."""
        if self.rates_hz is None:
            return len(seconds_F) - 1
        return tick(float(seconds_F[-1]), self.rates_hz[stream])


WHOLE_TEXT = Limits(text=None)
"""Faces and speech as the paper's pretraining reads them, and text as long as the model's table."""


def available_objectives(sample: ClipSample, limits: Limits | None = None) -> set[str]:
    """Those whose stream and target the clip has, and the limits (None: no limits) let through."""
    return {
        name
        for name, objective in OBJECTIVES.items()
        if sample.has(objective.stream)
        and sample.has(objective.target)
        and (limits is None or limits.reads(objective.stream))
    }


def make_example(
    sample: ClipSample,
    tokenizer: PreTrainedTokenizerBase,
    limits: Limits = WHOLE_TEXT,
    objective: str | None = None,
    masking: MaskingSettings | None = None,
    rng: np.random.Generator | None = None,
) -> Example:
    """Cut a clip to the limits and corrupt the one stream that `objective` is about.

    `tokenizer` is a fast one (words are traced to their pieces). Objective None corrupts nothing,
    and asks for neither `masking` (None: the paper's) nor `rng` (None: the generator of seed 0).

    Raises:
        ClipDropped: the text is too long, a frame lies beyond the position table, or the clip
            lacks what the objective is about; `reason` says which.
        ValueError: no such objective.
    """
    masking = MaskingSettings() if masking is None else masking
    rng = np.random.default_rng(0) if rng is None else rng
    asked = _asked(sample, limits, objective)
    ids_T, word_T = _pieces(sample, tokenizer, limits)
    at_M = values = words_M = None
    if asked is not None and asked.stream == "text":
        ratio = masking.ratios.get(asked.name, asked.ratio)
        mask, ordinary = tokenizer.mask_token_id, ordinary_pieces(tokenizer)
        ids_T, labels_T = mask_words(ids_T, word_T, ratio, masking, mask, ordinary, rng)
        at_M = np.flatnonzero(labels_T != IGNORED)
        values, words_M = labels_T[at_M], word_T[at_M]
    frames = {}
    for name in limits.frames:
        if name not in sample.streams or not limits.reads(name):
            continue
        stream = sample.streams[name][: limits.frames[name]]
        _check_reach(sample.id, name, stream, limits)
        frames[name] = _untouched(stream)
        if asked is not None and asked.stream == name:
            ratio = masking.ratios.get(asked.name, asked.ratio)
            corrupted = mask_spans(stream.values_ND, ratio, masking, rng)
            frames[name] = ExampleFrames(
                values_FC=corrupted.features_FC,
                seconds_F=stream.seconds_N,
                masked_F=corrupted.masked_F,
            )
            at_M = np.flatnonzero(corrupted.target_F)
            values = sample.streams[asked.target].values_ND[at_M]
    return Example(
        id=sample.id,
        objective=objective,
        ids_T=ids_T,
        frames=frames,
        target_at_M=at_M,
        target_values=values,
        target_word_M=words_M,
    )


def given(example: Example, modalities: Collection[str]) -> Example:
    """`example` with these of `text` and the streams alone, as of a clip that has no others; what
    is asked, and what is masked in these, stays."""
    return replace(
        example,
        ids_T=example.ids_T if "text" in modalities else example.ids_T[:1],  # [CLS] alone
        frames={name: rows for name, rows in example.frames.items() if name in modalities},
    )


@lru_cache(maxsize=8)
def ordinary_pieces(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Ids that may stand in for another piece: all but the special and the [unused] ones."""
    special = set(tokenizer.all_special_ids)
    return np.array(
        sorted(
            i
            for piece, i in tokenizer.get_vocab().items()
            if i not in special and not piece.startswith("[unused")
        ),
        dtype=np.int64,
    )


def _asked(sample: ClipSample, limits: Limits, objective: str | None) -> Objective | None:
    """The objective, which the clip can serve."""
    if objective is None:
        return None
    if objective not in OBJECTIVES:
        raise ValueError(f"no objective {objective!r}; there are {', '.join(OBJECTIVES)}")
    asked = OBJECTIVES[objective]
    for modality in (asked.stream, asked.target):
        if not sample.has(modality) or not limits.reads(asked.stream):
            raise ClipDropped(
                f"no_{modality}", f"{sample.id} has no {modality}, {objective} needs it"
            )
    return asked


def _pieces(
    sample: ClipSample, tokenizer: PreTrainedTokenizerBase, limits: Limits
) -> tuple[np.ndarray, np.ndarray]:
    """Ids with [CLS] and [SEP], and the word of each piece (-1: special)."""
    if not sample.words or not limits.reads("text"):
        return np.array([tokenizer.cls_token_id], dtype=np.int64), np.array([-1])
    ids_T, word_T = word_pieces(tokenizer, sample.words)
    num_pieces = len(ids_T) - 2
    room = limits.max_text_positions - 2
    if limits.text is not None:
        room = min(room, limits.text)
    if num_pieces > room:
        raise ClipDropped(
            "text_too_long", f"{sample.id} has {num_pieces} word pieces, the limit is {room}"
        )
    return ids_T, word_T


def _check_reach(clip: str, name: str, stream: Stream, limits: Limits) -> None:
    last = limits.last_position(name, stream.seconds_N)
    if last >= limits.max_frame_positions:
        raise ClipDropped(
            "beyond_positions",
            f"{clip} has a {name} frame at position {last} ({stream.seconds_N[-1]:.1f} s), the "
            f"table ends at {limits.max_frame_positions - 1}; set data.limits.{name}, or raise "
            "model.max_frame_positions",
        )


def _untouched(stream: Stream) -> ExampleFrames:
    nothing_F = np.zeros(len(stream), dtype=bool)
    return ExampleFrames(values_FC=stream.values_ND, seconds_F=stream.seconds_N, masked_F=nothing_F)
