"""Clips of given lengths and random features, each asked one objective, as pretraining asks them.

Shapes: as in pretrain.data.collate.
"""

from collections.abc import Sequence

import numpy as np

from pretrain.data.collate import Example, ExampleFrames
from pretrain.objectives import OBJECTIVES

VOCABULARY = 30_522
"""bert-base-uncased's."""
WIDTHS = {"face": 342, "speech": 768}
TARGET_WIDTHS = {"span_mvfr": 342, "span_mvfc_kl": 8, "span_mafr": 768}
RATES_HZ = {"face": 10.0, "speech": 50 / 3}
SPAN = 3


def make_clips(lengths_N3: np.ndarray, seed: int) -> list[Example]:
    """One of each row of word pieces, face frames and speech states."""
    rng = np.random.default_rng(seed)
    names = list(OBJECTIVES)
    weights = np.array([OBJECTIVES[name].weight for name in names])
    drawn_N = rng.choice(len(names), size=len(lengths_N3), p=weights / weights.sum())
    return [
        _clip(f"clip{n}", names[drawn], *map(int, lengths), rng)
        for n, (drawn, lengths) in enumerate(zip(drawn_N, lengths_N3, strict=True))
    ]


def real_share(batches: Sequence) -> float:
    """Of the positions that batches have, those that are a clip's."""
    return sum(b.num_tokens for b in batches) / sum(b.num_positions for b in batches)


def _clip(
    name: str, objective: str, pieces: int, faces: int, states: int, rng: np.random.Generator
) -> Example:
    asked = OBJECTIVES[objective]
    ids_T = rng.integers(1000, VOCABULARY, size=pieces)
    sizes = {"face": faces, "speech": states}
    size = pieces - 2 if asked.stream == "text" else sizes[asked.stream]
    at_M = _targets(size, asked.ratio, 1 if asked.stream == "text" else SPAN, rng)
    frames = {}
    for stream, length in sizes.items():
        masked_F = np.zeros(length, dtype=bool)
        if stream == asked.stream:
            masked_F[at_M] = True
        values_FC = rng.standard_normal((length, WIDTHS[stream]), dtype=np.float32)
        values_FC[masked_F] = 0
        seconds_F = (np.arange(length) / RATES_HZ[stream]).astype(np.float32)
        frames[stream] = ExampleFrames(
            values_FC=values_FC.astype(np.float16), seconds_F=seconds_F, masked_F=masked_F
        )
    if asked.stream == "text":
        at_M = at_M + 1  # behind [CLS]
        values = ids_T[at_M]
    else:
        values = rng.random((len(at_M), TARGET_WIDTHS[objective]), dtype=np.float32)
        values = values.astype(np.float16)
    return Example(
        id=name,
        objective=objective,
        ids_T=ids_T,
        frames=frames,
        target_at_M=at_M,
        target_values=values,
    )


def _targets(size: int, ratio: float, span: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted places of about `ratio` of `size` rows, one at least, in spans."""
    starts = rng.integers(max(1, size - span + 1), size=max(1, int(size * ratio / span)))
    return np.unique(np.minimum(starts[:, None] + np.arange(span), max(size, 1) - 1))
