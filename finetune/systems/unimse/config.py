"""What the system can be told: `options` of a setting whose system is unimse."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from data_pipeline.config import NonNegative, Positive
from data_pipeline.paths import PathText

Polarity = Literal["positive", "neutral", "negative"]
Dropout = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of a new T5, for CPUs; what `t5` names has one of its own."""

    d_model: PositiveInt = 64
    """Width."""
    num_layers: PositiveInt = 4
    """Blocks of the encoder, and of the decoder."""
    num_heads: PositiveInt = 4
    """Of each attention, `d_model` / `num_heads` wide; a divisor of `d_model`."""
    d_ff: PositiveInt = 128
    """Inside the feed-forward layers."""
    dropout: Dropout = 0.1
    tokenizer: PathText | None = None
    """Of a folder, package:MODULE/FOLDER or hub name. null is that of the recognizer that ships,
    10,405 word pieces of BERT's: the same in each fold, and label words are whole pieces."""

    def __post_init__(self) -> None:
        if self.d_model % self.num_heads:
            raise ValueError(
                f"num_heads {self.num_heads} does not divide d_model {self.d_model}; choose one "
                "that does"
            )


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """How streams come into the T5."""

    num_blocks: NonNegativeInt = 3
    """The last so many blocks of encoder and of decoder have one; 0: the T5 reads the words alone,
    and no stream."""
    bottleneck: PositiveInt = 64
    """Width between its two layers."""
    hidden: PositiveInt = 32
    """Width of a stream's LSTM, and of what stands for the stream."""
    dropout: Dropout = 0.3
    """On an LSTM's last state."""
    form: Literal["residual", "official"] = "residual"
    """residual: added to what the T5's own block made, from nearly nothing on. official: put in its
    place, by a layer that starts as noise, as in the released code."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """InfoNCE between the words and each stream, in the encoder's blocks that have an adapter."""

    weight: NonNegative = 0.5
    """Of each stream's loss; 0 leaves it out."""
    temperature: Positive = 0.1
    """Cosines are divided by it."""
    width: PositiveInt = 30
    """In which they are compared."""
    blocks: Literal["mean", "last"] = "mean"
    """last: of the last block alone, which is what the released code comes to."""
    padding: Literal["excluded", "included"] = "excluded"
    """included: means run over padding too, as in the released code."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A corpus that lends its labels: a CSV of texts with labels of one kind."""

    table: PathText
    """Of training texts alone: what is judged anywhere should not be in it."""
    text: str = "text"
    """Column of what is said."""
    label: str = "label"
    """Column of the label: a name of an emotion, or a sentiment from -3 to 3."""
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Emotion -> the labels that mean it, case aside; rows of others are left out, and counted.
    Empty: the column holds sentiments."""
    scores: dict[str, Annotated[float, Field(ge=-3, le=3)]] = field(default_factory=dict)
    """For a column of words such as negative: word -> its sentiment."""
    learn: NonNegativeInt = 0
    """So many of its texts, drawn by the run's seed, are training clips too, without streams."""

    def __post_init__(self) -> None:
        if self.labels and self.scores:
            raise ValueError("labels and scores are both given, and a source has one kind")


@dataclass(frozen=True, kw_only=True)
class Options:
    """One setting."""

    t5: PathText | None = None
    """Pretrained: a folder, package:MODULE/FOLDER or hub name, such as google-t5/t5-base. null: a
    new one, of `shape`."""
    shape: Shape | None = None
    """Of a new T5; null is the default one."""
    learning_blocks: NonNegativeInt | None = None
    """The last so many blocks of the T5's encoder and decoder learn, the rest of it stays as it is;
    2 in the released code. null: all of it learns."""
    prefix: str = "sst2 sentence: "
    """Stands before the words."""
    adapters: Adapters = Adapters()
    contrast: Contrast = Contrast()
    score: str | None = None
    """Column of the clips with their own sentiment, from -3 to 3; null: they have none."""
    sources: dict[str, Source] = field(default_factory=dict)
    """Name -> a corpus with labels of another kind. A clip's answer has a field for each kind, and
    what it lacks it takes from the most similar text of its polarity."""
    polarity: dict[str, Polarity] = field(default_factory=dict)
    """Emotion -> polarity, for names that labels/universal.py does not know, or otherwise."""
    similarity: PathText | None = None
    """Sentence encoder that tells how alike texts are: a folder, package:MODULE/FOLDER or hub name,
    mean of its last states. null: TF-IDF of words."""
    decode: Literal["likelihood", "generate"] = "likelihood"
    """What is judged: the class whose answer is likeliest, or what the generated answer says, where
    one that says no class is wrong and counted."""

    def __post_init__(self) -> None:
        if self.t5 is not None and self.shape is not None:
            raise ValueError("t5 and shape are both given, and a T5 has a shape; leave one out")
        if taken := {"polarity", "score", "emotion"} & self.sources.keys():
            raise ValueError(
                f"sources.{taken.pop()}: an answer has a field of that name already; call it "
                "otherwise"
            )
