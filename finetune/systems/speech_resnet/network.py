"""ResNet34 over log-mel frames, statistics pooling, fully connected layers (Padi et al. 2021,
arXiv 2108.02510). Frames in, what a segment of any length sounds like out.

Clips of a batch are padded, and padding changes nothing: every convolution sees zeros beyond a
clip's last frame, as it would had the clip been alone; batch norms and statistics take real frames
alone. A convolution of kernel 2p + 1, padding p and stride s makes ceil(T / s) of T frames.

Shapes: N clips, C channels, T frames, M mel bins, R real frames of the whole batch, D numbers of a
frame at the end of the trunk, E width of the segment level.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.nn.functional import all_reduce

from finetune.systems.speech_resnet.augment import SpecAugment
from finetune.systems.speech_resnet.batch import Spectrograms

NUM_BLOCKS = (3, 4, 6, 3)
"""Of ResNet34's four stages."""
EPSILON = 1e-5
"""Added to a variance, inside the root: the root's slope at 0 is infinite."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RealFrames:
    """Which frames of a padded batch [N, T] are real."""

    lengths: tuple[int, ...]
    padded: int
    """T."""
    index_R: torch.Tensor
    """int64, into the flat [N * T], clip by clip."""

    @classmethod
    def of(cls, lengths: Sequence[int], padded: int, device: torch.device) -> "RealFrames":
        """Worked out on the CPU, so that no step waits for a device."""
        parts = [torch.arange(length) + n * padded for n, length in enumerate(lengths)]
        return cls(lengths=tuple(lengths), padded=padded, index_R=torch.cat(parts).to(device))

    def after(self, stride: int) -> "RealFrames":
        """Those after a convolution of that stride."""
        if stride == 1:
            return self
        lengths = [math.ceil(length / stride) for length in self.lengths]
        return self.of(lengths, math.ceil(self.padded / stride), self.index_R.device)

    @property
    def all_are(self) -> bool:
        return all(length == self.padded for length in self.lengths)

    @property
    def count_N(self) -> torch.Tensor:
        return torch.tensor(self.lengths, device=self.index_R.device)

    @property
    def mask_NT1(self) -> torch.Tensor:
        """bool, false at padding."""
        at_T = torch.arange(self.padded, device=self.index_R.device)
        return (at_T < self.count_N[:, None])[..., None]

    def take(self, x_NCTM: torch.Tensor) -> torch.Tensor:
        """[R, M, C], without padding."""
        x_NTMC = x_NCTM.permute(0, 2, 3, 1)
        return x_NTMC.flatten(0, 1).index_select(0, self.index_R)

    def put(self, x_RMC: torch.Tensor) -> torch.Tensor:
        """[N, C, T, M], zeros at padding: what `take` took."""
        flat = x_RMC.new_zeros(len(self.lengths) * self.padded, *x_RMC.shape[1:])
        x_NTMC = flat.index_copy(0, self.index_R, x_RMC).unflatten(0, (-1, self.padded))
        return x_NTMC.permute(0, 3, 1, 2)


class FrameBatchNorm(nn.BatchNorm2d):
    """Batch norm over real frames; zeros at padding.

    Its statistics in training are of all processes together, so that their number changes nothing.
    """

    def forward(self, x_NCTM: torch.Tensor, real: RealFrames) -> torch.Tensor:
        if not self.training or not _several_processes():
            if real.all_are and x_NCTM.numel() > x_NCTM.shape[1]:
                return super().forward(x_NCTM)
        x_RMC = real.take(x_NCTM)
        if not self.training:
            scale_C = self.weight * torch.rsqrt(self.running_var + self.eps)
            y_RMC = torch.addcmul(self.bias - self.running_mean * scale_C, x_RMC, scale_C)
        elif x_RMC[..., 0].numel() > 1 and not _several_processes():
            y_RMC = super().forward(x_RMC.flatten(0, 1)[..., None, None]).view_as(x_RMC)
        else:
            y_RMC = self.plain(x_RMC)
        return real.put(y_RMC)

    def plain(self, x_RMC: torch.Tensor) -> torch.Tensor:
        """The equations themselves, over all processes, and of a single number too, whose
        deviation is 0."""
        count = x_RMC.new_tensor([float(x_RMC[..., 0].numel())])
        sums = torch.cat([count, x_RMC.float().sum((0, 1))])
        sums = all_reduce(sums) if _several_processes() else sums
        total = sums[0].detach().clamp(min=1)
        mean_C = sums[1:] / total
        square_C = (x_RMC - mean_C).square().float().sum((0, 1))
        square_C = all_reduce(square_C) if _several_processes() else square_C
        var_C = square_C / total
        with torch.no_grad():
            some = (sums[0] > 0).float()  # a batch without any frame leaves all as it is
            self.num_batches_tracked += some.long()
            unbiased_C = square_C / (total - 1).clamp(min=1)
            self.running_mean.lerp_(mean_C, self.momentum * some)
            self.running_var.lerp_(unbiased_C, self.momentum * some)
        scale_C = self.weight * torch.rsqrt(var_C + self.eps)
        return ((x_RMC - mean_C) * scale_C + self.bias).to(x_RMC.dtype)


def _several_processes() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.first = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.first_norm = FrameBatchNorm(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = FrameBatchNorm(channels)
        self.shortcut = self.shortcut_norm = None
        if stride > 1 or channels_in != channels:
            self.shortcut = nn.Conv2d(channels_in, channels, 1, bias=False)
            self.shortcut_norm = FrameBatchNorm(channels)

    def forward(self, x_NCTM: torch.Tensor, real: RealFrames) -> tuple[torch.Tensor, RealFrames]:
        after = real.after(self.stride)
        y = F.relu(self.first_norm(self.first(x_NCTM), after))
        y = self.second_norm(self.second(y), after)
        if self.shortcut is not None:
            # Not as a strided convolution: torch 2.14's backward of a strided 1x1 of 8 channels
            # (oneDNN, a CPU with AVX-512) writes beyond its memory.
            x_NCTM = x_NCTM[:, :, :: self.stride, :: self.stride]
            x_NCTM = x_NCTM.contiguous(memory_format=torch.channels_last)
            x_NCTM = self.shortcut_norm(self.shortcut(x_NCTM), after)
        return F.relu(y + x_NCTM), after


class SpeechResNet(nn.Module):
    """The trunk: ResNet34 at frame level and statistics pooling.

    mel_bins: M. width: channels of the first stage; each of the others has twice as many as the
    one before. stem_stride: of the first convolution, in time and frequency, whose kernel is
    2 stem_stride + 1.
    """

    def __init__(self, *, mel_bins: int, width: int, stem_stride: int) -> None:
        super().__init__()
        self.shape = {"mel_bins": mel_bins, "width": width, "stem_stride": stem_stride}
        self.augment: SpecAugment | None = None
        """Masks what is heard in training; no part of the weights."""
        self.is_masked = False
        """Whether it does now: in training, where the trunk itself may be frozen."""
        kernel = 2 * stem_stride + 1
        self.input_norm = FrameBatchNorm(mel_bins)
        self.stem = nn.Conv2d(1, width, kernel, stem_stride, padding=stem_stride, bias=False)
        self.stem_norm = FrameBatchNorm(width)
        blocks, channels_in, bins = [], width, math.ceil(mel_bins / stem_stride)
        for stage, number in enumerate(NUM_BLOCKS):
            channels = width * 2**stage
            for n in range(number):
                stride = 2 if stage and not n else 1
                blocks.append(Block(channels_in, channels, stride))
                channels_in, bins = channels, math.ceil(bins / stride)
        self.blocks = nn.ModuleList(blocks)
        self.pooled_width = 2 * channels_in * bins
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "SpeechResNet":
        self.is_masked = mode
        return super().train(mode)

    def encode(self, batch: Spectrograms) -> torch.Tensor:
        """[N, 2 D]: mean and deviation over the frames of each clip, zeros for one without any."""
        x_NTM, real = self._centred(batch)
        if self.is_masked and self.augment is not None:
            x_NTM = self.augment(x_NTM, real.lengths)
        # Bins take the place of channels: each has a scale of its own.
        x_NMT1 = self.input_norm(x_NTM.transpose(1, 2)[..., None], real)
        x = x_NMT1.permute(0, 3, 2, 1)
        real = real.after(self.stem.stride[0])
        x = F.relu(self.stem_norm(self.stem(x), real))
        for block in self.blocks:
            x, real = block(x, real)
        return statistics(x.transpose(1, 2).flatten(2).float(), real)

    def _centred(self, batch: Spectrograms) -> tuple[torch.Tensor, RealFrames]:
        """The clip's mean of each bin, over its real frames, is taken off: the room and the
        microphone. What is masked with 0 has the mean then."""
        x_NTM = batch.values_NTM.float()
        real = RealFrames.of(batch.lengths, x_NTM.shape[1], x_NTM.device)
        mean_NM = x_NTM.sum(1) / real.count_N.clamp(min=1)[:, None]  # padding is zeros
        return (x_NTM - mean_NM[:, None]) * real.mask_NT1, real


def statistics(x_NTD: torch.Tensor, real: RealFrames) -> torch.Tensor:
    """Statistics pooling [N, 2 D]: mean and deviation over real frames. `x_NTD` has zeros at
    padding; a clip without frames gets zeros."""
    count_N1, mask_NT1 = real.count_N.clamp(min=1)[:, None], real.mask_NT1
    mean_ND = x_NTD.sum(1) / count_N1
    square_NTD = ((x_NTD - mean_ND[:, None]) * mask_NT1).square()
    deviation_ND = torch.sqrt(square_NTD.sum(1) / count_N1 + EPSILON)
    return torch.cat([mean_ND, deviation_ND], 1) * mask_NT1[:, 0]


class SegmentLayer(nn.Module):
    """What a segment sounds like, [N, E]: LN of the statistics, Linear 2D -> E. New for each task,
    as is what stands on it."""

    def __init__(self, pooled_width: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(pooled_width)
        self.dense = nn.Linear(pooled_width, width)

    def forward(self, pooled_N2D: torch.Tensor) -> torch.Tensor:
        return self.dense(self.norm(pooled_N2D))
