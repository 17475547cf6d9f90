"""The face-expression network of MEmoBERT: a small DenseNet-BC over a grey face.

768,044 weights; a 342-d feature and logits over the eight FER+ expressions. Channels: 24 from the
stem, 24 + 16 x 12 = 216 -> 108, 108 + 192 = 300 -> 150, 150 + 192 = 342.

Shapes: N faces, H x W pixels, C channels.
"""

import torch
import torch.nn.functional as F
from torch import nn

GROWTH = 12
BOTTLENECK = 4 * GROWTH
STEM_WIDTH = 24
LAYERS_PER_BLOCK = 16
NUM_BLOCKS = 3
FEATURE_WIDTH = 342
NUM_CLASSES = 8


class DenseLayer(nn.Module):
    """BN-ReLU-1x1 convolution, BN-ReLU-3x3 convolution: twelve new channels."""

    def __init__(self, in_width: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, BOTTLENECK, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK)
        self.conv2 = nn.Conv2d(BOTTLENECK, GROWTH, 3, padding=1, bias=False)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        x_NCHW = self.conv1(F.relu(self.norm1(x_NCHW)))
        return self.conv2(F.relu(self.norm2(x_NCHW)))


class DenseBlock(nn.Module):
    """Layers that each read everything made before them in the block."""

    def __init__(self, in_width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DenseLayer(in_width + i * GROWTH) for i in range(LAYERS_PER_BLOCK)
        )
        self.out_width = in_width + LAYERS_PER_BLOCK * GROWTH

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x_NCHW = torch.cat([x_NCHW, layer(x_NCHW)], 1)
        return x_NCHW


class Transition(nn.Module):
    """BN-ReLU-1x1 convolution to half the channels, then 2x2 average pooling."""

    def __init__(self, in_width: int) -> None:
        super().__init__()
        self.out_width = in_width // 2
        self.norm = nn.BatchNorm2d(in_width)
        self.conv = nn.Conv2d(in_width, self.out_width, 1, bias=False)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.norm(x_NCHW))), 2)


class DenseNetFER(nn.Module):
    """Grey faces to a 342-d feature and logits over the eight FER+ expressions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, STEM_WIDTH, 3, stride=2, padding=1, bias=False)
        blocks: list[nn.Module] = []
        width = STEM_WIDTH
        for i in range(NUM_BLOCKS):
            block = DenseBlock(width)
            blocks.append(block)
            width = block.out_width
            if i < NUM_BLOCKS - 1:
                transition = Transition(width)
                blocks.append(transition)
                width = transition.out_width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, NUM_CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images_N1HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised grey faces [N, 1, H, W] to features [N, 342] and logits [N, 8].

        H and W are multiples of 8. The last pooling takes the mean of whatever is left: 8 x 8 at
        64 pixels, as in the original, 6 x 6 at 48.
        """
        x_NCHW = F.relu(self.norm(self.blocks(self.stem(images_N1HW))))
        features_NC = x_NCHW.mean((2, 3))
        return features_NC, self.classifier(features_NC)


MIN_STD = 8.0
"""Grey levels. Less contrast than this is noise, and is not blown up to look like a face."""


def normalize_faces(images_NHW: torch.Tensor) -> torch.Tensor:
    """Grey faces [N, H, W], 0 to 255, to [N, 1, H, W] with zero mean and unit deviation each.

    The original normalises by the mean and deviation of a corpus, which a user's video does not
    have. The deviation counts as at least MIN_STD, so a face of one color becomes all zeros.
    """
    x_NHW = images_NHW.float()
    mean = x_NHW.mean((1, 2), keepdim=True)
    std = x_NHW.std((1, 2), keepdim=True, correction=0)
    return ((x_NHW - mean) / std.clamp(min=MIN_STD)).unsqueeze(1)


class FoldedDenseNet(nn.Module):
    """A trained DenseNetFER for inference: the same numbers to 1e-4, twice as fast on a CPU core.

    A norm after a convolution is folded into it; one before a ReLU, which cannot be, is a single
    multiply-add; a block writes into one buffer instead of concatenating 16 times.
    """

    def __init__(self, model: DenseNetFER) -> None:
        super().__init__()
        self.stem = _frozen(model.stem.weight)
        self.stages = nn.ModuleList(
            _FoldedBlock(s) if isinstance(s, DenseBlock) else _FoldedTransition(s)
            for s in model.blocks
        )
        self.norm = _ScaleShiftReLU(model.norm)
        self.weight = _frozen(model.classifier.weight)
        self.bias = _frozen(model.classifier.bias)

    def forward(self, images_N1HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As DenseNetFER.forward, in evaluation mode."""
        x_NCHW = F.conv2d(images_N1HW, self.stem, stride=2, padding=1)
        for stage in self.stages:
            x_NCHW = stage(x_NCHW)
        features_NC = self.norm(x_NCHW).mean((2, 3))
        return features_NC, F.linear(features_NC, self.weight, self.bias)


class _ScaleShiftReLU(nn.Module):
    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        scale_C, shift_C = _scale_shift(norm)
        self.scale = _frozen(scale_C.view(1, -1, 1, 1))
        self.shift = _frozen(shift_C.view(1, -1, 1, 1))

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(self.shift, x_NCHW, self.scale).relu_()


class _FoldedLayer(nn.Module):
    def __init__(self, layer: DenseLayer) -> None:
        super().__init__()
        self.norm1 = _ScaleShiftReLU(layer.norm1)
        scale_K, shift_K = _scale_shift(layer.norm2)
        self.weight1 = _frozen(layer.conv1.weight * scale_K.view(-1, 1, 1, 1))
        self.bias1 = _frozen(shift_K)
        self.weight2 = _frozen(layer.conv2.weight)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        x_NCHW = F.conv2d(self.norm1(x_NCHW), self.weight1, self.bias1).relu_()
        return F.conv2d(x_NCHW, self.weight2, padding=1)


class _FoldedBlock(nn.Module):
    def __init__(self, block: DenseBlock) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_FoldedLayer(layer) for layer in block.layers)
        self.out_width = block.out_width

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        n, width, h, w = x_NCHW.shape
        out_NCHW = x_NCHW.new_empty(n, h, w, self.out_width).permute(0, 3, 1, 2)
        out_NCHW[:, :width] = x_NCHW
        for layer in self.layers:
            out_NCHW[:, width : width + GROWTH] = layer(out_NCHW[:, :width])
            width += GROWTH
        return out_NCHW


class _FoldedTransition(nn.Module):
    def __init__(self, transition: Transition) -> None:
        super().__init__()
        self.norm = _ScaleShiftReLU(transition.norm)
        self.weight = _frozen(transition.conv.weight)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(F.conv2d(self.norm(x_NCHW), self.weight), 2)


def _scale_shift(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """[C], [C]: norm(x) = x * scale + shift in evaluation mode."""
    scale_C = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale_C, norm.bias - norm.running_mean * scale_C


def _frozen(weight: torch.Tensor) -> nn.Parameter:
    weight = weight.detach().clone()
    if weight.ndim == 4:
        weight = weight.contiguous(memory_format=torch.channels_last)
    return nn.Parameter(weight, requires_grad=False)
