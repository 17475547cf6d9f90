"""`weights: features`: no transformer. A head sees the streams as the shards have them, and text as
the word vectors of a BERT.

What a head makes of features alone is what a pretrained model has to beat, and a head published for
other features (Foal-Net on WavLM and CLIP) is run on those by adding them as streams.

Shapes: N clips, T word pieces, F frames of a stream, C their width, H the sum of all widths.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from data_pipeline.config import ConfigError
from data_pipeline.schema import ClipSample, Passport
from data_pipeline.shards import load_passport
from finetune.clips.labelled import LabelledClip, Modality
from finetune.config import Weights
from finetune.heads.rows import mean_of, rows_of
from finetune.systems.memobert.source import Source
from pretrain.build import build_tokenizer, model_streams
from pretrain.checkpoint.folder import Checkpoint
from pretrain.config import DataSettings
from pretrain.model.batch import Batch
from pretrain.model.bert_init import bert_shape, bert_word_vectors
from pretrain.model.memobert import Encoded
from pretrain.runtime import seed_everything

ANY_LENGTH = 1_000_000


class Features(nn.Module):
    """Streams with mean 0 and deviation 1 over the training frames; fixed word vectors.

    streams: [{"name", "width", "rate_hz"}]. vocab_size, text_width: of the word vectors; a
    text_width of 0 is a model without text.
    """

    def __init__(
        self, *, streams: Sequence[dict[str, Any]], vocab_size: int, text_width: int
    ) -> None:
        super().__init__()
        self.widths = {"text": text_width} if text_width else {}
        self.widths |= {stream["name"]: stream["width"] for stream in streams}
        self.words = nn.Embedding(vocab_size, text_width) if text_width else None
        if self.words is not None:
            self.words.weight.requires_grad_(False)
        for stream in streams:
            self.register_buffer(f"{stream['name']}_mean", torch.zeros(stream["width"]))
            self.register_buffer(f"{stream['name']}_deviation", torch.ones(stream["width"]))

    def standardize(self, clips: Sequence[ClipSample]) -> None:
        """Take mean and deviation of each stream from the frames of these clips."""
        for name in self.widths.keys() - {"text"}:
            frames = [c.streams[name].values_ND.astype(np.float64) for c in clips if c.has(name)]
            if not frames:
                continue
            count = sum(map(len, frames))
            mean_C = sum(values.sum(0) for values in frames) / count
            variance_C = sum(np.square(values - mean_C).sum(0) for values in frames) / count
            deviation_C = np.where(variance_C > 1e-12, np.sqrt(variance_C), 1.0)
            getattr(self, f"{name}_mean").copy_(torch.from_numpy(mean_C))
            getattr(self, f"{name}_deviation").copy_(torch.from_numpy(deviation_C))

    def encode(self, batch: Batch) -> Encoded:
        """The rows themselves; `pooled_NH`: the means of all, side by side, zeros for what a clip
        lacks."""
        frames_NFC = {
            name: (frames.values_NFC - getattr(self, f"{name}_mean"))
            / getattr(self, f"{name}_deviation")
            for name, frames in batch.frames.items()
        }
        nothing_NT0 = torch.zeros(*batch.text_ids_NT.shape, 0, device=batch.text_ids_NT.device)
        rows = Encoded(
            text_NTH=nothing_NT0 if self.words is None else self.words(batch.text_ids_NT),
            frames_NFH=frames_NFC,
            pooled_NH=nothing_NT0[:, 0],
        )
        means = [mean_of(*rows_of(rows, batch, name, C)) for name, C in self.widths.items()]
        return replace(rows, pooled_NH=torch.cat(means, 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSource:
    """Where the models of `weights: features` come from; what `Source` is of the others."""

    shape: dict[str, Any]
    """Arguments of Features, and the word pieces that are read."""
    passport: Passport
    tokenizer: PreTrainedTokenizerBase
    bert: str
    kind: ClassVar[str] = "features"
    checkpoint: ClassVar[Checkpoint | None] = None
    checkpoint_sha256: ClassVar[str] = ""
    pretraining: ClassVar[DataSettings | None] = None

    @classmethod
    def load(
        cls, bert: str, shards: Sequence[str], modalities: Sequence[Modality]
    ) -> "FeatureSource":
        """Raises ConfigError for a modality that the shards lack."""
        names = [name for name in modalities if name != "text"]
        passport = load_passport(shards, names)
        absent = [name for name in names if name not in passport]
        if absent:
            raise ConfigError(
                f"data.modalities lists {', '.join(absent)}, which the shards have not "
                f"({', '.join(shards)}); leave it out, or add it to them: python -m "
                f"data_pipeline.extract 'add=[{absent[0]}]' output=FOLDER"
            )
        told = bert_shape(bert)
        shape = {
            "streams": model_streams(names, passport),
            "vocab_size": told["vocab_size"],
            "text_width": told["width"] if "text" in modalities else 0,
        }
        return cls(shape=shape, passport=passport, tokenizer=build_tokenizer(bert), bert=bert)

    @property
    def reach(self) -> dict[str, Any]:
        """What of `Limits` tables of positions would say, of which there are none."""
        return {"max_text_positions": ANY_LENGTH, "max_frame_positions": ANY_LENGTH}

    @property
    def rates_hz(self) -> dict[str, float]:
        """Stream to rows a second."""
        return {stream["name"]: stream["rate_hz"] for stream in self.shape["streams"]}

    def model(self, weights: Weights, seed: int) -> tuple[Features, list[str]]:
        """A fresh one, and lines for the log."""
        seed_everything(seed)
        model = Features(**self.shape)
        if model.words is None:
            return model, ["no model: a head on the streams"]
        with torch.no_grad():
            model.words.weight.copy_(bert_word_vectors(self.bert))
        return model, [f"no model: a head on the streams and on the word vectors of {self.bert}"]

    def prepare(self, model: Features, train: Sequence[LabelledClip]) -> None:
        """Bring the streams to one scale."""
        model.standardize([clip.sample for clip in train])


AnySource = Source | FeatureSource
