"""Vectors that lie near each other, as groups: what tells voices apart, and faces."""

from collections.abc import Iterable

import numpy as np


def near_groups(vectors_NE: np.ndarray, farthest: float, metric: str) -> list[int]:
    """A number for each: agglomerative, until no two groups have a mean distance below `farthest`.

    metric: cosine, euclidean, or precomputed, where `vectors_NE` are the distances [N, N].
    """
    if len(vectors_NE) == 1:
        return [0]
    from sklearn.cluster import AgglomerativeClustering

    clustering = AgglomerativeClustering(
        n_clusters=None, distance_threshold=farthest, metric=metric, linkage="average"
    )
    return clustering.fit_predict(vectors_NE).tolist()


def by_appearance(groups: Iterable[int]) -> list[int]:
    """The same groups, numbered from 0 in the order in which they first occur."""
    groups = list(groups)
    order = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return [order[group] for group in groups]
