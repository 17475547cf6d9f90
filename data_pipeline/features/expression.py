"""Face-expression features: a frozen DenseNet-FER+, 342 numbers and 8 probabilities a face.

    encoder = load_expression_encoder("densenet_ferplus")
    face_N342, probs_N8 = encoder(crops_NHW)   # uint8, from data_pipeline.faces.crops.aligned_crop
    encoder.spec                               # goes into the passport of a shard

Shapes: N faces, H x W pixels.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from data_pipeline.errors import UserError
from data_pipeline.features.densenet import (
    FEATURE_WIDTH,
    MIN_STD,
    NUM_CLASSES,
    DenseNetFER,
    FoldedDenseNet,
    normalize_faces,
)
from data_pipeline.files.weights import WeightsError, resolve_weights, sha256_of
from data_pipeline.schema import EXPRESSIONS, FeatureSpec

FACES_PER_SECOND = 10.0
# One call is cut into equal batches of at most so many faces: fewer than 16 run at half the speed
# (torch then leaves oneDNN). The last digits of a feature may depend on the faces beside it, so the
# same call must always be cut alike.
BATCH_FACES = 32
CONFIG_KEYS = ("name", "weights_sha256", "crop_size", "min_std", "classes")


class ExpressionError(UserError):
    """Crops that the encoder cannot take."""


class ExpressionEncoder:
    """A frozen expression network; made by `load_expression_encoder`."""

    def __init__(
        self, model: DenseNetFER, *, name: str, weights_sha256: str, crop_size: int, device: str
    ) -> None:
        self.crop_size = crop_size
        """Side of the crops, in pixels."""
        self.spec = FeatureSpec(
            name=name,
            weights_sha256=weights_sha256,
            layer=-1,
            pooling=1,
            rate_hz=FACES_PER_SECOND,
            width=FEATURE_WIDTH,
            preprocessing=f"align5-{crop_size}-perimage-std{MIN_STD:g}",
        )
        self._device = torch.device(device)
        self._model = FoldedDenseNet(model.eval()).to(self._device).eval()

    @torch.inference_mode()
    def __call__(self, crops_NHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Grey crops [N, size, size] uint8 to features [N, 342] and probabilities [N, 8], float32.

        The columns of the probabilities are schema.EXPRESSIONS. N may be 0; a crop of one color
        is as good as a blank one, and gives finite numbers.

        Raises ExpressionError for crops of another type or size.
        """
        size = self.crop_size
        if crops_NHW.dtype != np.uint8 or crops_NHW.shape[1:] != (size, size):
            raise ExpressionError(
                f"found crops of {crops_NHW.dtype} {crops_NHW.shape}, expected uint8 "
                f"[N, {size}, {size}]; cut them with data_pipeline.faces.crops.aligned_crop("
                f"frame, points, {size})"
            )
        if not len(crops_NHW):
            return np.empty((0, FEATURE_WIDTH), np.float32), np.empty((0, NUM_CLASSES), np.float32)
        parts = np.array_split(crops_NHW, math.ceil(len(crops_NHW) / BATCH_FACES))
        features, probs = zip(*map(self._encode, parts), strict=True)
        return np.concatenate(features), np.concatenate(probs)

    def _encode(self, crops_NHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images_N1HW = normalize_faces(torch.tensor(crops_NHW, device=self._device))
        # TF32 would make a GPU's features differ from a CPU's in the third digit. What is not said
        # here is off: without `enabled` there would be no cuDNN at all.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            features_N342, logits_N8 = self._model(
                images_N1HW.contiguous(memory_format=torch.channels_last)
            )
        return features_N342.cpu().numpy(), logits_N8.softmax(1).cpu().numpy()


def load_expression_encoder(
    name_or_folder: str = "densenet_ferplus", device: str = "cpu"
) -> ExpressionEncoder:
    """The encoder that ships, or one in a folder with `config.json` and `model.safetensors`.

    Raises WeightsError where files are missing, or are not what the config says.
    """
    folder = Path(resolve_weights(name_or_folder))
    model, config = load_densenet(folder)
    return ExpressionEncoder(
        model,
        name=config["name"],
        weights_sha256=config["weights_sha256"],
        crop_size=config["crop_size"],
        device=device,
    )


def load_densenet(folder: Path) -> tuple[DenseNetFER, dict]:
    """The plain network of `folder`, float32, in evaluation mode, and its checked config."""
    config_path, weights_path = folder / "config.json", folder / "model.safetensors"
    if not config_path.is_file() or not weights_path.is_file():
        raise WeightsError(
            f"no expression encoder at {folder}: expected config.json and model.safetensors; "
            "name densenet_ferplus for the one that ships, or make one with "
            "python -m data_pipeline.recipes.fer export"
        )
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        missing = [key for key in CONFIG_KEYS if key not in config]
    except (json.JSONDecodeError, TypeError) as error:
        raise WeightsError(f"{config_path} is not a config: {error}") from error
    if missing:
        raise WeightsError(f"{config_path}: no {', '.join(missing)}; expected {CONFIG_KEYS}")
    if tuple(config["classes"]) != EXPRESSIONS or config["min_std"] != MIN_STD:
        raise WeightsError(
            f"{config_path}: classes {config['classes']} and min_std {config['min_std']}, this "
            f"code knows {EXPRESSIONS} and {MIN_STD}"
        )
    if config["crop_size"] % 8 or config["crop_size"] <= 0:
        raise WeightsError(f"{config_path}: crop_size {config['crop_size']}, not a multiple of 8")
    found = sha256_of(weights_path)
    if found != config["weights_sha256"]:
        raise WeightsError(
            f"{weights_path} is not the file its card describes: sha256 {found}, expected "
            f"{config['weights_sha256']}; install the package again, or copy both files anew"
        )
    model = DenseNetFER()
    try:
        weights = load_file(weights_path)
        model.load_state_dict({k: v.to(model.state_dict()[k].dtype) for k, v in weights.items()})
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{weights_path} holds no DenseNet-FER+: {error}") from error
    return model.eval(), config
