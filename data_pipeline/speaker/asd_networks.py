"""Two published networks that tell at every frame whether a face speaks: Light-ASD and LR-ASD.

A light weight model for active speaker detection (Liao, Duan, Feng, Zhao, Yang and Chen, CVPR
2023) and its successor LR-ASD (International Journal of Computer Vision, 2025). Both read grey
faces, 25 a second, and 13 cepstra, 100 a second; convolutions over space or mel and then over time
give 128 numbers a frame of each, and two gated recurrent units, one for each direction of time,
read them together. Written from the papers and from the names and shapes of the weights that their
authors publish (MIT licence), which are read here and do not ship.

    network = load_speaker_network("weights/light_asd/pretrain_AVA_CVPR.model")
    log_odds_BT = network(network.face(face_BTHW), network.sound(cepstra_BSK))

B batch, T frames (25 a second), S = 4 T frames of sound (100 a second), K = 13 cepstra, C channels,
H = W = 112 pixels.
"""

import abc
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from data_pipeline.files.weights import WeightsError

WIDTHS = (1, 32, 64, 128)
GREY_MEAN, GREY_DEVIATION = 0.4161, 0.1688  # of faces of AVA-ActiveSpeaker, white = 1
NORM = {"eps": 1e-3}


class _Block(nn.Module):
    """Steps of convolution, norm and ReLU; each works along space or mel, or along time.

    `video` is [B, C, T, H, W], else sound: [B, C, mel, T].
    """

    def __init__(self, video: bool) -> None:
        super().__init__()
        self.video = video

    def add(
        self, name: str, norm: str, size: int, width_in: int, width: int, stride: int = 1
    ) -> None:
        """A step under its names in the file; t_ is along time, s_ over space, m_ over mel."""
        in_time = name.startswith("t_")
        if self.video:
            kernel = (size, 1, 1) if in_time else (1, size, size)
            step = (1, stride, stride)
        else:
            kernel, step = ((1, size) if in_time else (size, 1)), (1, stride)
        conv, batch_norm = (
            (nn.Conv3d, nn.BatchNorm3d) if self.video else (nn.Conv2d, nn.BatchNorm2d)
        )
        padding = tuple(k // 2 for k in kernel)
        self.add_module(name, conv(width_in, width, kernel, step, padding, bias=False))
        self.add_module(norm, batch_norm(width, **NORM))

    def step(self, name: str, norm: str, x: Tensor) -> Tensor:
        return F.relu(getattr(self, norm)(getattr(self, name)(x)))


class _TwoBranches(_Block):
    """Light-ASD: kernels of 3 and of 5 side by side; their sum goes through a 1 x 1 convolution."""

    def __init__(self, video: bool, width_in: int, width: int, stride: int) -> None:
        super().__init__(video)
        self.first = "s" if video else "m"
        for size in (3, 5):
            space = f"{self.first}_{size}"
            self.add(space, f"bn_{space}", size, width_in, width, stride)
            self.add(f"t_{size}", f"bn_t_{size}", size, width, width)
        self.add("last", "bn_last", 1, width, width)

    def forward(self, x: Tensor) -> Tensor:
        branches = []
        for size in (3, 5):
            y = x
            for name in (f"{self.first}_{size}", f"t_{size}"):
                y = self.step(name, f"bn_{name}", y)
            branches.append(y)
        return self.step("last", "bn_last", branches[0] + branches[1])


class _OneBranch(_Block):
    """LR-ASD: kernels of 5 and of 3 one after the other, half as wide after the first."""

    def __init__(self, video: bool, width_in: int, width: int, stride: int) -> None:
        super().__init__(video)
        self.first = "s" if video else "m"
        self.add(f"{self.first}_1", f"{self.first}_norm_1", 5, width_in, width // 2, stride)
        self.add(f"{self.first}_2", f"{self.first}_norm_2", 3, width // 2, width)
        self.add("t_1", "t_norm_1", 5, width, width)
        self.add("t_2", "t_norm_2", 3, width, width)

    def forward(self, x: Tensor) -> Tensor:
        for kind in (self.first, "t"):
            for n in (1, 2):
                x = self.step(f"{kind}_{n}", f"{kind}_norm_{n}", x)
        return x


class _Encoder(nn.Module):
    """Three blocks; between them pictures are halved, and sound, 4 frames a picture, in time."""

    def __init__(self, block: type[_Block], video: bool) -> None:
        super().__init__()
        self.video = video
        for n in (1, 2, 3):
            stride = 2 if video and n == 1 else 1
            self.add_module(f"block{n}", block(video, WIDTHS[n - 1], WIDTHS[n], stride))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, T, H, W] or [B, 1, K, S] -> [B, T, 128]."""
        for n in (1, 2, 3):
            x = getattr(self, f"block{n}")(x)
            if n < 3 and self.video:
                x = F.max_pool3d(x, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
            elif n < 3:
                x = F.max_pool2d(x, (1, 3), stride=(1, 2), padding=(0, 1))
        x_BCT = x.amax(dim=(3, 4)) if self.video else x.mean(dim=2)
        return x_BCT.transpose(1, 2)


class _BothWays(nn.Module):
    """A recurrent unit for each direction of time."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.gru_forward = nn.GRU(width_in, width, batch_first=True)
        self.gru_backward = nn.GRU(width_in, width, batch_first=True)

    def backward_in_time(self, x_BTC: Tensor) -> Tensor:
        return self.gru_backward(x_BTC.flip(1))[0].flip(1)


class _Stacked(_BothWays):
    """Light-ASD's detector: backward in time over what the forward unit made."""

    def forward(self, x_BTC: Tensor) -> Tensor:
        x_BTC = F.gelu(self.gru_forward(x_BTC)[0])
        return F.gelu(self.backward_in_time(x_BTC))


class _Gate(nn.Module):
    """Two sequences side by side, each channel scaled by 0 to 1 after what the others say."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.Conv1d(width, width, 1, bias=False)
        self.bn = nn.BatchNorm1d(width, **NORM)

    def forward(self, a_BTC: Tensor, b_BTC: Tensor) -> Tensor:
        both_BCT = torch.cat([a_BTC, b_BTC], dim=2).transpose(1, 2)
        return (both_BCT * torch.sigmoid(self.bn(self.attention(both_BCT)))).transpose(1, 2)


class _SideBySide(_BothWays):
    """LR-ASD's detector: both directions over the same input, gated."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width // 4)
        self.attention = _Gate(width // 2)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.attention(self.gru_forward(x_BTC)[0], self.backward_in_time(x_BTC))


class SpeakerNetwork(nn.Module, abc.ABC):
    """What both networks share: two encoders and log odds a frame."""

    def __init__(self, block: type[_Block]) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.visualEncoder = _Encoder(block, video=True)
        self.model.audioEncoder = _Encoder(block, video=False)
        self.lossAV = nn.Module()
        self.lossAV.FC = nn.Linear(128, 2)

    def face(self, face_BTHW: Tensor) -> Tensor:
        """[B, T, 128] of grey faces, 0 to 255."""
        level = (face_BTHW.float() / 255 - GREY_MEAN) / GREY_DEVIATION
        return self.model.visualEncoder(level[:, None])

    def sound(self, cepstra_BSK: Tensor) -> Tensor:
        """[B, T, 128] of cepstra, 4 a frame."""
        return self.model.audioEncoder(cepstra_BSK[:, None].transpose(2, 3))

    @abc.abstractmethod
    def fuse(self, face_BTC: Tensor, sound_BTC: Tensor) -> Tensor:
        """[B, T, 128]."""

    def forward(self, face_BTC: Tensor, sound_BTC: Tensor) -> Tensor:
        """[B, T] log odds that the face speaks at each frame."""
        logit_BT2 = self.lossAV.FC(self.fuse(face_BTC, sound_BTC))
        return logit_BT2[..., 1] - logit_BT2[..., 0]


class LightASD(SpeakerNetwork):
    """1.0 million weights."""

    def __init__(self) -> None:
        super().__init__(_TwoBranches)
        self.model.GRU = _Stacked(128, 128)

    def fuse(self, face_BTC: Tensor, sound_BTC: Tensor) -> Tensor:
        return self.model.GRU(face_BTC + sound_BTC)


class LRASD(SpeakerNetwork):
    """0.84 million weights."""

    def __init__(self) -> None:
        super().__init__(_OneBranch)
        self.model.fusion = _Gate(256)
        self.model.detector = _SideBySide(256)

    def fuse(self, face_BTC: Tensor, sound_BTC: Tensor) -> Tensor:
        return self.model.detector(self.model.fusion(sound_BTC, face_BTC))


def load_speaker_network(path: str | Path) -> SpeakerNetwork:
    """The network whose weights lie in this file, told by their names; ready to judge.

    The head `lossV`, which served in training alone, is left out. Raises WeightsError.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no file {path}; expected the weights of Light-ASD or LR-ASD")
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)  # tensors and nothing else
        )
    except Exception as error:
        raise WeightsError(f"{path} cannot be read as weights: {error}") from error
    state = {name: x for name, x in state.items() if not name.startswith("lossV.")}
    network = LRASD() if "model.fusion.bn.weight" in state else LightASD()
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise WeightsError(
            f"{path} is neither Light-ASD's nor LR-ASD's weights: {first[:300]}"
        ) from error
    return network.eval().requires_grad_(False)
