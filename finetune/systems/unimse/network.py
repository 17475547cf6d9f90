"""Streams come into a T5: an LSTM for each, and pyramid adapters (PMF) in its last blocks.

    h = FFN(h)                        the block's own, on h [N, T, D]
    F = [h; s_1; s_2; ...]            the vector of each stream beside every token
    y = W_out (W_up sigmoid(W_down F) + F)
    h = h + y                         residual: W_out starts at nearly nothing
    h = y                             official: W_out starts as any Linear layer

W_down and W_up start as N(0, 0.001), as in the released code (LeMei/UniMSE). The sequences of an
LSTM's states are put back into the clips' order once; the released code does it twice.

A clip that lacks a stream has zeros for its vector: they add nothing to W_down F, and no weight is
needed that clips with all streams would never teach.

Shapes: N clips, T tokens, D width of the T5, F rows of a stream, C their width, H width of an LSTM,
S numbers of all streams beside a token.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from finetune.systems.unimse.config import Adapters

NOISE = 0.001
"""Standard deviation of new adapter weights."""


class StreamEncoder(nn.Module):
    """One-layer LSTM, dropout and Linear on its last real state."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, hidden)

    def forward(
        self, values_NFC: torch.Tensor, lengths: tuple[int, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors [N, H] and states [N, F, H] in the order of the clips, zeros at padding and for
        clips of length 0."""
        at_least_1 = torch.tensor(lengths).clamp(min=1)  # on the CPU, as packing wants it
        packed = pack_padded_sequence(values_NFC, at_least_1, True, enforce_sorted=False)
        states, (last_1NH, _) = self.lstm(packed)
        states_NFH, _ = pad_packed_sequence(states, True, total_length=values_NFC.shape[1])
        has_N1 = torch.tensor(lengths, device=values_NFC.device)[:, None] > 0
        vector_NH = self.linear(self.dropout(last_1NH[0]))
        return torch.where(has_N1, vector_NH, 0.0), torch.where(has_N1[..., None], states_NFH, 0.0)


class PyramidAdapter(nn.Module):
    """What the top of this file says, after a block's feed-forward layer."""

    def __init__(self, width: int, beside: int, bottleneck: int, form: str) -> None:
        super().__init__()
        self.residual = form == "residual"
        self.down = nn.Linear(width + beside, bottleneck)
        self.up = nn.Linear(bottleneck, width + beside)
        self.out = nn.Linear(width + beside, width)
        for layer in (self.down, self.up, *([self.out] if self.residual else [])):
            nn.init.normal_(layer.weight, std=NOISE)
            nn.init.zeros_(layer.bias)

    def forward(self, h_NTD: torch.Tensor, beside_NS: torch.Tensor) -> torch.Tensor:
        """[N, T, D]."""
        beside_NTS = beside_NS[:, None].expand(-1, h_NTD.shape[1], -1).to(h_NTD.dtype)
        f_NTF = torch.cat([h_NTD, beside_NTS], -1)
        y_NTD = self.out(self.up(torch.sigmoid(self.down(f_NTF))) + f_NTF)
        return h_NTD + y_NTD if self.residual else y_NTD


class FusedFeedForward(nn.Module):
    """A block's feed-forward layer with its adapter, in the layer's place."""

    def __init__(self, feed_forward: nn.Module, adapter: PyramidAdapter) -> None:
        super().__init__()
        self.feed_forward, self.adapter = feed_forward, adapter
        self.beside_NS: torch.Tensor | None = None
        """Of the clips at hand; the T5's own signature has no place for it."""
        self.words_NTD: torch.Tensor | None = None
        """What the words alone came to in the pass before: the contrast looks at it."""

    def forward(self, h_NTD: torch.Tensor) -> torch.Tensor:
        self.words_NTD = self.feed_forward(h_NTD)
        return self.adapter(self.words_NTD, self.beside_NS)


class FusedT5(nn.Module):
    """A T5 with a stream encoder for each stream, and adapters in its last blocks.

    Without streams, or with no blocks of adapters: the T5 alone.
    """

    def __init__(
        self,
        t5: T5ForConditionalGeneration,
        widths: dict[str, int],
        adapters: Adapters,
    ) -> None:
        super().__init__()
        self.t5 = t5
        if not adapters.num_blocks:
            widths = {}
        self.hidden = adapters.hidden
        self.streams = nn.ModuleDict(
            {
                name: StreamEncoder(width, adapters.hidden, adapters.dropout)
                for name, width in widths.items()
            }
        )
        self.fused: dict[str, list[FusedFeedForward]] = {"encoder": [], "decoder": []}
        beside = adapters.hidden * len(widths)
        for stack, mine in self.fused.items():
            blocks = getattr(t5, stack).block
            for block in blocks[-adapters.num_blocks :] if widths else []:
                adapter = PyramidAdapter(
                    t5.config.d_model, beside, adapters.bottleneck, adapters.form
                )
                block.layer[-1] = FusedFeedForward(block.layer[-1], adapter)
                mine.append(block.layer[-1])

    def learn_blocks(self, count: int) -> None:
        """Freeze the T5 but for its last `count` blocks of encoder and decoder; adapters and stream
        encoders learn in any case."""
        self.t5.requires_grad_(False)
        for stack, mine in self.fused.items():
            for block in list(getattr(self.t5, stack).block)[-count:] if count else []:
                block.requires_grad_(True)
            for fused in mine:
                fused.adapter.requires_grad_(True)

    def encode_streams(
        self, values: dict[str, tuple[torch.Tensor, tuple[int, ...]]]
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """Stream to its rows [N, F, C] and lengths -> what stands beside a token, [N, S], and the
        states of each stream [N, F, H]."""
        said = {name: encoder(*values[name]) for name, encoder in self.streams.items()}
        if not said:
            return None, {}
        beside_NS = torch.cat([vector_NH for vector_NH, _ in said.values()], -1)
        return beside_NS, {name: states_NFH for name, (_, states_NFH) in said.items()}

    def encode_words(
        self, ids_NT: torch.Tensor, mask_NT: torch.Tensor, beside_NS: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The encoder's states [N, T, D], and what the words came to in each block that has an
        adapter, before it."""
        with self._beside("encoder", beside_NS):
            said = self.t5.encoder(input_ids=ids_NT, attention_mask=mask_NT)
            words = [fused.words_NTD for fused in self.fused["encoder"]]
        return said.last_hidden_state, words

    def decode(
        self,
        states_NTD: torch.Tensor,
        mask_NT: torch.Tensor,
        beside_NS: torch.Tensor | None,
        ids_NA: torch.Tensor,
    ) -> torch.Tensor:
        """Logits [N, A, V] of each token of the answers, given those before it."""
        shifted_NA = ids_NA.roll(1, dims=1)
        shifted_NA[:, 0] = self.t5.config.decoder_start_token_id
        with self._beside("decoder", beside_NS):
            return self.t5(
                encoder_outputs=(states_NTD,), attention_mask=mask_NT, decoder_input_ids=shifted_NA
            ).logits.float()

    def generate(
        self,
        states_NTD: torch.Tensor,
        mask_NT: torch.Tensor,
        beside_NS: torch.Tensor | None,
        longest: int,
    ) -> torch.Tensor:
        """Greedy answers [N, up to 1 + longest], token by token."""
        with self._beside("decoder", beside_NS):
            return self.t5.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=states_NTD),
                attention_mask=mask_NT,
                max_new_tokens=longest,
                do_sample=False,
                num_beams=1,
            )

    @contextmanager
    def _beside(self, stack: str, beside_NS: torch.Tensor | None) -> Iterator[None]:
        """The adapters of a stack know the clips at hand; afterwards none is kept."""
        for fused in self.fused[stack]:
            fused.beside_NS = beside_NS
        try:
            yield
        finally:
            for fused in self.fused[stack]:
                fused.beside_NS = fused.words_NTD = None
