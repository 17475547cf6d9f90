"""Clips as the T5 reads them: words in pieces, all rows of each stream, padded.

Shapes: N clips, T pieces, F rows of a stream, C their width, A tokens of an answer.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from data_pipeline.schema import ClipSample
from finetune.systems.unimse.answers import eos_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Turn:
    """One clip."""

    ids_T: np.ndarray
    streams: dict[str, np.ndarray]
    """Rows [F, C]; a stream that the clip lacks is not there."""
    has_text: bool
    answer_A: np.ndarray | None = None
    """What is learned; None of clips that are judged."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Turns:
    """N clips, padded."""

    ids_NT: torch.Tensor
    mask_NT: torch.Tensor
    """int64, 0 at padding."""
    values: dict[str, torch.Tensor]
    """Stream to [N, F, C] float32, zeros at padding."""
    lengths: dict[str, tuple[int, ...]]
    """Stream to the rows of each clip; 0 for one that lacks it."""
    has_text: tuple[bool, ...]
    answer_NA: torch.Tensor | None
    answer_mask_NA: torch.Tensor | None
    """float32, 0 at padding; None, as `answer_NA`, of clips that are judged."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Turns":
        def moved(x: torch.Tensor | None) -> torch.Tensor | None:
            return None if x is None else x.to(device, non_blocking=non_blocking)

        return dataclasses.replace(
            self,
            values={name: moved(values_NFC) for name, values_NFC in self.values.items()},
            **{
                name: moved(getattr(self, name))
                for name in ("ids_NT", "mask_NT", "answer_NA", "answer_mask_NA")
            },
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class TurnReader:
    """From clips to what `collate` pads."""

    tokenizer: PreTrainedTokenizerBase
    prefix: str
    widths: dict[str, int]
    """Stream to the width of its rows."""
    limits: Mapping[str, int | None]
    """Pieces of `text`, rows of a stream; null, or no name, is no limit."""

    def __call__(self, sample: ClipSample, answer: Sequence[int] | None = None) -> Turn:
        """`answer`: its tokens, of a training clip. A clip without text has the prefix alone."""
        streams = {
            name: sample.streams[name].values_ND[: self.limits.get(name)]
            for name in self.widths
            if sample.has(name)
        }
        return Turn(
            ids_T=self.pieces(sample.text or ""),
            streams=streams,
            has_text=sample.has("text"),
            answer_A=None if answer is None else np.array(answer, np.int64),
        )

    def pieces(self, text: str) -> np.ndarray:
        """Prefix, `text` up to its limit, end."""
        before, said = (
            self.tokenizer(part, add_special_tokens=False).input_ids for part in (self.prefix, text)
        )
        return np.array(
            [*before, *said[: self.limits.get("text")], eos_of(self.tokenizer)], np.int64
        )

    def collate(self, turns: Sequence[Turn], beside: Sequence[Turn] = ()) -> Turns:
        """Pad to the longest. beside: the other clips of a batch that is dealt to several
        processes, which then pad alike."""
        both = (*turns, *beside)
        ids_NT, mask_NT = self._padded([turn.ids_T for turn in both], len(turns))
        values, lengths = {}, {}
        for name, width in self.widths.items():
            rows = [turn.streams.get(name, np.zeros((0, width), np.float16)) for turn in both]
            padded_NFC = np.zeros((len(turns), max(1, *map(len, rows)), width), np.float32)
            for row_FC, out_FC in zip(rows, padded_NFC, strict=False):  # of `turns` alone
                out_FC[: len(row_FC)] = row_FC
            values[name] = torch.from_numpy(padded_NFC)
            lengths[name] = tuple(len(row) for row in rows[: len(turns)])
        answer_NA = answer_mask_NA = None
        if all(turn.answer_A is not None for turn in both):
            answer_NA, real_NA = self._padded([turn.answer_A for turn in both], len(turns))
            answer_mask_NA = real_NA.float()
        return Turns(
            ids_NT=ids_NT,
            mask_NT=mask_NT,
            values=values,
            lengths=lengths,
            has_text=tuple(turn.has_text for turn in turns),
            answer_NA=answer_NA,
            answer_mask_NA=answer_mask_NA,
        )

    def _padded(self, rows: Sequence[np.ndarray], count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The first `count` of `rows` and which of their places are real, int64, as long as the
        longest of all."""
        longest = max(map(len, rows))
        ids = np.full((count, longest), self.tokenizer.pad_token_id, np.int64)
        mask = np.zeros((count, longest), np.int64)
        for row, out, real in zip(rows, ids, mask, strict=False):
            out[: len(row)], real[: len(row)] = row, 1
        return torch.from_numpy(ids), torch.from_numpy(mask)
