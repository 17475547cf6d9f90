"""MEmoBERT (Zhao et al., ICASSP 2022): one BERT over the words, the face and the voice of a clip.

    [CLS] words [SEP] | face 1 .. F | speech 1 .. S  ->  embedders  ->  encoder  ->  heads

Every position attends to every real position of its clip. The text side keeps the parameter names
of transformers' BertForPreTraining, without the leading `bert.`, so a BERT checkpoint goes in by
name (pretrain.model.bert_init). Which streams stand behind the text, and which objectives have a
head, is data: see the arguments.

Shapes: N clips, T word pieces with [CLS] and [SEP], F frames of a stream, L = T + F + ...,
C feature width, H model width, V vocabulary, M target positions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from safetensors.torch import load_file
from torch import nn

from pretrain.checkpoint.integrity import check_whole, weight_files
from pretrain.model.batch import AnyBatch, Batch, JoinedBatch
from pretrain.model.embeddings import FrameEmbedder, TextEmbedder
from pretrain.model.encoder import Encoder, Pooler
from pretrain.model.heads import WordHead
from pretrain.objectives import OBJECTIVES

HUB_SETTINGS = ("revision", "cache_dir", "force_download", "local_files_only", "token")
"""Of `from_pretrained`: what the hub is told, and not the model."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """The last hidden states, cut back into text and streams; rows of padding mean nothing."""

    text_NTH: torch.Tensor
    frames_NFH: dict[str, torch.Tensor]
    """By stream, those of the batch."""
    pooled_NH: torch.Tensor
    """tanh(Linear([CLS]))."""

    def __getitem__(self, stream: str) -> torch.Tensor:
        """[N, T or F, H] of `text` or of a stream."""
        return self.text_NTH if stream == "text" else self.frames_NFH[stream]


class WeightsMismatch(ValueError):
    """Weights of another size, or of another model."""


class Predictions(nn.Module):
    """Holder of the word head, so that its parameters bear BERT's names."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.predictions = WordHead(width, vocab_size)


