"""Every setting of a pretraining run, one dataclass a component.

    config = load_config(PretrainConfig, "configs/pretrain/tiny.yaml", ["optim.steps=200"])

The defaults are the paper's run; configs/pretrain/reference.yaml spells them out. A value that
cannot work raises ConfigError here, before any data is read.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from data_pipeline.config import ConfigError, NonNegative, Positive, Share
from data_pipeline.paths import PathText, UserPath
from pretrain.data.masking import MaskingSettings
from pretrain.settings import RuntimeSettings

FORMER_LIMITS = {
    f"max_{name}": f"write data.limits.{modality}="
    for name, modality in (
        ("text_pieces", "text"),
        ("face_frames", "face"),
        ("speech_frames", "speech"),
    )
}


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What is trained, and what its weights come from."""

    text_checkpoint: PathText = "bert-base-uncased"
    """BERT that gives the tokenizer, the sizes and, with `text_init: checkpoint`, the weights.
    A hub name, a folder, or `package:module/folder`."""
    text_init: Literal["checkpoint", "none"] = "checkpoint"
    """`none`: every weight is new, the "Direct" setting."""
    width: PositiveInt | None = None
    """Of the hidden states, for runs with `text_init: none`; null here and in the three sizes below
    is the checkpoint's own, of which only num_layers can be less."""
    num_layers: PositiveInt | None = None
    """Transformer layers; with `text_init: checkpoint` the lowest so many of its own."""
    num_heads: PositiveInt | None = None
    """Attention heads of a layer; they divide the width."""
    ffn_width: PositiveInt | None = None
    """Inner width of a layer's feed-forward part."""
    max_frame_positions: PositiveInt = 512
    """Rows of the position tables of face and speech."""
    dropout: Share = 0.1
    """On embeddings, attention and layer outputs."""
    positions: Literal["index", "seconds"] = "index"
    """Of face and speech frames: index among the kept ones (the paper), or true time."""
    streams: tuple[str, ...] = ("face", "speech")
    """Streams that are read beside the text, in this order, of those that the shards have."""
    own_type: bool = True
    """Speech, and any further stream, has a type vector of its own (the paper), or the face's."""
    attention: Literal["sdpa", "plain"] = "sdpa"
    """torch's fused kernel, or its plain twin."""
    centered: tuple[str, ...] = ()
    """Streams that are read without their clip's mean, in which the microphone is, and the voice's
    owner, but also some of the mood; none in the paper."""

    def sizes(self) -> dict[str, int]:
        """The sizes that are set here."""
        names = ("width", "num_layers", "num_heads", "ffn_width")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def __post_init__(self) -> None:
        if strange := [name for name in self.centered if name not in self.streams]:
            raise ConfigError(
                f"model.centered={list(self.centered)} names {', '.join(strange)}, but "
                f"model.streams={list(self.streams)}; expected some of those"
            )
        fixed = {name: size for name, size in self.sizes().items() if name != "num_layers"}
        if self.text_init == "checkpoint" and fixed:
            raise ConfigError(
                f"model sizes {fixed} are set, but text_init=checkpoint takes its own; "
                "leave them out, or set model.text_init=none"
            )


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Clips, and how much of each is read."""

    shards: list[PathText] = field(default_factory=lambda: ["runs/shards"])
    """Folders that data_pipeline.extract wrote; their clips form one pool."""
    batch_clips: PositiveInt = 640
    """Clips in one optimizer step, over all ranks and micro-batches."""
    packing: Literal["rows", "none"] = "rows"
    """How the clips of a forward pass lie. rows: end to end without padding, each attending to
    itself alone. none: padded to the longest (the paper). The losses are the same."""
    micro_batch_tokens: PositiveInt = 8192
    """Of packing: rows. Most word pieces and frames in one forward pass of one rank, [CLS] and
    [SEP] counted; the rest of its share is accumulated."""
    micro_batch_clips: PositiveInt = 160
    """Most clips in one forward pass of one rank; the rest of its share is accumulated."""
    num_lanes: PositiveInt = 32
    """Readers the clips are dealt to, however many ranks there are: must be a multiple of the
    number of ranks and divide batch_clips. Memory: one decoded shard a lane, shared by its rank."""
    limits: dict[str, NonNegativeInt | None] = field(
        default_factory=lambda: {"text": 30, "face": 36, "speech": 64},
        metadata={"merges": True, "formerly": FORMER_LIMITS},
    )
    """How much of a clip is read. text: clips with more word pieces (without [CLS] and [SEP]) are
    left out, as in the paper. A stream: its first so many frames, in the paper 3.6 s of face and
    3.84 s of speech. null, or no name, is no limit but the model's positions; 0 leaves it out."""
    validation_share: Share = 0.05
    """Share of the clips held out, whole video files where they are small enough; 0 is none."""
    validation_clips: NonNegativeInt = 3000
    """Most clips held out."""
    validation_shards: list[PathText] = field(default_factory=list)
    """Folders with the held-out clips, in place of a share of `shards`."""
    verify: bool = True
    """Read every shard once before the first step, each rank its part, so that a flipped bit ends a
    run when it starts and not hours later. false: when a shard is first read."""
    workers: NonNegativeInt | None = None
    """Processes of a rank that read and mask its clips; 0 does so in the thread below. null: on a
    GPU up to 4, as the rank has cores, and on a CPU none. The clips and masks are the same."""
    prefetch_steps: NonNegativeInt = 2
    """Steps that a thread prepares ahead; 0 prepares them in the loop itself."""

    def __post_init__(self) -> None:
        _need(bool(self.shards), "data.shards is empty, expected at least one folder of shards")
        _need(
            self.batch_clips % self.num_lanes == 0,
            f"data.num_lanes={self.num_lanes} does not divide data.batch_clips="
            f"{self.batch_clips}; each lane gives the same number of clips to a step",
        )


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """What the model is asked."""

    weights: dict[str, NonNegative] = field(default_factory=dict, metadata={"merges": True})
    """Objective to its weight; 0 turns it off. One that is not named keeps its own, the paper's 2
    of wwmlm and 1 of the others: 'objectives.weights={span_mvfr: 0, span_mvfc_kl: 0}' trains
    without faces."""
    mixing: Literal["step", "clip"] = "step"
    """step: one objective a step, drawn by weight (the paper). clip: every clip draws its own
    among those its modalities allow; the step's loss is the sum of the objectives' means, each
    times its share of the weights. One that the step lacks adds nothing, so a small batch weighs
    less in such a step."""

    def shares(self) -> dict[str, float]:
        """The objectives that are on, in their order, with weights that sum to one.

        Raises ConfigError for one that does not exist, and when none is on.
        """
        from pretrain.objectives import OBJECTIVES  # loads torch

        for name in self.weights:
            _need(
                name in OBJECTIVES,
                f"objectives.weights: no objective {name!r}; there are {', '.join(OBJECTIVES)}",
            )
        weights = {name: self.weights.get(name, o.weight) for name, o in OBJECTIVES.items()}
        total = sum(weights.values())
        _need(total > 0, "objectives.weights: every objective is off")
        return {name: weight / total for name, weight in weights.items() if weight}


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """AdamW, with a linear warm-up and a linear fall of the learning rate."""

    steps: PositiveInt = 40_000
    """Optimizer steps of the whole run."""
    warmup_steps: NonNegativeInt = 4_000
    """Steps in which the rate rises to its peak; then it falls linearly."""
    peak_learning_rate: Positive = 5e-5
    """The highest."""
    floor_learning_rate: NonNegative = 1e-8
    """The rate never falls below it."""
    betas: tuple[Share, Share] = (0.9, 0.98)
    """AdamW's decay rates of the first and second moment."""
    eps: Positive = 2.5e-7
    """AdamW's, below the square root of the second moment. The official code's 1e-6 is of gradients
    summed over 4 micro-batches; these are means."""
    weight_decay: NonNegative = 0.01
    """Not on biases and LayerNorm weights."""
    clip_norm: PositiveFloat = 1.25
    """Longest gradient of a step's mean loss, over all weights together. The official code's 5.0 is
    that of a sum of 4 micro-batch means."""

    def __post_init__(self) -> None:
        _need(
            self.warmup_steps < self.steps,
            f"optim.warmup_steps={self.warmup_steps} of optim.steps={self.steps}: expected fewer "
            "warm-up steps than steps; set optim.warmup_steps too",
        )


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Who takes the steps."""

    kind: Literal["deepspeed", "torch"] = "deepspeed"
    """DeepSpeed, or its plain-torch twin."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """What DeepSpeed splits over the ranks: 0 nothing, 1 the optimizer's state, 2 the gradients
    too, 3 the weights too. The losses are the same, and a run may go on at another stage. A model
    of BERT's size fits a GPU at 0, which sends the least."""
    activation_checkpointing: bool = False
    """Keep of each encoder layer what goes into it alone, and compute the rest again in the
    backward pass: longer passes fit, each for about a third more work. The losses are the same."""
    compile: bool = False
    """Let torch.compile make one program of an encoder layer, at the first step: on a GPU faster at
    BERT's base size (docs/results/gpu.md), on a CPU slower."""

    def __post_init__(self) -> None:
        _need(
            self.kind == "deepspeed" or self.zero_stage == 0,
            f"engine.zero_stage={self.zero_stage} needs engine.kind=deepspeed",
        )
        _need(
            not self.compile or self.zero_stage < 3,
            "engine.compile=true with engine.zero_stage=3, whose weights come and go while a layer "
            "runs; choose one of them",
        )


