"""MEmoBERT (Zhao et al., ICASSP 2022): one BERT over the words, the face and the voice of a clip.

    [CLS] words [SEP] | face 1 .. F | speech 1 .. S  ->  embedders  ->  encoder  ->  heads

Every position attends to every real position of its clip. The text side keeps the parameter names
of transformers' BertForPreTraining, without the leading `bert.`, so a BERT checkpoint goes in by
name (pretrain.model.bert_init).

Shapes: N clips, T word pieces with [CLS] and [SEP], F face frames, S speech states,
L = T + F + S, C feature width, H model width, V vocabulary, M target positions.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from safetensors.torch import load_file
from torch import nn

from pretrain.integrity import check_whole, weight_files
from pretrain.model.embeddings import FACE_HZ, SPEECH_HZ, FrameEmbedder, TextEmbedder
from pretrain.model.encoder import Encoder, Pooler
from pretrain.model.heads import ExpressionHead, FrameHead, WordHead


class Targets(Protocol):
    """Where a task looks: flat positions into the padded [N, T], [N, F] or [N, S]."""

    index_M: torch.Tensor


class Batch(Protocol):
    """What the model reads of a batch; pretrain.example.collate makes one.

    A modality that no clip of the batch has is None.
    """

    text_ids_NT: torch.Tensor
    text_mask_NT: torch.Tensor
    face_NFC: torch.Tensor | None
    face_mask_NF: torch.Tensor | None
    face_masked_NF: torch.Tensor | None
    face_seconds_NF: torch.Tensor | None
    face_last_seconds: float
    speech_NSD: torch.Tensor | None
    speech_mask_NS: torch.Tensor | None
    speech_masked_NS: torch.Tensor | None
    speech_seconds_NS: torch.Tensor | None
    speech_last_seconds: float
    targets: dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """The last hidden states, cut back into modalities; rows of padding mean nothing."""

    text_NTH: torch.Tensor
    face_NFH: torch.Tensor | None
    speech_NSH: torch.Tensor | None
    pooled_NH: torch.Tensor
    """tanh(Linear([CLS]))."""


class WeightsMismatch(ValueError):
    """Weights of another size, or of another model."""


class Predictions(nn.Module):
    """Holder of the word head, so that its parameters bear BERT's names."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.predictions = WordHead(width, vocab_size)


