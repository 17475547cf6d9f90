"""Who is masked: whole words, and spans of frames (the rules of MEmoBERT, ICASSP 2022).

Masking is data preparation: numpy in, numpy out, and every draw comes from (run seed, epoch, clip
id) alone, so neither rank, nor batch, nor order changes what a clip looks like.

Shapes: T word pieces with [CLS] and [SEP], W words, F frames of one modality, C feature width,
V pieces that may replace another.
"""

import bisect
import hashlib
import itertools
import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveInt

IGNORED = -100
"""Label of a piece that is no target."""


DROP_REASONS = ("text_too_long", "no_word_pieces", "beyond_positions", "no_objective")
"""Why training leaves a clip out, beside `no_` and the modality that it lacks."""


class ClipDropped(Exception):
    """A clip that training leaves out: `reason` can be counted, `detail` is a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class MaskingSettings:
    """How much is masked, and how."""

    ratios: dict[str, Annotated[float, Field(gt=0, le=1)]] = field(
        default_factory=dict, metadata={"merges": True}
    )
    """Objective to its share: of WWMLM the chance of each whitespace word to be a target, of the
    others the share of frames in spans, before rounding down to whole spans. One that is not named
    keeps its own, the paper's."""
    force_word: bool = True
    """At least one word of a clip is always a target: 17.5 % of the words of 1 to 20 word clips.
    False, the official code's: 14.9 %, and 27 % of such clips teach nothing in their step."""
    span_length: PositiveInt = 3
    """Frames in a span."""
    dice: bool = True
    """True, the paper's: one throw per utterance masks all spans (80 %), puts other spans of the
    clip in their place (10 %) or leaves them (10 %). False: spans are always masked."""
    replacement_starts: Literal["others", "drawn"] = "others"
    """Where a replaced span's frames come from. others: any other start of the clip as it was, up
    to its last frame. drawn, the official code's: starts drawn as those of the spans are, so that
    one may replace itself and the last two frames never serve, read after earlier replacements."""


def random_generator(*key: int | str) -> np.random.Generator:
    """A generator that `key` alone decides, e.g. random_generator(seed, epoch, clip_id)."""
    parts = [int(k) if isinstance(k, int | np.integer) else str(k) for k in key]
    words = np.frombuffer(hashlib.sha256(repr(parts).encode()).digest(), dtype="<u4")
    while not words[-1]:
        words = words[:-1]
    # The seed is the number int.from_bytes(digest, "little"); numpy is 3 us faster given its words.
    return np.random.default_rng(np.random.SeedSequence(words))


def draw_objective(weights: dict[str, float], available: set[str], *key: int | str) -> str:
    """One objective of those `available`, by weight; `key` decides (clip by clip, or step by step).

    Raises:
        ClipDropped: none of positive weight is available.
    """
    names = [name for name, weight in weights.items() if name in available and weight > 0]
    if not names:
        raise ClipDropped(
            "no_objective", f"available: {sorted(available)}; weights: {weights}; nothing in common"
        )
    ends = list(itertools.accumulate(weights[name] for name in names))
    # Its own key, so that the draw of the objective and that of the mask are not one number.
    throw = random_generator("task", *key).random() * ends[-1]
    return names[bisect.bisect_right(ends, throw, hi=len(ends) - 1)]


