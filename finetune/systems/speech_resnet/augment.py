"""SpecAugment (Park et al. 2019): random bands of time and of frequency are masked, anew in every
step, with torchaudio's masks.

Shapes: N clips, T frames, M mel bins.
"""

import math
from collections.abc import Sequence

import torch
from torchaudio.transforms import FrequencyMasking, TimeMasking

from finetune.systems.speech_resnet.config import Masks


class SpecAugment:
    """Masks each clip by itself, within its real frames. A masked number becomes 0, which is the
    clip's mean: it was taken off before."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks

    def __call__(self, x_NTM: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """A masked copy; draws from torch's generator of the CPU."""
        x_NTM = x_NTM.clone()
        for clip_TM, length in zip(x_NTM, lengths, strict=True):
            if length:
                clip_TM[:length] = self._masked(clip_TM[:length].T).T
        return x_NTM

    def _masked(self, clip_MT: torch.Tensor) -> torch.Tensor:
        # torchaudio draws widths from [0, parameter) and rounds down.
        num_bins, num_frames = clip_MT.shape
        time = TimeMasking(math.ceil(self.masks.time_share * num_frames) + 1)
        frequency = FrequencyMasking(math.ceil(self.masks.frequency_share * num_bins) + 1)
        for _ in range(self.masks.time_masks):
            clip_MT = time(clip_MT[None], mask_value=0.0)[0]
        for _ in range(self.masks.frequency_masks):
            clip_MT = frequency(clip_MT[None], mask_value=0.0)[0]
        return clip_MT