class MEmoBert(nn.Module, PyTorchModelHubMixin, library_name="memobert", license="apache-2.0"):
    """The model, its four pretraining heads, and `save_pretrained` / `from_pretrained`.

    Args (all saved in config.json):
        vocab_size, width, num_layers, num_heads, ffn_width, max_text_positions: of the BERT it
            starts from; pretrain.model.bert_init.bert_shape reads them off a checkpoint.
        face_width: width of a face feature; None builds a model without faces.
        speech_width: width of a speech state; None builds a model without speech.
        num_expressions: classes of MVFC.
        max_frame_positions: rows of the face's and of the speech's position table.
        dropout: on embeddings, attention and layer outputs.
        positions: "index" of a frame among those kept, as in the reference, or "seconds", its
            true time (10 face ticks and 16.7 speech ticks a second).
        speech_type: "separate", its own type vector, as in the reference, or "shared", BERT's
            type 1, which is the face's. Without faces speech takes type 1, as in the reference.
        attention: "sdpa", torch's fused kernel, or "plain", the equation written out.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        width: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        ffn_width: int = 3072,
        max_text_positions: int = 512,
        face_width: int | None = 342,
        speech_width: int | None = 768,
        num_expressions: int = 8,
        max_frame_positions: int = 512,
        dropout: float = 0.1,
        positions: str = "index",
        speech_type: str = "separate",
        attention: str = "sdpa",
    ) -> None:
        super().__init__()
        if positions not in ("index", "seconds"):
            raise ValueError(f"positions {positions!r} is unknown; choose 'index' or 'seconds'")
        if speech_type not in ("separate", "shared"):
            raise ValueError(f"speech_type {speech_type!r}: choose 'separate' or 'shared'")
        self.positions = positions
        self.attention = attention
        self.card: str | None = None  # Markdown; goes where the weights go

        def frames(feature_width: int, hz: float, own_type: bool) -> FrameEmbedder:
            position_hz = hz if positions == "seconds" else None
            return FrameEmbedder(
                feature_width, width, max_frame_positions, dropout, position_hz, own_type
            )

        self.embeddings = TextEmbedder(vocab_size, width, max_text_positions, dropout)
        self.face_embeddings = self.speech_embeddings = None
        if face_width is not None:
            self.face_embeddings = frames(face_width, FACE_HZ, own_type=False)
        if speech_width is not None:
            own_type = speech_type == "separate" and face_width is not None
            self.speech_embeddings = frames(speech_width, SPEECH_HZ, own_type)
        self.encoder = Encoder(width, num_layers, num_heads, ffn_width, dropout, attention)
        self.pooler = Pooler(width)
        self.cls = Predictions(width, vocab_size)
        if face_width is not None:
            self.face_regression = FrameHead(width, face_width)
            self.face_expression = ExpressionHead(width, num_expressions)
        if speech_width is not None:
            self.speech_regression = FrameHead(width, speech_width)
        self.apply(_init_as_bert)

    def encode(self, batch: Batch) -> Encoded:
        """Hidden states of every position.

        Raises:
            ValueError: a frame beyond the position table, or a modality the model was not
                built for.
        """
        parts_NLH = [self.embeddings(batch.text_ids_NT)]
        keeps_NL = [batch.text_mask_NT]
        type_H = self.embeddings.token_type_embeddings.weight[1]
        if batch.face_NFC is not None:
            embed = self._embedder("face")
            embed.check_reach(batch.face_NFC.shape[1], batch.face_last_seconds, "faces")
            parts_NLH.append(
                embed(batch.face_NFC, batch.face_masked_NF, batch.face_seconds_NF, type_H)
            )
            keeps_NL.append(batch.face_mask_NF)
        if batch.speech_NSD is not None:
            embed = self._embedder("speech")
            embed.check_reach(batch.speech_NSD.shape[1], batch.speech_last_seconds, "speech")
            parts_NLH.append(
                embed(batch.speech_NSD, batch.speech_masked_NS, batch.speech_seconds_NS, type_H)
            )
            keeps_NL.append(batch.speech_mask_NS)

        hidden_NLH = self.encoder(torch.cat(parts_NLH, 1), torch.cat(keeps_NL, 1))
        pieces = list(hidden_NLH.split([part.shape[1] for part in parts_NLH], 1))
        return Encoded(
            pooled_NH=self.pooler(hidden_NLH),
            text_NTH=pieces.pop(0),
            face_NFH=pieces.pop(0) if batch.face_NFC is not None else None,
            speech_NSH=pieces.pop(0) if batch.speech_NSD is not None else None,
        )

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Task to its predictions at the target rows alone.

        wwmlm logits [M, V]; span_mvfr features [M, 342]; span_mvfc_kl logits [M, 8];
        span_mafr features [M, D].
        """
        encoded = self.encode(batch)
        predictions = {}
        for task, targets in batch.targets.items():
            if task == "wwmlm":
                out = self.mask_logits(_rows(encoded.text_NTH, targets))
            elif task == "span_mvfr":
                linear_HC = self.face_embeddings.linear.weight
                out = self.face_regression(_rows(encoded.face_NFH, targets), linear_HC)
            elif task == "span_mvfc_kl":
                out = self.face_expression(_rows(encoded.face_NFH, targets))
            elif task == "span_mafr":
                linear_HC = self.speech_embeddings.linear.weight
                out = self.speech_regression(_rows(encoded.speech_NSH, targets), linear_HC)
            else:
                raise ValueError(f"no head for the task {task!r}")
            predictions[task] = out
        return predictions

    def mask_logits(self, hidden_MH: torch.Tensor) -> torch.Tensor:
        """The word head: hidden states [M, H] to logits over the vocabulary [M, V]."""
        return self.cls.predictions(hidden_MH, self.embeddings.word_embeddings.weight)

    def load_weights(self, tensors: dict[str, torch.Tensor], where: str) -> None:
        """Copy `tensors` in, every one of them and nothing else.

        Raises:
            WeightsMismatch: a tensor is missing, unknown, or of another shape; the message names
                the first few with both shapes.
        """
        own = self.state_dict()
        problems = [
            f"{name}: found {list(tensors[name].shape)}, expected {list(own[name].shape)}"
            for name in own
            if name in tensors and tensors[name].shape != own[name].shape
        ]
        problems += [f"{name}: missing there" for name in own if name not in tensors]
        problems += [f"{name}: unknown to this model" for name in tensors if name not in own]
        if problems:
            more = f"\n  and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise WeightsMismatch(
                f"{where} does not fit this model:\n  "
                + "\n  ".join(problems[:5])
                + more
                + "\nBuild the model with the sizes in the config.json beside those weights, "
                "or point to another checkpoint."
            )
        self.load_state_dict(tensors)

    def _embedder(self, modality: str) -> FrameEmbedder:
        embedder = getattr(self, f"{modality}_embeddings")
        if embedder is None:
            raise ValueError(
                f"the batch has {modality} frames, but the model was built without "
                f"({modality}_width is null); set its width, or limit {modality} frames to 0"
            )
        return embedder

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **settings: Any
    ) -> "MEmoBert":
        """The model of a run's folder (its newest checkpoint), of a checkpoint's, or of the hub.

        In eval mode. settings: as huggingface_hub's mixin takes them (revision, token, ...), or
        arguments of the model that change no weight, such as attention="plain".

        Raises CheckpointError where a run's folder has no whole checkpoint yet, or a file of it is
        gone, cut or altered; FileNotFoundError where there is none at all; WeightsMismatch where
        the weights are of another model.
        """
        from pretrain.checkpoint import find_checkpoint  # which knows this class

        where = str(pretrained_model_name_or_path)
        if os.path.isdir(where):
            where = str(find_checkpoint(where))
            check_whole(Path(where))
        elif where.count("/") != 1 or where[0] in "./~":  # no name on the hub
            raise FileNotFoundError(
                f"no folder {where}; expected that of a pretraining run or of a checkpoint, or a "
                "name on the hub (OWNER/NAME)"
            )
        return super().from_pretrained(where, **settings)

    def generate_model_card(self, card: str | None = None, **_: Any) -> ModelCard:
        """`card`, or the one that lay beside the weights, or what the model itself knows."""
        from pretrain.card import model_card  # which knows settings and passports

        return ModelCard(card or self.card or model_card(self._hub_mixin_config or {}))

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, map_location: str = "cpu", **kwargs: Any
    ) -> "MEmoBert":
        """As the mixin's, but safetensors only and strict: no tensor may be missing or left."""
        hub = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        hub_kwargs = {name: kwargs.pop(name) for name in hub if name in kwargs}
        kwargs.pop("strict", None)
        if "vocab_size" not in kwargs:
            raise FileNotFoundError(
                f"no config.json at {model_id}; expected a checkpoint folder as save_pretrained "
                "writes it, or the name of one on the hub"
            )
        model = cls(**kwargs)
        if os.path.isdir(model_id):
            paths = weight_files(Path(model_id))
        else:
            paths = [Path(hf_hub_download(model_id, SAFETENSORS_SINGLE_FILE, **hub_kwargs))]
        tensors = {name: tensor for path in paths for name, tensor in load_file(path).items()}
        model.load_weights(tensors, str(paths[0]))
        card = paths[0].with_name("README.md")
        if card.is_file():
            model.card = card.read_text(encoding="utf-8")
        return model.to(map_location).eval()


def _rows(hidden_NLH: torch.Tensor, targets: Targets) -> torch.Tensor:
    return hidden_NLH.flatten(0, 1).index_select(0, targets.index_M)


def _init_as_bert(module: nn.Module) -> None:
    """N(0, 0.02) for matrices and tables, zero for biases; a table's padding row stays zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
