"""Foal-Net (Li, Gao, Wen, Liang, Yu and Zhang, Interspeech 2024, arXiv:2408.09438).

Two streams are brought together before they are fused, and fused twice over:

    AVEL    audio-video emotion alignment: contrast of the two streams' means, in which all clips of
            one label belong together; batch_losses
    fusion  two stacks of cross-attention, audio asks video and video asks audio
    MEM     emotion label matching: told apart from its own, the other stream of a clip with another
            label, drawn where the contrast is most mistaken; batch_losses

and the loss is cross-entropy + 1.0 AVEL + 0.1 MEM. What the official code does otherwise than the
paper is a switch of FoalNetSettings, off by default.

A clip that lacks one of the streams is classified by the other one, and takes no part in AVEL and
MEM. N clips of this process, B of the whole batch, F rows of a stream, C its width, P = 512.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import nn

from data_pipeline.config import ConfigError, NonNegative, Positive, Share
from finetune.heads import register
from finetune.heads.base import Head, HeadOutput, HeadParts
from finetune.heads.rows import mean_of, rows_of
from pretrain.model.batch import Batch
from pretrain.model.memobert import Encoded

HIDDEN = -1e4
"""What a masked place adds to a logit: finite, so that a row of nothing else stays a number."""
PAPER_TEMPERATURE = 0.07
OFFICIAL_TEMPERATURE = 2.659260  # log(1 / 0.07), which the official code divides by
LEAST_TEMPERATURE = 0.01
Rows = tuple[torch.Tensor, torch.Tensor]
"""Of a stream, zeros at padding [N, F, C], and which are real [N, F]."""


@dataclass(frozen=True, kw_only=True)
class FoalNetSettings:
    """Foal-Net as the paper means it."""

    audio: str = "speech"
    """The stream that stands for WavLM's states."""
    video: str = "face"
    """The stream that stands for CLIP's."""
    num_layers: PositiveInt = 2
    """Cross-attention layers of each stack."""
    num_heads: PositiveInt = 4
    """Attention heads; they divide the width of both streams."""
    projection: PositiveInt = 512
    """Width in which the streams are contrasted."""
    dropout: Share = 0.1
    """On both streams, and before the classifier."""
    projection_dropout: Share = 0.5
    """Inside the projections that are contrasted."""
    attention_dropout: Share = 0.1
    """On the output of an attention, whose weights have none."""
    avel: NonNegative = 1.0
    """Weight of the alignment; 0 leaves it out."""
    mem: NonNegative = 0.1
    """Weight of the matching; 0 leaves it out."""
    temperature: Positive | Literal["official"] = PAPER_TEMPERATURE
    """What similarities are divided by when training starts; it is learned. official: log(1 / 0.07)
    = 2.66, which leaves all within 0.38 of 0 and draws MEM's negatives almost evenly."""
    positives: Literal["mean", "sum"] = "mean"
    """How a clip's loss is made of those of all clips with its label. sum: as the official code,
    where it grows with the batch."""
    mem_in_evaluation: bool = False
    """True: negatives are drawn, and MEM counts in the loss, when clips are judged too, among those
    judged together."""
    mem_twice: bool = False
    """True: a clip's own pair runs through the stacks once more for MEM, with dropout of its own,
    instead of once for both; slower."""