class MEmoBert(nn.Module, PyTorchModelHubMixin, library_name="memobert", license="apache-2.0"):
    """The model, its pretraining heads, and `save_pretrained` / `from_pretrained`.

    Args (all saved in config.json):
        vocab_size, width, num_layers, num_heads, ffn_width, max_text_positions: of the BERT it
            starts from; pretrain.model.bert_init.bert_shape reads them off a checkpoint.
        streams: [{"name": ..., "width": C, "rate_hz": rows a second}] of the streams that it
            reads, in the order of the sequence: face and speech in the reference.
        objectives: {name: width of its targets} of those that have a head beside the word head.
        max_frame_positions: rows of each stream's position table.
        dropout: on embeddings, attention and layer outputs.
        positions: "index" of a frame among those kept, as in the reference, or "seconds", its
            true time in ticks of its stream's rate.
        own_type: the streams behind the first one have a type vector each, as in the reference,
            or share BERT's type 1 with it.
        attention: "sdpa", torch's fused kernel, or "plain", the equation written out.
        centered: names of the streams whose frames are read without their clip's mean.
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
        streams: Sequence[dict[str, Any]],
        objectives: dict[str, int],
        max_frame_positions: int = 512,
        dropout: float = 0.1,
        positions: str = "index",
        own_type: bool = True,
        attention: str = "sdpa",
        centered: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if positions not in ("index", "seconds"):
            raise ValueError(f"positions {positions!r} is unknown; choose 'index' or 'seconds'")
        self.positions = positions
        self.attention = attention
        self.target_widths = dict(objectives)
        self.card: str | None = None  # Markdown; goes where the weights go
        self.embeddings = TextEmbedder(vocab_size, width, max_text_positions, dropout)
        self.frame_embeddings = nn.ModuleDict(
            {
                stream["name"]: FrameEmbedder(
                    stream["width"],
                    width,
                    max_frame_positions,
                    dropout,
                    position_hz=stream["rate_hz"] if positions == "seconds" else None,
                    own_type=own_type and place > 0,
                    centered=stream["name"] in centered,
                )
                for place, stream in enumerate(streams)
            }
        )
        self.encoder = Encoder(width, num_layers, num_heads, ffn_width, dropout, attention)
        self.pooler = Pooler(width)
        self.cls = Predictions(width, vocab_size)
        with_head = [name for name in OBJECTIVES if name in objectives]
        self.heads = nn.ModuleDict(
            {name: OBJECTIVES[name].head(width, objectives[name]) for name in with_head}
        )
        self.apply(_init_as_bert)

    def encode(self, batch: Batch) -> Encoded:
        """Hidden states of every position of padded clips.

        Raises:
            ValueError: a frame beyond the position table, or a stream the model was not built for.
        """
        present = [name for name in self.frame_embeddings if name in batch.frames]
        self.embeddings.check_reach(batch.length("text"))
        parts_NLH = [self.embeddings(batch.text_ids_NT), *self._embed_frames(batch, present)]
        keeps_NL = [batch.text_mask_NT, *(batch.frames[name].real_NF for name in present)]
        hidden_NLH = self.encoder(torch.cat(parts_NLH, 1), torch.cat(keeps_NL, 1))
        text_NTH, *pieces = hidden_NLH.split([part.shape[1] for part in parts_NLH], 1)
        return Encoded(
            pooled_NH=self.pooler(hidden_NLH),
            text_NTH=text_NTH,
            frames_NFH=dict(zip(present, pieces, strict=True)),
        )

    def forward(self, batch: AnyBatch) -> dict[str, torch.Tensor]:
        """Objective to its predictions at the target rows alone: logits over the vocabulary [M, V]
        of wwmlm, and what the head of another one gives, such as features [M, C].

        Raises ValueError as `encode` does.
        """
        if isinstance(batch, JoinedBatch):
            hidden = self._encode_joined(batch)
        else:
            encoded = self.encode(batch)
            hidden = {
                name: encoded[OBJECTIVES[name].stream].flatten(0, 1).index_select(0, asked.index_M)
                for name, asked in batch.targets.items()
            }
        return {name: self.predict(name, hidden_MH) for name, hidden_MH in hidden.items()}

    def _encode_joined(self, batch: JoinedBatch) -> dict[str, torch.Tensor]:
        """Objective to the hidden states [M, H] at its targets: nothing else of them is made."""
        self.embeddings.check_reach(batch.longest_text)
        text_RH = self.embeddings(batch.text_ids_R, batch.text_index_R)
        present = [name for name in self.frame_embeddings if name in batch.frames]
        parts_RH = dict(zip(present, self._embed_frames(batch, present), strict=True))
        x_RH = torch.cat([text_RH, *(parts_RH[name] for name in batch.frames)])
        x_PH = x_RH.index_select(0, batch.row_P)
        indices = [asked.index_M for asked in batch.targets.values()]
        hidden_XH = self.encoder(x_PH, batch.segments, torch.cat(indices))
        return dict(zip(batch.targets, hidden_XH.split(list(map(len, indices))), strict=True))

    def _embed_frames(self, batch: AnyBatch, names: Iterable[str]) -> list[torch.Tensor]:
        """Of each of these streams; raises as `encode`."""
        strange = batch.frames.keys() - self.frame_embeddings.keys()
        if strange:
            raise ValueError(
                f"the batch has {', '.join(sorted(strange))}, but the model was built for "
                f"{', '.join(self.frame_embeddings) or 'no stream'}; set model.streams, or "
                "data.limits of these to 0"
            )
        type_H = self.embeddings.token_type_embeddings.weight[1]
        parts = []
        for name in names:
            embed, frames = self.frame_embeddings[name], batch.frames[name]
            embed.check_reach(frames, name)
            parts.append(embed(frames, type_H))
        return parts

    def predict(self, name: str, hidden_MH: torch.Tensor) -> torch.Tensor:
        """What the head of an objective makes of hidden states."""
        if OBJECTIVES[name].head is None:
            return self.mask_logits(hidden_MH)
        input_weight = self.frame_embeddings[OBJECTIVES[name].stream].linear.weight
        return self.heads[name](hidden_MH, input_weight)

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

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **settings: Any
    ) -> "MEmoBert":
        """The model of a run's folder (its newest checkpoint), of a checkpoint's, or of the hub.

        In eval mode. settings: as huggingface_hub's mixin takes them (revision, token, ...), or
        arguments of the model that change no weight, such as attention="plain". One on the hub is
        fetched whole, so that its files are compared with their digests as those of a folder.

        Raises CheckpointError where there is none, a run's folder has no whole one yet, or a file
        of it is gone, cut or altered; WeightsMismatch where the weights are of another model.
        """
        from pretrain.checkpoint.folder import find_checkpoint  # which knows this class

        of_hub = {name: settings.pop(name) for name in HUB_SETTINGS if name in settings}
        folder = find_checkpoint(pretrained_model_name_or_path, **of_hub)
        check_whole(folder)
        return super().from_pretrained(str(folder), **settings)

    def generate_model_card(self, card: str | None = None, **_: Any) -> ModelCard:
        """`card`, or the one that lay beside the weights, or what the model itself knows."""
        from pretrain.checkpoint.card import model_card  # which knows settings and passports

        return ModelCard(card or self.card or model_card(self._hub_mixin_config or {}))

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, map_location: str = "cpu", **kwargs: Any
    ) -> "MEmoBert":
        """As the mixin's, but safetensors only and strict: no tensor may be missing or left."""
        for name in ("strict", *HUB_SETTINGS):
            kwargs.pop(name, None)
        if "vocab_size" not in kwargs:
            raise WeightsMismatch(
                f"{model_id}/config.json has no vocab_size, so it is of another model; expected "
                "that of a MEmoBERT as save_pretrained writes it"
            )
        model = cls(**kwargs)
        paths = weight_files(Path(model_id))
        tensors = {name: tensor for path in paths for name, tensor in load_file(path).items()}
        model.load_weights(tensors, str(paths[0]))
        card = paths[0].with_name("README.md")
        if card.is_file():
            model.card = card.read_text(encoding="utf-8")
        return model.to(map_location).eval()


def _init_as_bert(module: nn.Module) -> None:
    """N(0, 0.02) for matrices and tables, zero for biases; a table's padding row stays zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
