"""What a finetuning run can be told. Defaults are those of MEmoBERT's own runs.

A setting is weights x head x plan; four have names of their own, those of the paper:

    direct             new weights                 linear head on [CLS]
    bert_direct        text side from BERT         linear head
    pretrain_finetune  multimodal checkpoint       linear head
    pretrain_prompt    multimodal checkpoint       "I am [MASK] .", no new weights

and others are spelled out:

    settings: [pretrain_prompt, bert_prompt]
    own_settings:
      bert_prompt: {weights: bert, head: prompt, plan: {num_steps: 400}}
"""

import dataclasses
import difflib
import hashlib
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from data_pipeline.config import NonNegative, Positive, dump_config
from data_pipeline.paths import PathText, check_distinct
from data_pipeline.schema import slug
from data_pipeline.slurm import ArraySettings
from finetune.clips.labelled import Modality
from finetune.protocols.files import Group
from pretrain.config import FORMER_LIMITS as PRETRAIN_FORMER_LIMITS

Weights = Literal["new", "bert", "checkpoint", "features"]
Limit = int | Literal["checkpoint"] | None
"""checkpoint: what pretraining read; null: no limit, as in pretraining's own config."""
FORMER_LIMITS = PRETRAIN_FORMER_LIMITS | {
    f"max_{name}": f"write data.limits.{stream}=; its null is now `checkpoint`, null is no limit"
    for name, stream in (("faces", "face"), ("speech_states", "speech"))
}
PRESETS: dict[str, tuple[Weights, str]] = {
    "direct": ("new", "linear"),
    "bert_direct": ("bert", "linear"),
    "pretrain_finetune": ("checkpoint", "linear"),
    "pretrain_prompt": ("checkpoint", "prompt"),
}
"""The paper's settings: weights and head; their plans are in `plans`."""
SETTINGS = tuple(PRESETS)


@dataclass(frozen=True, kw_only=True)
class FoldSettings:
    """Folds for clips without a protocol of their own."""

    by: Group = "speaker"
    """What is never split: speaker, recording or (with allow_shared_speakers) single clips."""
    folds: int = 5
    """How many."""
    dev: bool = True
    """Give each fold a dev split; without one, selection must be `last`."""
    allow_shared_speakers: bool = False
    """Let a speaker be in training and test; such results show mechanics, not accuracy."""
    seed: int = 0
    """Another one deals otherwise."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Labelled clips, and how much of each is read."""

    shards: tuple[PathText, ...] = ("runs/demo/samples/shards",)
    """Folders that extraction wrote."""
    label_column: str = "label"
    """Which column of the clip table holds the labels."""
    protocol: PathText | None = None
    """Fold file, or the name of one that ships (python -m finetune.protocols list); make one with
    python -m finetune.protocols make. null deals the folds as `deal` says and writes the file to
    `output`."""
    deal: FoldSettings = FoldSettings()
    labels: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "anger": ("anger", "angry", "ang"),
            "happy": ("happy", "happiness", "joy", "hap", "excited", "exc"),
            "neutral": ("neutral", "neu"),
            "sad": ("sad", "sadness"),
        }
    )
    """Class -> the labels of the clip table that mean it (case aside). A map in a YAML replaces
    this one whole."""
    ignore_labels: tuple[str, ...] = ()
    """Labels whose clips are left out, and counted; "*" is every label that no class lists."""
    modalities: tuple[Modality, ...] = ("text", "face", "speech")
    """What the model may see, in training and in test."""
    limits: dict[str, Limit] = field(
        default_factory=lambda: {"text": 120, "face": "checkpoint", "speech": "checkpoint"},
        metadata={"merges": True, "formerly": FORMER_LIMITS},
    )
    """How much of a clip is read, from its start. text: word pieces of the utterance; the rest is
    cut off, the prompt never is. A stream: frames (MEmoBERT: 36 of face, 64 of speech, which is
    3.8 s). `checkpoint` is as many as pretraining read (without a checkpoint: null), null, or no
    name, is no limit but the model's positions, and 0 leaves it out."""
    long_texts: Literal["cut", "drop"] = "cut"
    """drop: as in MEmoBERT's own runs a clip whose pieces, the prompt's among them, are more than
    limits.text is left out of training, and with a prompt one of more than max_judged_pieces
    out of dev and test, which flatters the result; both are counted in the notes."""
    max_judged_pieces: PositiveInt = 60
    """Where long_texts=drop leaves out dev and test clips of pretrain_prompt."""

    def __post_init__(self) -> None:
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ValueError(
                f"modalities {list(self.modalities)}; expected one or more, none twice"
            )
        for name, limit in self.limits.items():  # of a union pydantic tells what each part lacks
            if isinstance(limit, int) and limit < 0:
                raise ValueError(f"limits.{name} {limit}; expected at least 0")
        check_distinct("data.shards", self.shards)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the weights come from."""

    checkpoint: PathText | None = "runs/demo/samples/pretrain"
    """Folder of a pretraining run or of one checkpoint, or OWNER/NAME of one on the hub. Its shape
    is that of direct and bert_direct too. null: the shape of `bert`, with the features' widths, and
    no pretrain_ settings."""
    bert: PathText = "bert-base-uncased"
    """BERT checkpoint of bert_direct: a folder, a hub name or package:MODULE/FOLDER."""


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """How pretrain_prompt asks for the emotion."""

    template: str = "{text} I am [MASK] ."
    """{text} is the utterance, given a full stop unless it ends in ? ! or . ; without text the
    rest stands alone. The space before the last full stop is meant: older BERT tokenizers do not
    know "[MASK]."."""
    words: dict[str, str] = field(default_factory=dict)
    """Class -> the word that stands for it, one piece of the vocabulary; default: the class."""
    decode: Literal["label_words", "vocabulary"] = "label_words"
    """vocabulary: the likeliest of all words wins, and one that stands for no class is wrong; as
    MEmoBERT's first release did."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How one setting is trained."""

    learning_rate: Positive = 5e-5
    """Peak."""
    warmup_steps: NonNegativeInt = 0
    """Steps of linear rise; then the rate falls linearly to 0."""
    num_steps: PositiveInt = 2000
    """Optimizer steps of a run."""
    sampler: Literal["shuffled", "balanced", "weighted"] = "shuffled"
    """Which clips a batch takes: one shuffle of all after another; as many of each class; or
    weighted, drawn with replacement, each class as likely, as Foal-Net's own runs."""
    freeze_model: bool = False
    """True: the model stays as it is, and its head alone learns."""
    patience: PositiveInt | None = None
    """Evaluations without a better UA after which training stops; null never stops early."""
    modality_cases: Literal["full", "seven"] = "full"
    """seven: each training step sees one of the seven non-empty subsets of data.modalities, drawn
    evenly, as in MEmoBERT's best prompt runs. What is judged, see evaluate_cases."""

    def __post_init__(self) -> None:
        if self.warmup_steps >= self.num_steps:
            raise ValueError(
                f"{self.warmup_steps} warmup_steps of {self.num_steps} num_steps; expected fewer "
                "steps of warm-up than steps"
            )


