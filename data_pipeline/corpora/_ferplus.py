"""FER2013 faces with the FER+ votes, and the rules by which its authors count them.

Votes of exactly one are outliers and become zero. An image whose winner is `unknown` or `not a
face` is dropped. An image counts in evaluation where one emotion holds more than half of the
remaining votes (Barsoum et al. 2016, arXiv:1608.01041).
"""

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipeline.errors import UserError
from data_pipeline.schema import EXPRESSIONS

IMAGE_SIZE = 48
VOTE_COLUMNS = (*EXPRESSIONS, "unknown", "NF")


class FerDataError(UserError):
    """A FER+ file that is missing or is not what the recipe expects."""


@dataclass(frozen=True, kw_only=True)
class FerSplit:
    """One split. N images of 48 x 48."""

    images_NHW: np.ndarray
    """[N, 48, 48] uint8, grey."""
    votes_N10: np.ndarray
    """[N, 10] uint8, as counted: the eight emotions, unknown, not a face."""

    def __len__(self) -> int:
        return len(self.images_NHW)

    def select(self, rows: np.ndarray) -> "FerSplit":
        return FerSplit(images_NHW=self.images_NHW[rows], votes_N10=self.votes_N10[rows])


def default_folder() -> Path:
    """The `ferplus` folder under $MEMOBERT_SHARED/data, by default beside the repository."""
    root = Path(__file__).resolve().parents[2]
    return Path(os.environ.get("MEMOBERT_SHARED", root.parent / "shared")) / "data" / "ferplus"


def read_split(folder: str | Path, split: str) -> FerSplit:
    """`train`, `valid` or `test` from `folder/ferplus_<split>.npz`."""
    with _opened(folder, split) as data:
        blob, offsets, votes = data["blob"].tobytes(), data["offsets"], data["votes"]
    images = np.empty((len(votes), IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    for i, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        images[i] = np.asarray(Image.open(io.BytesIO(blob[start:end])).convert("L"))
    return FerSplit(images_NHW=images, votes_N10=votes)


def read_votes(folder: str | Path, split: str) -> np.ndarray:
    """[N, 10] uint8, the votes of `read_split` alone."""
    with _opened(folder, split) as data:
        return data["votes"]


@contextlib.contextmanager
def _opened(folder: str | Path, split: str) -> Iterator[np.lib.npyio.NpzFile]:
    path = Path(folder) / f"ferplus_{split}.npz"
    if not path.is_file():
        raise FerDataError(
            f"no {path}; set MEMOBERT_SHARED, or give --data a folder with ferplus_train.npz, "
            "ferplus_valid.npz and ferplus_test.npz"
        )
    with np.load(path, allow_pickle=False) as data:
        columns = tuple(str(c) for c in data["columns"])
        if columns != VOTE_COLUMNS:
            raise FerDataError(f"{path}: vote columns {columns}, expected {VOTE_COLUMNS}")
        yield data


def clean_votes(votes_N10: np.ndarray) -> np.ndarray:
    """Votes with every count of exactly one set to zero."""
    return np.where(votes_N10 == 1, 0, votes_N10)


def usable(votes_N10: np.ndarray) -> np.ndarray:
    """[N] bool: an emotion, not `unknown` or `not a face`, holds the most of the clean votes."""
    votes = clean_votes(votes_N10)
    emotions = votes[:, : len(EXPRESSIONS)].max(1)
    return (emotions > 0) & (emotions >= votes[:, len(EXPRESSIONS) :].max(1))


def counted(votes_N10: np.ndarray) -> np.ndarray:
    """[N] bool: one emotion holds more than half of the clean votes, so evaluation counts it."""
    votes = clean_votes(votes_N10)
    return usable(votes_N10) & (2 * votes[:, : len(EXPRESSIONS)].max(1) > votes.sum(1))


def vote_distribution(votes_N10: np.ndarray) -> np.ndarray:
    """[N, 8] float32 over EXPRESSIONS; the rows must be `usable`."""
    votes = clean_votes(votes_N10)[:, : len(EXPRESSIONS)].astype(np.float32)
    return votes / votes.sum(1, keepdims=True)