@register("foal_net")
class FoalNetHead(Head):
    """Alignment, cross-attention and matching of two streams."""

    Settings = FoalNetSettings

    def __init__(
        self, widths: tuple[int, int], num_classes: int, settings: FoalNetSettings
    ) -> None:
        super().__init__()
        self.settings = settings
        self.reads = (settings.audio, settings.video)
        self.widths = dict(zip(self.reads, widths, strict=True))
        audio, video = widths
        layers, heads = settings.num_layers, settings.num_heads
        projected = settings.projection, settings.projection_dropout
        self.audio_projection = Projection(audio, *projected)
        self.video_projection = Projection(video, *projected)
        stack = layers, heads, settings.attention_dropout
        self.audio_stack = CrossAttention(audio, video, *stack)
        self.video_stack = CrossAttention(video, audio, *stack)
        self.audio_match, self.video_match = nn.Linear(audio, 2), nn.Linear(video, 2)
        self.dropout = nn.Dropout(settings.dropout)
        self.classifier = nn.Linear(audio + video, num_classes)
        official = settings.temperature == "official"
        start = OFFICIAL_TEMPERATURE if official else settings.temperature
        self.temperature = nn.Parameter(torch.tensor(float(start)))
        self.apply(_init)
        self.draws = torch.Generator().manual_seed(torch.initial_seed())
        """Of MEM's negatives: its own, so that all processes draw the same."""

    @classmethod
    def build(cls, parts: HeadParts) -> "FoalNetHead":
        settings: FoalNetSettings = parts.settings
        names = (settings.audio, settings.video)
        absent = [name for name in names if name not in parts.widths]
        if absent or names[0] == names[1]:
            raise ConfigError(
                f"head foal_net reads audio={names[0]} and video={names[1]}, and there are "
                f"{', '.join(parts.widths)}; set options.audio and options.video, or name "
                f"{', '.join(absent) or 'another one'} in data.modalities"
            )
        for name in names:
            width = parts.widths[name]
            if width % settings.num_heads:
                raise ConfigError(
                    f"options.num_heads {settings.num_heads} does not divide the {width} numbers "
                    f"of {name}; choose one that divides both streams"
                )
        widths = (parts.widths[names[0]], parts.widths[names[1]])
        return cls(widths, len(parts.classes), settings)

    def forward(self, encoded: Encoded, batch: Batch, label_N: torch.Tensor) -> HeadOutput:
        audio, video = (
            (self.dropout(values_NFC), real_NF)
            for values_NFC, real_NF in (
                rows_of(encoded, batch, name, C) for name, C in self.widths.items()
            )
        )
        fused_NC = self._fuse(audio, video)
        scores_NC = self.classifier(self.dropout(torch.cat(fused_NC, 1))).float()
        losses = {"cross_entropy": F.cross_entropy(scores_NC, label_N, reduction="sum")}
        if not self.settings.avel and not self.settings.mem:
            return HeadOutput(scores_NC=scores_NC, losses=losses)
        shared = {
            "audio_NFC": audio[0],
            "audio_real_NF": audio[1].float(),
            "video_NFC": video[0],
            "video_real_NF": video[1].float(),
            "audio_NC": fused_NC[0],
            "video_NC": fused_NC[1],
        }
        if self.settings.mem_in_evaluation and self.settings.mem and not self.training:
            both = Both(shared)
            # Draws of its own, the same each time: to judge more or less changes no training.
            draws = torch.Generator().manual_seed(0)
            losses |= self._mem(both, self._similarities(both), label_N, slice(None), draws)
        return HeadOutput(scores_NC=scores_NC, losses=losses, shared=shared)

    def batch_losses(
        self, shared: dict[str, torch.Tensor], label_B: torch.Tensor, mine: slice
    ) -> dict[str, torch.Tensor]:
        both = Both(shared)
        logits = self._similarities(both)
        losses = {}
        if self.settings.avel:
            heard, seen = (
                alignment_loss(logits_BB, label_B, both.has_B, self.settings.positives)[mine].sum()
                for logits_BB in logits
            )
            losses["avel"] = self.settings.avel * (heard + seen) / 2
        if self.settings.mem:
            losses |= self._mem(both, logits, label_B, mine, self.draws)
        return losses

    def _similarities(self, both: "Both") -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [B, B] of each audio with each video, and of each video with each audio."""
        audio_BP = self.audio_projection(mean_of(*both.audio))
        video_BP = self.video_projection(mean_of(*both.video))
        cosine_BB = F.normalize(audio_BP, dim=-1) @ F.normalize(video_BP, dim=-1).T
        # Held above its least where it divides, not where it learns: it can come back.
        held = self.temperature + (LEAST_TEMPERATURE - self.temperature).clamp(min=0).detach()
        logits_BB = cosine_BB.float() / held
        return logits_BB, logits_BB.T

    def _mem(
        self,
        both: "Both",
        logits: tuple[torch.Tensor, torch.Tensor],
        label_B: torch.Tensor,
        mine: slice,
        draws: torch.Generator,
    ) -> dict[str, torch.Tensor]:
        """Own pairs told from drawn ones, summed over the clips `mine`: the mean of both branches,
        each the mean of its two pairs. In a batch of one label nothing can be drawn: it is 0."""
        others_BB = negatives(label_B, both.has_B)
        video_N, audio_N = (
            draw(masked_softmax(logits_BB.detach(), others_BB), draws)[mine] for logits_BB in logits
        )
        audio, video = both.rows(both.audio, mine), both.rows(both.video, mine)
        wrong = (
            _asked(self.audio_stack, audio, both.rows(both.video, video_N)),
            _asked(self.video_stack, video, both.rows(both.audio, audio_N)),
        )
        own = tuple(mean_BC[mine] for mean_BC in both.fused)
        if self.settings.mem_twice:
            own = self._fuse(audio, video)
        counted_N = (both.has_B & others_BB.any(1))[mine]
        loss = 0.0
        for match, own_NC, wrong_NC in zip(
            (self.audio_match, self.video_match), own, wrong, strict=True
        ):
            for pair_NC, truth in ((own_NC, 1), (wrong_NC, 0)):
                log_N = F.log_softmax(match(pair_NC).float(), -1)[:, truth]
                loss = loss - torch.where(counted_N, log_N, 0.0).sum() / 4
        return {"mem": self.settings.mem * loss}

    def _fuse(self, audio: Rows, video: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """Each stream as the other one answers it: means over its rows, [N, C] of both widths."""
        return _asked(self.audio_stack, audio, video), _asked(self.video_stack, video, audio)


class Both:
    """Both streams of a whole batch, as `forward` shared them."""

    def __init__(self, shared: dict[str, torch.Tensor]) -> None:
        self.audio: Rows = (shared["audio_NFC"], shared["audio_real_NF"] > 0)
        self.video: Rows = (shared["video_NFC"], shared["video_real_NF"] > 0)
        self.fused = (shared["audio_NC"], shared["video_NC"])
        self.has_B = self.audio[1].any(1) & self.video[1].any(1)
        """Clips that have both."""

    @staticmethod
    def rows(stream: Rows, clips: slice | torch.Tensor) -> Rows:
        return stream[0][clips], stream[1][clips]


def _asked(stack: "CrossAttention", rows: Rows, other: Rows) -> torch.Tensor:
    return mean_of(stack(rows[0], *other), rows[1])


class Projection(nn.Module):
    """e1 = W1 x; LN(e1 + Dropout(W2 gelu(e1)))."""

    def __init__(self, width: int, projected: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(width, projected, bias=False)
        self.second = nn.Linear(projected, projected)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(projected)

    def forward(self, mean_NC: torch.Tensor) -> torch.Tensor:
        first_NP = self.first(mean_NC)
        return self.norm(first_NP + self.dropout(self.second(F.gelu(first_NP))))


class CrossAttention(nn.Module):
    """Layers in which the rows of one stream ask the other one, unchanged in each."""

    def __init__(
        self, width: int, other: int, num_layers: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            CrossAttentionLayer(width, other, num_heads, dropout) for _ in range(num_layers)
        )

    def forward(
        self, rows_NFC: torch.Tensor, other_NGD: torch.Tensor, other_real_NG: torch.Tensor
    ) -> torch.Tensor:
        for layer in self.layers:
            rows_NFC = layer(rows_NFC, other_NGD, other_real_NG)
        return rows_NFC


class CrossAttentionLayer(nn.Module):
    """LN(q + Dropout(W_o Attn(q, k, v))), without a feed-forward part."""

    def __init__(self, width: int, other: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.answer = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(other, width), nn.Linear(other, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, rows_NFC: torch.Tensor, other_NGD: torch.Tensor, other_real_NG: torch.Tensor
    ) -> torch.Tensor:
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query(rows_NFC), self.key(other_NGD), self.value(other_NGD))
        )
        hidden_N11G = (~other_real_NG[:, None, None]).to(query.dtype) * HIDDEN
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=hidden_N11G)
        answer_NFC = self.answer(found.transpose(1, 2).flatten(2))
        return self.norm(rows_NFC + self.dropout(answer_NFC))


def alignment_loss(
    logits_BB: torch.Tensor, label_B: torch.Tensor, has_B: torch.Tensor, positives: str
) -> torch.Tensor:
    """AVEL of each row [B]: minus log softmax at all clips of its label, summed or averaged.

    has_B: clips with both streams; the others are neither asked nor among the answers.
    """
    log_BB = F.log_softmax(logits_BB.masked_fill(~has_B, HIDDEN), -1)
    same_BB = (label_B[:, None] == label_B) & has_B
    loss_B = -torch.where(same_BB, log_BB, 0.0).sum(1)
    if positives == "mean":
        loss_B = loss_B / same_BB.sum(1).clamp(min=1)
    return torch.where(has_B, loss_B, 0.0)


def negatives(label_B: torch.Tensor, has_B: torch.Tensor) -> torch.Tensor:
    """[B, B]: clips of another label, with both streams."""
    return (label_B[:, None] != label_B) & has_B


def masked_softmax(logits_BB: torch.Tensor, kept_BB: torch.Tensor) -> torch.Tensor:
    """Row probabilities over what is kept; a row that keeps nothing is even over all."""
    return logits_BB.masked_fill(~kept_BB, HIDDEN).softmax(-1)


def draw(probability_BB: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A column for each row, drawn by its probabilities: argmax p / Exp(1), as torch.multinomial
    does it, of a generator that needs no wait for the device."""
    noise_BB = torch.empty(probability_BB.shape).exponential_(generator=generator)
    return (probability_BB / noise_BB.to(probability_BB.device, non_blocking=True)).argmax(-1)


def _init(module: nn.Module) -> None:
    """N(0, 0.02) for matrices, zeros for biases."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
