"""What adapters of composed clips draw from: FER+ images and sentences, no item in two splits."""

import csv
import re
from pathlib import Path

import numpy as np

from data_pipeline.corpora._ferplus import counted, read_split, read_votes
from data_pipeline.schema import EXPRESSIONS
from data_pipeline.table.clips import ClipTableError


def single_images(folder: Path) -> dict[str, np.ndarray]:
    """Split of FER+ to [N] bool: whether an image is the first with its pixels. What the encoder
    learned from comes first, then test: the others give way."""
    seen: set[bytes] = set()
    single = {}
    for split in ("train", "test", "valid"):
        mine = []
        for image_HW in read_split(folder, split).images_NHW:
            pixels = image_HW.tobytes()
            mine.append(pixels not in seen)
            seen.add(pixels)
        single[split] = np.array(mine)
    return single


def rows_of_classes(
    folder: Path, split: str, usable_N: np.ndarray, expression_of: dict[str, str]
) -> dict[str, np.ndarray]:
    """Class to rows of the split's images whose votes have a majority for its expression."""
    votes_N10 = read_votes(folder, split)
    winner_N = votes_N10[:, : len(EXPRESSIONS)].argmax(1)
    mine_N = counted(votes_N10) & usable_N
    return {
        name: np.flatnonzero(mine_N & (winner_N == EXPRESSIONS.index(expression)))
        for name, expression in expression_of.items()
    }


def plain_words(text: str) -> tuple[str, ...]:
    """Letters and digits alone: "What?!" is "what"."""
    return tuple(re.findall(r"\w+", text.lower().replace("\u2019", "'").replace("'", "")))


def read_rows(path: Path, expected: str) -> list[dict[str, str]]:
    """The rows of a CSV. Raises ClipTableError with what was `expected` beside it."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise ClipTableError(f"no {path}; expected a folder with {expected}") from None
