"""What the model reads: a batch of clips, padded to one shape or joined end to end.

Both hold the same clips and ask the same; a joined batch has no position that is not a clip's.

Shapes: N clips, T word pieces with [CLS] and [SEP], F rows of a stream, C their width, M target
positions of an objective in the whole batch. Joined: R word pieces, or rows of a stream, of all
clips one after another; P positions, clip after clip, each [text | stream | stream]; E ends.
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

    @property
    def longest(self) -> int:
        """Rows of the longest clip."""
        return self.real_NF.shape[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class JoinedFrames:
    """One stream of N clips, their rows one after another."""

    values_RC: torch.Tensor
    """Zeros at masked rows."""
    masked_R: torch.Tensor
    """bool, where the model adds its mask vector."""
    seconds_R: torch.Tensor
    """float32, from the clip's start."""
    index_R: torch.Tensor
    """int64, of a row in its clip."""
    clip_R: torch.Tensor
    """int64, the clip of a row in the batch."""
    num_clips: int
    """Of the batch, those without this stream too."""
    last_seconds: float
    """The latest of them, known without asking the device."""
    longest: int
    """Rows of the longest clip."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """What one objective asks of a batch."""

    index_M: torch.Tensor
    """int64, flat positions into the padded [N, T], or [N, F] of the objective's stream, or into
    the P joined ones."""
    values: torch.Tensor
    """Word pieces [M] int64, or rows of the target stream [M, C]."""


class _OnDevices:
    """Of both kinds of batch: a copy of it elsewhere."""

    def to(self, device: torch.device | str, non_blocking: bool = False):
        return _map(self, lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self):
        """Where a GPU can fetch it while it computes."""
        return _map(self, lambda x: x.pin_memory())


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch(_OnDevices):
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

    @property
    def num_positions(self) -> int:
        """Those that are computed, padding too."""
        return len(self.ids) * sum(self.length(stream) for stream in ("text", *self.frames))

    def length(self, stream: str) -> int:
        """Padded length of `text` or of a stream."""
        return (self.text_ids_NT if stream == "text" else self.frames[stream].real_NF).shape[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Segments:
    """Where the clips lie among the joined positions."""

    lengths: tuple[int, ...]
    """Of each clip; together they are P."""
    ends_E: torch.Tensor
    """int32: 0 and the end of each of them (`cu_seqlens`)."""
    longest: int
    """Of `lengths`; kept, since torch.compile would make a program for each that it looks at."""


@dataclass(frozen=True, kw_only=True, eq=False)
class JoinedBatch(_OnDevices):
    """N clips, joined."""

    ids: list[str]
    text_ids_R: torch.Tensor
    text_index_R: torch.Tensor
    """int64, of a piece in its clip."""
    longest_text: int
    frames: dict[str, JoinedFrames]
    row_P: torch.Tensor
    """int64: of each position, its place among the R of the text, then of the streams in the order
    of `frames`."""
    segments: Segments
    targets: dict[str, Targets]
    counts: dict[str, int]
    num_tokens: int
    """Real positions of all clips."""

    @property
    def num_positions(self) -> int:
        """Those that are computed: its clips' own."""
        return len(self.row_P)


AnyBatch = Batch | JoinedBatch


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
