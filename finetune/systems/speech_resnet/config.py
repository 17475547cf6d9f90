"""What the system and its first stage can be told."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from data_pipeline.config import NonNegative, Positive
from data_pipeline.paths import PathText, check_distinct

Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Masks:
    """What is masked of a training clip."""

    time_masks: NonNegativeInt = 2
    """How many bands of neighbouring frames."""
    time_share: Share = 0.1
    """Widest of them, as a share of the clip's frames."""
    frequency_masks: NonNegativeInt = 2
    """How many bands of neighbouring mel bins."""
    frequency_share: Share = 0.15
    """Widest of them, as a share of the bins."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large the trunk is."""

    width: PositiveInt = 64
    """Channels of the first stage; the others have two, four and eight times as many. 8 or 16 for
    CPUs."""
    stem_stride: PositiveInt = 1
    """Frames and bins from one output of the first convolution to the next; 2 and 4 cost a fourth
    and a sixteenth."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """`options` of a setting whose system is speech_resnet."""

    trunk: PathText | None = None
    """Folder that `python -m finetune.systems.speech_resnet pretrain` wrote: the trunk is its, the
    segment-level layers are new. null: everything is new. With plan.freeze_model=true the trunk
    stays as it is."""
    shape: Shape | None = None
    """Of a new trunk; null is the paper's width, or the shape of `trunk`."""
    embedding: PositiveInt = 256
    """Width of the segment-level layer."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of it that a training step leaves out."""
    augment: Masks | None = None
    """SpecAugment, in training alone; null is none."""

    def __post_init__(self) -> None:
        if self.trunk is not None and self.shape is not None:
            raise ValueError(
                "trunk and shape are both given, and a trunk has a shape already; leave one out"
            )


@dataclass(frozen=True, kw_only=True)
class SpeakerConfig:
    """Stage 1: who speaks?"""

    shards: tuple[PathText, ...]
    """Folders that extraction wrote, of clips that name their speakers."""
    output: PathText
    """Folder of the trunk; given again, an unfinished training goes on."""
    stream: str = "fbank"
    """What is heard: a stream of evenly spaced rows."""
    leave_out: tuple[str, ...] = ()
    """Speakers, as CORPUS/SPEAKER, not to learn from: those that emotions will be judged on."""
    min_clips: PositiveInt = 4
    """Speakers of fewer clips are left out, and counted."""
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of each speaker's clips that are not learned from, for the accuracy in metrics.csv."""
    shape: Shape = Shape()
    embedding: PositiveInt = 256
    """Width of the segment-level layer, whose output is compared with each speaker."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of it that a training step leaves out."""
    loss: Literal["additive_margin", "softmax"] = "additive_margin"
    """additive_margin: softmax of scale (cosine - margin of the true one), Wang et al. 2018."""
    margin: NonNegative = 0.2
    """By which the cosine of the true speaker has to lead."""
    scale: PositiveFloat = 30.0
    """Of the cosines."""
    augment: Masks | None = Masks()
    """SpecAugment; null is none."""
    batch_size: PositiveInt = 32
    """Clips a step."""
    steps: PositiveInt = 20_000
    """Optimizer steps."""
    warmup_steps: NonNegativeInt = 500
    """Of linear rise; then the rate falls linearly to 0."""
    learning_rate: Positive = 1e-3
    """Peak, of AdamW."""
    weight_decay: NonNegative = 0.01
    """Not on biases."""
    max_grad_norm: PositiveFloat = 5.0
    """Longest gradient."""
    save_every_steps: PositiveInt = 500
    """Steps between two checkpoints, each with a line in metrics.csv."""
    seed: NonNegativeInt = 1234
    """Of weights, order, masks and dropout."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""

    def __post_init__(self) -> None:
        check_distinct("shards", self.shards)
        if not self.shards:
            raise ValueError("shards is empty; expected at least one folder")
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"{self.warmup_steps} warmup_steps of {self.steps} steps; expected fewer"
            )
