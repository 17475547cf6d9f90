"""Which clips a training batch takes: endless batches of indices, never a short one."""

from collections.abc import Iterator

import numpy as np


def batches_of(
    sampler: str, label_N: np.ndarray, batch_size: int, seed: int
) -> Iterator[np.ndarray]:
    """Batches of a sampler: `shuffled`, `balanced` or `weighted`."""
    if sampler == "shuffled":
        return shuffled_batches(len(label_N), batch_size, seed)
    if sampler == "balanced":
        return balanced_batches(label_N, batch_size, seed)
    if sampler == "weighted":
        return weighted_batches(label_N, batch_size, seed)
    raise ValueError(f"sampler {sampler!r} is unknown; choose shuffled, balanced or weighted")


def shuffled_batches(num_clips: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Endless batches of indices: one shuffle of all clips after another, never a short batch."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, 0)))
    waiting = np.empty(0, np.int64)
    while True:
        while len(waiting) < batch_size:
            waiting = np.concatenate([waiting, rng.permutation(num_clips)])
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def balanced_batches(label_N: np.ndarray, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Classes in turn, each by shuffles of its own clips: any stretch holds as many of each class,
    give or take one."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, 0)))
    classes = [np.flatnonzero(label_N == label) for label in np.unique(label_N)]
    waiting: list[list[int]] = [[] for _ in classes]
    turn = 0
    while True:
        batch = []
        for _ in range(batch_size):
            if not waiting[turn]:
                waiting[turn] = rng.permutation(classes[turn]).tolist()
            batch.append(waiting[turn].pop())
            turn = (turn + 1) % len(classes)
        yield np.array(batch, dtype=np.int64)


def weighted_batches(label_N: np.ndarray, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Clips drawn with replacement, each with one over the size of its class."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, 0)))
    weight_N = 1 / np.bincount(label_N)[label_N]
    while True:
        yield rng.choice(len(label_N), size=batch_size, p=weight_N / weight_N.sum())
