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