@dataclass(frozen=True, kw_only=True)
class RunSettings(RuntimeSettings):
    """Where the run goes on, and what it tells and keeps."""

    output: PathText = "runs/pretrain"
    """Folder of the run: metrics.csv, checkpoints/, config.yaml. A run that finds a checkpoint
    there goes on from it."""
    log_every: PositiveInt = 10
    """Steps between two lines of the log and of metrics.csv; losses are read off the device only
    then."""
    validate_every: PositiveInt = 5_000
    """Steps between validations; there is one before the first and one after the last step."""
    checkpoint_every: PositiveInt = 1_000
    """Steps between checkpoints; there is one after the last step."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints kept."""
    validate_subsets: bool = True
    """Ask held-out clips with modalities left out, too: masked words by the text alone, with the
    face, with the speech. With three modalities a validation takes twice as long: four times as
    many passes, of fewer tokens."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = field(
        default=(), metadata={"formerly": {"tensorboard": "write run.trackers=[tensorboard]"}}
    )
    """Where the metrics go beside the CSV: `output`/tensorboard, Weights & Biases (of the project
    WANDB_PROJECT, `memobert` where that is not set)."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One pretraining."""

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    masking: MaskingSettings = field(default_factory=MaskingSettings)
    objectives: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    run: RunSettings = field(default_factory=RunSettings)


@dataclass(frozen=True, kw_only=True)
class PairingConfig:
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """The short pretraining; run.seed and run.output are set for each seed."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """A pretraining each."""
    positions: dict[str, int] = field(default_factory=dict)
    """Name of a position to the index of its word in the sentence."""
    results: UserPath = Path("docs/results/pairing_grid")
    """The table is written to this name with .csv and .md."""

    def __post_init__(self) -> None:
        if not self.positions:
            raise ConfigError("positions is empty; name one or more, such as {digit: 4}")


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