# A class for each default, so that a YAML which sets one field of a plan keeps the others.
@dataclass(frozen=True, kw_only=True)
class ScratchPlan(TrainSettings):
    """How a model without pretraining is trained."""

    patience: PositiveInt | None = 5


@dataclass(frozen=True, kw_only=True)
class CheckpointPlan(TrainSettings):
    """How a head on the pretrained model is trained."""

    num_steps: PositiveInt = 1500
    patience: PositiveInt | None = 5


@dataclass(frozen=True, kw_only=True)
class PromptPlan(TrainSettings):
    """How the prompt is trained."""

    learning_rate: Positive = 3e-5
    warmup_steps: NonNegativeInt = 100
    num_steps: PositiveInt = 2500


@dataclass(frozen=True, kw_only=True)
class Plans:
    """How each of the four settings is trained."""

    direct: ScratchPlan = ScratchPlan()
    bert_direct: ScratchPlan = ScratchPlan()
    pretrain_finetune: CheckpointPlan = CheckpointPlan()
    pretrain_prompt: PromptPlan = PromptPlan()


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to learn."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    system: str = "memobert"
    """Who learns: a file of finetune/systems, or a module of one's own, with its dots."""
    weights: Weights = "checkpoint"
    """Where they come from: nowhere, the text side from `model.bert`, all from
    `model.checkpoint`. features: there is no model, the head sees the streams as they are, and text
    as the word vectors of `model.bert`."""
    head: str = "linear"
    """What reads the emotion off: the name of a file in finetune/heads."""
    plan: TrainSettings = TrainSettings()
    """How it is trained."""
    options: dict[str, Any] = field(default_factory=dict)
    """What else its head is told, or another system than memobert; each has settings of its own."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Of every setting's training."""

    batch_size: PositiveInt = 32
    """Clips a step, over all processes together."""
    weight_decay: NonNegative = 0.01
    """Not on biases and on LayerNorm weights."""
    max_grad_norm: PositiveFloat = 5.0
    """Longest gradient, over all weights together."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16, weights and their updates in float32."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One of several things to tell of the same clips, each with classes of its own."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    labels: dict[str, tuple[str, ...]]
    """As data.labels."""
    ignore_labels: tuple[str, ...] = ()
    """As data.ignore_labels."""
    label_column: str = "label"
    """As data.label_column."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Settings x folds x seeds."""

    settings: tuple[str, ...] = SETTINGS
    """Which are run: the paper's four, and those of `own_settings`."""
    own_settings: dict[str, Setting] = field(default_factory=dict, metadata={"merges": True})
    """Name to system, weights, head and plan."""
    targets: dict[str, Target] = field(default_factory=dict, metadata={"merges": True})
    """Name to labels: all settings are run for each, one after the other, as if it were a config of
    its own with these labels in `data` and output=OUTPUT/NAME. None: those of `data`, in OUTPUT."""
    output: PathText = "runs/finetune"
    """Results, curves, tables."""
    folds: tuple[int, ...] | None = None
    """Folds of the protocol to run; null is all."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = (1234, 4321, 5678)
    """A run each: of new weights, order and dropout."""
    selection: Literal["dev", "oracle", "last"] = "dev"
    """Which step is reported: the best UA on dev, the best on test itself (oracle: a number to
    compare with papers that did so, never an honest one), or the last."""
    train_on: Literal["train", "train+dev"] = "train"
    """train+dev: learn from the dev clips too. With selection=dev the step is chosen first, by a
    training on train alone judged on dev; then a new model is trained on both for as many steps, at
    the same rates. With oracle it is MEmoBERT's `trnval`, with last the whole plan."""
    label_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the labels of train and of dev to learn from, for few-label runs: of each class that
    share, at least one clip, drawn by the run's seed; a smaller share is part of a larger one. Test
    stays whole."""
    evaluate_cases: Literal["full", "seven"] = "full"
    """seven: the one chosen model is judged on each of the seven non-empty subsets of
    data.modalities too, on dev and on test: a results row each, and the table
    missing_modalities.md. The step is chosen on all modalities in use, whichever this says."""
    eval_every_steps: PositiveInt = 100
    """Steps between two looks at dev."""
    judge_oracle: bool = True
    """With selection=dev, judge the test clips at each of these looks too, which chooses nothing
    and changes nothing: a row then says beside its figure what a step chosen on test itself would
    have come to (oracle_ua, oracle_gain_ua). Costs a second judging a look. It is no part of a
    run's recipe: rows that are there without these columns stay so until overwrite=true."""
    save_recognizers: bool = True
    """Keep what each run learned beside its row, for finetune.recognizer.load_recognizer: a file of
    weights as large as the checkpoint's. False keeps the numbers alone."""
    array: ArraySettings = ArraySettings()
    overwrite: bool = False
    """True: run again what has a result already."""
    num_resamples: NonNegativeInt = 1000
    """Bootstrap draws behind each row's intervals."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    prompt: PromptConfig = PromptConfig()
    plans: Plans = Plans()
    optim: OptimConfig = OptimConfig()

    def __post_init__(self) -> None:
        for name in ("settings", "seeds", "folds"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) != len(values)):
                raise ValueError(f"{name} {list(values)}; expected at least one, none twice")
        if not self.output.strip():
            raise ValueError("output is empty; expected a folder, such as output=runs/finetune")
        for name in self.targets:
            if slug(name) != name:
                raise ValueError(f"targets.{name}: expected a name of letters, digits, - and _")
        for name in self.own_settings:
            if name in PRESETS or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(
                    f"own_settings.{name}: expected a name of letters, digits, - and _, and none "
                    f"of {', '.join(PRESETS)}, whose plans are set by plans.NAME"
                )
        known = [*PRESETS, *self.own_settings]
        for name in self.settings:
            if name not in known:
                (near,) = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
                raise ValueError(
                    f"settings: there is no {name!r}; the nearest is {near!r} of {', '.join(known)}"
                )
        needs = [
            name
            for name, setting in ((name, self.setting(name)) for name in self.settings)
            if setting.system == "memobert" and setting.weights == "checkpoint"
        ]
        if needs and self.model.checkpoint is None:
            raise ValueError(
                f"{', '.join(needs)} need model.checkpoint; pretrain one with launch/pretrain.sh, "
                "or leave them out of settings"
            )

    def of_targets(self) -> list["FinetuneConfig"]:
        """A config without targets for each of `targets`, or this one."""
        return [
            dataclasses.replace(
                self,
                targets={},
                output=f"{self.output}/{name}",
                data=dataclasses.replace(self.data, **vars(target)),
            )
            for name, target in self.targets.items()
        ] or [self]

    def setting(self, name: str) -> Setting:
        """Weights, head and plan of one of `settings`."""
        if name in self.own_settings:
            return self.own_settings[name]
        weights, head = PRESETS[name]
        return Setting(weights=weights, head=head, plan=getattr(self.plans, name))


def config_digest(config: FinetuneConfig) -> str:
    """16 hex digits of all that a config asks for, whoever does which share of it."""
    whole = dataclasses.replace(config, array=ArraySettings(), overwrite=False)
    return hashlib.sha256(dump_config(whole).encode()).hexdigest()[:16]
