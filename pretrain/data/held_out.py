"""Which clips are held out: whole video files, by a hash of their names.

    files_C = file_hashes(packed_ids)
    held_C = choose_held_out(packed_ids, files_C, num_clips=3000)

Ids come packed, those of a shard one a line, as pretrain.data.manifests keeps them; b"" is none.

The choice reads no clip: a clip id made by data_pipeline.schema.clip_id ends in its start time, and
what stands before names the video file. Clips of one file (a film, a dialogue) stay together;
files of one recording or of one speaker may be parted, which is a matter of finetuning's folds.

A file is known by eight bytes of its hash: among ten million files two are taken for one with a
chance of 3e-6, and are then held out together. C: clips.
"""

import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence

import numpy as np

_START = re.compile(rb"-\d{6,}$", re.MULTILINE)


def file_hashes(packed_ids: Iterable[bytes]) -> np.ndarray:
    """[C] uint64: of the video file that each clip comes from."""
    return _hashes(_START.sub(b"", packed) for packed in packed_ids if packed)


def choose_held_out(packed_ids: Sequence[bytes], files_C: np.ndarray, num_clips: int) -> np.ndarray:
    """[C] bool: at most `num_clips`, never all.

    Whole video files, in the order of their hashes, as long as they fit: nothing of a held-out
    film is trained on. Where no file is small enough, single clips by the hash of their ids.
    The choice is the same in every run on these clips.
    """
    room = num_clips = min(num_clips, len(files_C) - 1)
    if num_clips <= 0:
        return np.zeros(len(files_C), dtype=bool)
    held = []
    for file, count in zip(*np.unique(files_C, return_counts=True), strict=True):
        if count <= room:
            held.append(file)
            room -= int(count)
        if not room:
            break
    if held:
        return _among(files_C, np.array(held, dtype=np.uint64))
    hashes_C = _hashes(packed for packed in packed_ids if packed)
    last = np.partition(hashes_C, num_clips - 1)[num_clips - 1]
    held_C = hashes_C <= last
    return held_C if held_C.sum() <= num_clips else hashes_C < last  # clips of one id stay together


def describe_held_out(train_files_C: np.ndarray, held_files_C: np.ndarray) -> str:
    """`40 clips of 2 video files held out`, and how many of these files are trained on."""
    files = np.unique(held_files_C)
    seen = int(_among(files, np.sort(train_files_C)).sum())
    text = f"{len(held_files_C)} clips of {len(files)} video files held out"
    return text + (f", {seen} of which are trained on too" if seen else "")


def _among(values_C: np.ndarray, sorted_N: np.ndarray) -> np.ndarray:
    """[C] bool: which values are in `sorted_N`. np.isin would sort all C, and number them."""
    if not len(sorted_N):
        return np.zeros(len(values_C), dtype=bool)
    at_C = np.searchsorted(sorted_N, values_C)
    return sorted_N[np.minimum(at_C, len(sorted_N) - 1)] == values_C


def _hashes(packed_names: Iterable[bytes]) -> np.ndarray:
    names = itertools.chain.from_iterable(packed.split(b"\n") for packed in packed_names)
    return np.fromiter(map(_hash, names), dtype=np.uint64)


@functools.lru_cache(maxsize=256)  # the clips of a file lie side by side
def _hash(name: bytes) -> int:
    return int.from_bytes(hashlib.sha256(name).digest()[:8])
