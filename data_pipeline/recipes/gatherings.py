"""Pieces of a few people each, drawn from those of many: what telling people apart is judged on."""

from collections.abc import Iterator, Sequence

import numpy as np


def gatherings(
    people: Sequence[str], *, count: int, most_people: int, most_pieces: int, seed: int
) -> Iterator[list[int]]:
    """`count` times, numbers of pieces of one to `most_people` people, in a drawn order.

    people: whose each piece is.
    """
    rng = np.random.default_rng(seed)
    names = sorted(set(people))
    for _ in range(count):
        present = rng.choice(names, rng.integers(1, most_people + 1), replace=False)
        theirs = [n for n, name in enumerate(people) if name in present]
        yield rng.permutation(theirs)[:most_pieces].tolist()
