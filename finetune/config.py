"""What a finetuning run can be told. Defaults are those of MEmoBERT's own runs.

The four settings differ in where the weights come from and in how an emotion is read off:

    direct             new weights                 linear head on [CLS]
    bert_direct        text side from BERT         linear head
    pretrain_finetune  multimodal checkpoint       linear head
    pretrain_prompt    multimodal checkpoint       "I am [MASK] .", no new weights
"""

from dataclasses import dataclass, field
from typing import Literal

from data_pipeline.paths import PathText, check_distinct
from finetune.datasets import Modality
from finetune.protocols import Group

Setting = Literal["direct", "bert_direct", "pretrain_finetune", "pretrain_prompt"]
Limit = int | Literal["checkpoint"] | None
"""checkpoint: what pretraining read; null: no limit, as in pretraining's own config."""
NO_LIMIT = "null is no limit"
SETTINGS: tuple[Setting, ...] = ("direct", "bert_direct", "pretrain_finetune", "pretrain_prompt")


@dataclass(frozen=True, kw_only=True)
class Deal:
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
    """Labelled clips, and how much of each is read. Of the three limits max_text_pieces,
    max_face_frames and max_speech_frames, `checkpoint` is as many as pretraining read (without a
    checkpoint: null), null is no limit but the model's positions, and 0 leaves the modality out."""

    shards: tuple[PathText, ...] = ("runs/demo/samples/shards",)
    """Folders that extraction wrote."""
    protocol: PathText | None = None
    """Fold file; make one with python -m finetune.protocols make. null deals the folds as `deal`
    says and writes the file to `output`."""
    deal: Deal = Deal()
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
    max_text_pieces: Limit = 120
    """Word pieces of an utterance; the rest is cut off, the prompt never is."""
    long_texts: Literal["cut", "drop"] = "cut"
    """drop: as in MEmoBERT's own runs a clip whose pieces, the prompt's among them, are more than
    max_text_pieces is left out of training, and with a prompt one of more than max_judged_pieces
    out of dev and test, which flatters the result; both are counted in the notes."""
    max_judged_pieces: int = 60
    """Where long_texts=drop leaves out dev and test clips of pretrain_prompt."""
    max_face_frames: Limit = field(
        default="checkpoint",
        metadata={"formerly": {"max_faces": f"its null is now `checkpoint`; {NO_LIMIT}"}},
    )
    """Face frames, from the start (MEmoBERT: 36)."""
    max_speech_frames: Limit = field(
        default="checkpoint",
        metadata={"formerly": {"max_speech_states": f"its null is now `checkpoint`; {NO_LIMIT}"}},
    )
    """Speech states of 60 ms, from the start (MEmoBERT: 64, which is 3.8 s)."""

    def __post_init__(self) -> None:
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ValueError(
                f"modalities {list(self.modalities)}; expected one or more, none twice"
            )
        for name in ("max_text_pieces", "max_face_frames", "max_speech_frames"):
            limit = getattr(self, name)
            if isinstance(limit, int) and limit < 0:
                raise ValueError(f"{name} {limit}; expected at least 0")
        if self.max_judged_pieces < 1:
            raise ValueError(f"max_judged_pieces {self.max_judged_pieces}; expected at least 1")
        check_distinct("data.shards", self.shards)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the weights come from."""

    checkpoint: PathText | None = "runs/demo/samples/pretrain"
    """Folder of a pretraining run or of one checkpoint. Its shape is that of direct and bert_direct
    too. null: the shape of `bert`, with the features' widths, and no pretrain_ settings."""
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
class Plan:
    """How one setting is trained."""

    learning_rate: float = 5e-5
    """Peak."""
    warmup_steps: int = 0
    """Steps of linear rise; then the rate falls linearly to 0."""
    num_steps: int = 2000
    """Optimizer steps of a run."""
    patience: int | None = None
    """Evaluations without a better UA after which training stops; null never stops early."""
    modality_cases: Literal["full", "seven"] = "full"
    """seven: each training step sees one of the seven non-empty subsets of data.modalities, drawn
    evenly, as in MEmoBERT's best prompt runs. What is judged, see evaluate_cases."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps < self.num_steps:
            raise ValueError(
                f"{self.warmup_steps} warmup_steps of {self.num_steps} num_steps; expected fewer "
                "steps of warm-up than steps, and at least one step"
            )
        if self.learning_rate <= 0 or (self.patience is not None and self.patience < 1):
            raise ValueError(
                f"learning_rate {self.learning_rate}, patience {self.patience}; expected a rate "
                "above 0, and a patience of at least 1 or null"
            )


# A class for each default, so that a YAML which sets one field of a plan keeps the others.
@dataclass(frozen=True, kw_only=True)
class ScratchPlan(Plan):
    """How a model without pretraining is trained."""

    patience: int | None = 5


@dataclass(frozen=True, kw_only=True)
class CheckpointPlan(Plan):
    """How a head on the pretrained model is trained."""

    num_steps: int = 1500
    patience: int | None = 5


@dataclass(frozen=True, kw_only=True)
class PromptPlan(Plan):
    """How the prompt is trained."""

    learning_rate: float = 3e-5
    warmup_steps: int = 100
    num_steps: int = 2500


@dataclass(frozen=True, kw_only=True)
class Plans:
    """How each of the four settings is trained."""

    direct: ScratchPlan = ScratchPlan()
    bert_direct: ScratchPlan = ScratchPlan()
    pretrain_finetune: CheckpointPlan = CheckpointPlan()
    pretrain_prompt: PromptPlan = PromptPlan()

    def of(self, setting: Setting) -> Plan:
        return getattr(self, setting)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Of every setting's training."""

    batch_size: int = 32
    """Clips a step, over all processes together."""
    weight_decay: float = 0.01
    """Not on biases and on LayerNorm weights."""
    max_grad_norm: float = 5.0
    """Longest gradient, over all weights together."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16, weights and their updates in float32."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.max_grad_norm <= 0 or self.weight_decay < 0:
            raise ValueError(
                f"batch_size {self.batch_size}, max_grad_norm {self.max_grad_norm}, weight_decay "
                f"{self.weight_decay}; expected at least 1, above 0, at least 0"
            )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Settings x folds x seeds."""

    settings: tuple[Setting, ...] = SETTINGS
    """Which of the four are run."""
    output: PathText = "runs/finetune"
    """Results, curves, tables."""
    folds: tuple[int, ...] | None = None
    """Folds of the protocol to run; null is all."""
    seeds: tuple[int, ...] = (1234, 4321, 5678)
    """A run each: of new weights, order and dropout."""
    selection: Literal["dev", "oracle", "last"] = "dev"
    """Which step is reported: the best UA on dev, the best on test itself (oracle: a number to
    compare with papers that did so, never an honest one), or the last."""
    train_on: Literal["train", "train+dev"] = "train"
    """train+dev: learn from the dev clips too. With selection=dev the step is chosen first, by a
    training on train alone judged on dev; then a new model is trained on both for as many steps, at
    the same rates. With oracle it is MEmoBERT's `trnval`, with last the whole plan."""
    label_share: float = 1.0
    """Share of the labels of train and of dev to learn from, for few-label runs: of each class that
    share, at least one clip, drawn by the run's seed; a smaller share is part of a larger one. Test
    stays whole."""
    evaluate_cases: Literal["full", "seven"] = "full"
    """seven: the one chosen model is judged on each of the seven non-empty subsets of
    data.modalities too, on dev and on test: a results row each, and the table
    missing_modalities.md. The step is chosen on all modalities in use, whichever this says."""
    eval_every_steps: int = 100
    """Steps between two looks at dev."""
    overwrite: bool = False
    """True: run again what has a result already."""
    num_resamples: int = 1000
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
        if not all(0 <= seed < 2**63 for seed in self.seeds):
            raise ValueError(f"seeds {list(self.seeds)}; expected 0 or more, below 2**63")
        if not self.output.strip():
            raise ValueError("output is empty; expected a folder, such as output=runs/finetune")
        if self.eval_every_steps < 1 or self.num_resamples < 0:
            raise ValueError(
                f"eval_every_steps {self.eval_every_steps}, num_resamples {self.num_resamples}; "
                "expected at least 1, at least 0"
            )
        if not 0 < self.label_share <= 1:
            raise ValueError(f"label_share {self.label_share}; expected above 0, up to 1 (all)")
        needs = [setting for setting in self.settings if setting.startswith("pretrain")]
        if needs and self.model.checkpoint is None:
            raise ValueError(
                f"{', '.join(needs)} need model.checkpoint; pretrain one with launch/pretrain.sh, "
                "or leave them out of settings"
            )
