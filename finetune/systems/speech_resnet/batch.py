"""Clips as the network reads them: all frames of one stream, padded to the longest.

Shapes: N clips, T frames, M mel bins.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data_pipeline.schema import ClipSample


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrograms:
    """N clips, padded."""

    values_NTM: torch.Tensor
    """As the shards have them, zeros at padding."""
    lengths: tuple[int, ...]
    """Frames of each clip; 0 for one that lacks the stream."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Spectrograms":
        values_NTM = self.values_NTM.to(device, non_blocking=non_blocking)
        return dataclasses.replace(self, values_NTM=values_NTM)


@dataclass(frozen=True, kw_only=True)
class FrameReader:
    """From clips to what `collate` pads. Nothing is cut."""

    stream: str
    mel_bins: int

    def __call__(self, sample: ClipSample) -> np.ndarray:
        """[T, M]; no rows for a clip that lacks the stream."""
        if not sample.has(self.stream):
            return np.zeros((0, self.mel_bins), np.float16)
        return sample.streams[self.stream].values_ND


def collate(clips: Sequence[np.ndarray], beside: Sequence[np.ndarray] = ()) -> Spectrograms:
    """Pad clips [T, M] to the longest.

    beside: the other clips of a batch that is dealt to several processes, which then pad alike.
    """
    longest = max(1, *map(len, (*clips, *beside)))
    padded_NTM = np.zeros((len(clips), longest, clips[0].shape[1]), clips[0].dtype)
    for values_TM, row_TM in zip(clips, padded_NTM, strict=True):
        row_TM[: len(values_TM)] = values_TM
    return Spectrograms(
        values_NTM=torch.from_numpy(padded_NTM), lengths=tuple(len(clip) for clip in clips)
    )
