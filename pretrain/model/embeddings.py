"""From word pieces and rows of streams to vectors of one width.

text    word + position + type 0                          -> LN -> dropout   (BERT's own)
stream  LN(Linear(C -> H)) + own position + type          -> LN -> dropout

The type is BERT's 1 for the first stream, the face, and one of its own for speech and any other.

A masked frame comes in as zeros; the learned mask vector is added before the linear layer. Of a
stream that is centered, a frame that is not masked comes in without the mean of those that are not:
what a whole clip has in common, such as its microphone, is not seen (as cepstral mean normalization
does with an utterance: Atal, JASA 55, 1974).

Shapes: N clips, T word pieces with [CLS] and [SEP], F frames of a stream, C feature width,
H model width; R word pieces or frames of joined clips.
"""

import torch
from torch import nn

from pretrain.model.batch import Frames, JoinedFrames, tick
from pretrain.model.dropout import Dropout


class TextEmbedder(nn.Module):
    """BERT's embedder; also owner of the type table, whose second row goes to the faces."""

    def __init__(self, vocab_size: int, width: int, max_positions: int, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, width)
        self.position_embeddings = nn.Embedding(max_positions, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = Dropout(dropout)

    def forward(self, ids: torch.Tensor, index_R: torch.Tensor | None = None) -> torch.Tensor:
        """[N, T] of padded clips, or [R] of joined ones with the index of each in its clip."""
        if index_R is None:
            position = self.position_embeddings.weight[: ids.shape[1]]
        else:
            position = self.position_embeddings(index_R)
        x = self.word_embeddings(ids) + position + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(x))

    def check_reach(self, longest: int) -> None:
        """Raise ValueError if a text of `longest` pieces is beyond the position table."""
        table = self.position_embeddings.num_embeddings
        if longest > table:
            raise ValueError(
                f"a text of {longest} word pieces, but the position table ends at {table} "
                "(max_text_positions); lower the limit on word pieces"
            )


class FrameEmbedder(nn.Module):
    """Frames of one stream, such as faces or speech.

    `position_hz` None: a frame's position is its index among the frames kept (the reference).
    Otherwise it is its time in ticks of that rate, so that a gap in the face is a gap in position
    and equal positions of two streams' clocks are equal times.
    """

    def __init__(
        self,
        feature_width: int,
        width: int,
        max_positions: int,
        dropout: float,
        position_hz: float | None,
        own_type: bool,
        centered: bool = False,
    ) -> None:
        super().__init__()
        self.position_hz = position_hz
        self.centered = centered
        self.mask_embedding = nn.Embedding(2, feature_width, padding_idx=0)
        self.linear = nn.Linear(feature_width, width)
        # Not named LayerNorm: the reference decays this one's weight (see pretrain.optim).
        self.input_norm = nn.LayerNorm(width, eps=1e-12)
        self.position_embeddings = nn.Embedding(max_positions, width)
        self.type_embedding = nn.Embedding(1, width) if own_type else None
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = Dropout(dropout)

    def forward(self, frames: Frames | JoinedFrames, type_H: torch.Tensor) -> torch.Tensor:
        """[N, F, H] of padded clips, [R, H] of joined ones. `type_H` is BERT's type vector, used
        when the stream has none of its own."""
        if isinstance(frames, JoinedFrames):
            values = centered_joined(frames) if self.centered else frames.values_RC
            masked, position = frames.masked_R, self._positions(frames.seconds_R, frames.index_R)
        else:
            values = centered(frames) if self.centered else frames.values_NFC
            masked, position = frames.masked_NF, self._positions(frames.seconds_NF)
        x = values.to(self.linear.weight.dtype) + self.mask_embedding(masked.long())
        x = self.input_norm(self.linear(x)) + position
        x = x + (type_H if self.type_embedding is None else self.type_embedding.weight[0])
        return self.dropout(self.LayerNorm(x))

    def check_reach(self, frames: Frames | JoinedFrames, stream: str) -> None:
        """Raise ValueError if a frame lies beyond the position table.

        Takes numbers the host knows (collate counted them), so the device is never waited for.
        """
        table = self.position_embeddings.num_embeddings
        last = frames.longest - 1
        if self.position_hz is not None:
            last = tick(frames.last_seconds, self.position_hz)
        if last >= table:
            raise ValueError(
                f"a {stream} frame at position {last} ({frames.last_seconds:.1f} s), but the "
                f"position table ends at {table - 1} (max_frame_positions = {table}); raise it, or "
                f"limit the frames of a clip (data.limits.{stream})"
            )

    def _positions(
        self, seconds: torch.Tensor, index_R: torch.Tensor | None = None
    ) -> torch.Tensor:
        if self.position_hz is not None:
            return self.position_embeddings(torch.round(seconds * self.position_hz).long())
        if index_R is not None:
            return self.position_embeddings(index_R)
        return self.position_embeddings.weight[: seconds.shape[1]]


def centered(frames: Frames) -> torch.Tensor:
    """The values without their clip's mean [N, F, C], float32; zeros where masked, and in padding.

    The mean is over the real frames that are not masked, so it tells nothing of those that are.
    """
    seen_NF1 = (frames.real_NF & ~frames.masked_NF).unsqueeze(-1)
    values_NFC = frames.values_NFC.float()
    sum_N1C = (values_NFC * seen_NF1).sum(1, keepdim=True)
    mean_N1C = sum_N1C / seen_NF1.sum(1, keepdim=True).clamp(min=1)
    return (values_NFC - mean_N1C) * seen_NF1


def centered_joined(frames: JoinedFrames) -> torch.Tensor:
    """As `centered`, of joined clips [R, C]."""
    seen_R1 = (~frames.masked_R).unsqueeze(-1)
    values_RC = frames.values_RC.float()
    clip_R, num_clips = frames.clip_R, frames.num_clips
    sum_NC = values_RC.new_zeros(num_clips, values_RC.shape[1]).index_add(
        0, clip_R, values_RC * seen_R1
    )
    count_N1 = values_RC.new_zeros(num_clips, 1).index_add(0, clip_R, seen_R1.to(values_RC.dtype))
    return (values_RC - (sum_NC / count_N1.clamp(min=1))[clip_R]) * seen_R1
