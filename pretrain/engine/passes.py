"""Passes that touch the same weights in the same order on every rank.

ZeRO above stage 0 sums gradients in the order in which backward makes them, and stage 3 collects
the weights in the order in which forward asks for them. That order must not depend on a rank's
clips: on the streams they have, the objectives that they are asked, the number of their passes. So
a batch gets the streams and objectives that it lacks, without a single row, and a rank with fewer
passes than another repeats its last batch and asks nothing of it. Sums over no rows are zero, and
so are their gradients, exactly: no number changes.

Shapes: as in pretrain.model.batch.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import torch

from pretrain.model.batch import AnyBatch, Batch, Frames, JoinedFrames, Targets
from pretrain.model.memobert import MEmoBert
from pretrain.objectives import OBJECTIVES


def alike(
    batches: Sequence[AnyBatch], most: int, model: MEmoBert, objectives: Iterable[str]
) -> list[AnyBatch]:
    """`most` passes, of which `batches` are the first, each with every stream of the model and each
    of `objectives`.

    A repeated batch costs no time: the rank would wait for the others.
    """
    idle = dataclasses.replace(batches[-1], targets={}, counts={}, num_tokens=0)
    fed = [*batches, *[idle] * (most - len(batches))]
    return [with_every_part(batch, model, objectives) for batch in fed]


def with_every_part(batch: AnyBatch, model: MEmoBert, objectives: Iterable[str]) -> AnyBatch:
    """The same batch; what it lacks comes behind what it has, with no row."""
    frames = dict(batch.frames)
    for name, embedder in model.frame_embeddings.items():
        if name not in frames:
            frames[name] = _no_frames(batch, embedder.linear.in_features)
    asked = set(objectives)
    targets = {
        name: batch.targets[name] if name in batch.targets else _no_targets(name, model)
        for name in OBJECTIVES
        if name in asked or name in batch.targets
    }
    return dataclasses.replace(batch, frames=frames, targets=targets)


def _no_frames(batch: AnyBatch, width: int) -> Frames | JoinedFrames:
    if isinstance(batch, Batch):
        num_clips = len(batch.ids)
        return Frames(
            values_NFC=torch.zeros(num_clips, 0, width),
            real_NF=torch.zeros(num_clips, 0, dtype=torch.bool),
            masked_NF=torch.zeros(num_clips, 0, dtype=torch.bool),
            seconds_NF=torch.zeros(num_clips, 0),
            last_seconds=0.0,
        )
    none_R = torch.zeros(0, dtype=torch.int64)
    return JoinedFrames(
        values_RC=torch.zeros(0, width),
        masked_R=torch.zeros(0, dtype=torch.bool),
        seconds_R=torch.zeros(0),
        index_R=none_R,
        clip_R=none_R,
        num_clips=len(batch.ids),
        last_seconds=0.0,
        longest=0,
    )


def _no_targets(name: str, model: MEmoBert) -> Targets:
    none_M = torch.zeros(0, dtype=torch.int64)
    width = model.target_widths.get(name)  # None: of the word head
    return Targets(index_M=none_M, values=none_M if width is None else torch.zeros(0, width))
