"""From word pieces and rows of streams to vectors of one width.

text    word + position + type 0                          -> LN -> dropout   (BERT's own)
stream  LN(Linear(C -> H)) + own position + type          -> LN -> dropout

The type is BERT's 1 for the first stream, the face, and one of its own for speech and any other.

A masked frame comes in as zeros; the learned mask vector is added before the linear layer. Of a
stream that is centered, a frame that is not masked comes in without the mean of those that are not:
what a whole clip has in common, such as its microphone, is not seen (as cepstral mean normalization
does with an utterance: Atal, JASA 55, 1974).

Shapes: N clips, T word pieces with [CLS] and [SEP], F frames of a stream, C feature width,
H model width.
"""

import torch
from torch import nn

from pretrain.model.batch import Frames, tick


class TextEmbedder(nn.Module):
    """BERT's embedder; also owner of the type table, whose second row goes to the faces."""

    def __init__(self, vocab_size: int, width: int, max_positions: int, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, width)
        self.position_embeddings = nn.Embedding(max_positions, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids_NT: torch.Tensor) -> torch.Tensor:
        num_pieces, table = ids_NT.shape[1], self.position_embeddings.num_embeddings
        if num_pieces > table:
            raise ValueError(
                f"a text of {num_pieces} word pieces, but the position table ends at {table} "
                "(max_text_positions); lower the limit on word pieces"
            )
        x_NTH = self.word_embeddings(ids_NT)
        x_NTH = x_NTH + self.position_embeddings.weight[:num_pieces]
        x_NTH = x_NTH + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(x_NTH))


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
        self.dropout = nn.Dropout(dropout)

    def forward(self, frames: Frames, type_H: torch.Tensor) -> torch.Tensor:
        """`type_H` is BERT's type vector, used when the stream has none of its own."""
        values_NFC = centered(frames) if self.centered else frames.values_NFC
        x_NFC = values_NFC.to(self.linear.weight.dtype)
        x_NFC = x_NFC + self.mask_embedding(frames.masked_NF.long())
        x_NFH = self.input_norm(self.linear(x_NFC))
        x_NFH = x_NFH + self._positions(frames.seconds_NF)
        x_NFH = x_NFH + (type_H if self.type_embedding is None else self.type_embedding.weight[0])
        return self.dropout(self.LayerNorm(x_NFH))

    def check_reach(self, frames: Frames, stream: str) -> None:
        """Raise ValueError if a frame lies beyond the position table.

        Takes numbers the host knows (collate counted them), so the device is never waited for.
        """
        table = self.position_embeddings.num_embeddings
        last = frames.real_NF.shape[1] - 1
        if self.position_hz is not None:
            last = tick(frames.last_seconds, self.position_hz)
        if last >= table:
            raise ValueError(
                f"a {stream} frame at position {last} ({frames.last_seconds:.1f} s), but the "
                f"position table ends at {table - 1} (max_frame_positions = {table}); raise it, or "
                f"limit the frames of a clip (data.limits.{stream})"
            )

    def _positions(self, seconds_NF: torch.Tensor) -> torch.Tensor:
        if self.position_hz is None:
            return self.position_embeddings.weight[: seconds_NF.shape[1]]
        return self.position_embeddings(torch.round(seconds_NF * self.position_hz).long())


def centered(frames: Frames) -> torch.Tensor:
    """The values without their clip's mean [N, F, C], float32; zeros where masked, and in padding.

    The mean is over the real frames that are not masked, so it tells nothing of those that are.
    """
    seen_NF1 = (frames.real_NF & ~frames.masked_NF).unsqueeze(-1)
    values_NFC = frames.values_NFC.float()
    sum_N1C = (values_NFC * seen_NF1).sum(1, keepdim=True)
    mean_N1C = sum_N1C / seen_NF1.sum(1, keepdim=True).clamp(min=1)
    return (values_NFC - mean_N1C) * seen_NF1
