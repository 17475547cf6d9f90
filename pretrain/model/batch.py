"""What the model reads: a batch of clips, padded.

Shapes: N clips, T word pieces with [CLS] and [SEP], F rows of a stream, C their width, M target
positions of an objective in the whole batch.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


def tick(seconds: float, hz: float) -> int:
    """Position of a row at `seconds` on a clock of `hz`: rounded, a half goes up.

    A hair above one half: the device rounds in float32 and may land one higher.
    """
    return math.floor(seconds * hz + 0.501)


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """One stream of N clips, padded to the longest."""

    values_NFC: torch.Tensor
    """Zeros at masked rows and at padding."""
    real_NF: torch.Tensor
    """bool, false at padding."""
    masked_NF: torch.Tensor
    """bool, where the model adds its mask vector."""
    seconds_NF: torch.Tensor
    """float32, from the clip's start."""
    last_seconds: float
    """The latest of them, known without asking the device."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """What one objective asks of a batch."""

    index_M: torch.Tensor
    """int64, flat positions into the padded [N, T], or [N, F] of the objective's stream."""
    values: torch.Tensor
    """Word pieces [M] int64, or rows of the target stream [M, C]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """N clips, padded."""

    ids: list[str]
    text_ids_NT: torch.Tensor
    text_mask_NT: torch.Tensor
    """bool, false at padding."""
    frames: dict[str, Frames] = field(default_factory=dict)
    """By stream; one that no clip has is not there."""
    targets: dict[str, Targets] = field(default_factory=dict)
    """By objective, of those that some clip of the batch carries."""
    counts: dict[str, int] = field(default_factory=dict)
    """Objective to the count that its loss will return: pieces, or rows x C."""
    num_tokens: int = 0
    """Real positions of all clips, padding left out."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        return _map(self, lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Where a GPU can fetch it while it computes."""
        return _map(self, lambda x: x.pin_memory())

    def length(self, stream: str) -> int:
        """Padded length of `text` or of a stream."""
        return (self.text_ids_NT if stream == "text" else self.frames[stream].real_NF).shape[1]


def _map(value, change: Callable[[torch.Tensor], torch.Tensor]):
    """`value` with every tensor in it changed, however deep in these dataclasses it lies."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _map(one, change) for name, one in value.items()}
    if dataclasses.is_dataclass(value):
        fields = {f.name: _map(getattr(value, f.name), change) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value