def mask_words(
    ids_T: np.ndarray,
    word_T: np.ndarray,
    ratio: float,
    settings: MaskingSettings,
    mask_id: int,
    replacements_V: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Whole-word masking: corrupted ids [T] and labels [T] (IGNORED where nothing is asked).

    `word_T` is the index of the word a piece belongs to, -1 for special pieces. Each word is a
    target with chance `ratio`; with `settings.force_word` one at least always is (the official code
    meant that too, but its check never fires). A target word as a whole becomes [MASK]s (80 %),
    random pieces (10 %), or stays (10 %).

    Raises:
        ClipDropped: there is no word.
    """
    words_W = np.unique(word_T[word_T >= 0])
    if len(words_W) == 0:
        raise ClipDropped("no_word_pieces", "its text has no piece that could be masked")
    chosen_W = rng.random(len(words_W)) < ratio
    if settings.force_word and not chosen_W.any():
        chosen_W[rng.integers(len(words_W))] = True
    ids_T, labels_T = ids_T.copy(), np.full(len(ids_T), IGNORED, dtype=np.int64)
    for word, throw in zip(words_W[chosen_W], rng.random(chosen_W.sum()), strict=True):
        pieces = np.flatnonzero(word_T == word)
        labels_T[pieces] = ids_T[pieces]
        if throw < 0.8:
            ids_T[pieces] = mask_id
        elif throw < 0.9:
            ids_T[pieces] = rng.choice(replacements_V, size=len(pieces))
    return ids_T, labels_T


@dataclass(frozen=True, kw_only=True, eq=False)
class CorruptedFrames:
    """One modality of one clip, corrupted."""

    features_FC: np.ndarray
    """Zeros where masked; another span's features where replaced."""
    masked_F: np.ndarray
    """bool: where the model adds its mask vector."""
    target_F: np.ndarray
    """bool: where the original is asked for."""


def num_spans(num_frames: int, ratio: float, span_length: int) -> int:
    """floor(F x ratio / span): 2 for 36 faces at 0.20, 3 for 64 states at 0.15."""
    # The small term keeps 15 x 0.2 / 3 a whole 1 on every machine.
    return math.floor(num_frames * ratio / span_length + 1e-9)


def mask_spans(
    features_FC: np.ndarray, ratio: float, settings: MaskingSettings, rng: np.random.Generator
) -> CorruptedFrames:
    """Span masking of the frames [F, C] of one clip.

    `num_spans` starts are drawn without replacement from [0, F - span - 1); spans may overlap. A
    clip too short for a span has exactly one random frame masked, and so has a clip whose throw
    says to leave the spans alone, since it would ask for nothing otherwise.
    """
    num_frames, length = len(features_FC), settings.span_length
    range_of_starts = num_frames - length - 1
    count = min(num_spans(num_frames, ratio, length), max(range_of_starts, 0))
    throw = rng.random() if settings.dice else 0.0
    features_FC = features_FC.copy()
    masked_F, target_F = np.zeros(num_frames, dtype=bool), np.zeros(num_frames, dtype=bool)
    if count == 0 or throw >= 0.9:
        target_F[rng.integers(num_frames)] = True
    else:
        starts = rng.choice(range_of_starts, size=count, replace=False)
        for start in starts:
            target_F[start : start + length] = True
        if throw >= 0.8:
            replace = {"others": _replace_by_others, "drawn": _replace_by_drawn}
            replace[settings.replacement_starts](features_FC, starts, length, rng)
            return CorruptedFrames(features_FC=features_FC, masked_F=masked_F, target_F=target_F)
    masked_F |= target_F
    features_FC[masked_F] = 0
    return CorruptedFrames(features_FC=features_FC, masked_F=masked_F, target_F=target_F)


def _replace_by_others(
    features_FC: np.ndarray, starts: np.ndarray, length: int, rng: np.random.Generator
) -> None:
    """Put another span of the clip, as it was, in the place of each."""
    original_FC = features_FC.copy()
    num_starts = len(features_FC) - length + 1
    for start in starts:
        other = rng.integers(num_starts - 1)
        other += other >= start  # every start but this one
        features_FC[start : start + length] = original_FC[other : other + length]


def _replace_by_drawn(
    features_FC: np.ndarray, starts: np.ndarray, length: int, rng: np.random.Generator
) -> None:
    """The official code's: sources without replacement from the range of the starts, read as the
    clip then is, one after another."""
    sources = rng.choice(len(features_FC) - length - 1, size=len(starts), replace=False)
    for start, source in zip(starts, sources, strict=True):
        features_FC[start : start + length] = features_FC[source : source + length].copy()
