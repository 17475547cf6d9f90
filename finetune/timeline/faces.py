"""An embedding of the face of each piece, from the crops that its extraction kept.

They are kept in OUTPUT/faces, a JSON a shard, so that a run that was stopped embeds no face twice.
"""

import json
import logging
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipeline.features.crops import pictures
from data_pipeline.files.atomic import atomic_file
from data_pipeline.shards import list_shards, read_manifest, read_shard
from data_pipeline.speaker.identity import (
    FaceEncoder,
    FaceEncoderError,
    embed_face,
    load_face_encoder,
)
from finetune.timeline.recognition import KINDS

log = logging.getLogger(__name__)


def face_encoder(faces: bool | None) -> FaceEncoder | None:
    """None where it is not wanted, or neither installed (extra `faces`) nor asked for."""
    if faces is False:
        return None
    try:
        return load_face_encoder()
    except FaceEncoderError as error:
        if faces:
            raise
        log.info("faces are not told apart: %s", error)
        return None


def embed_pieces(folder: Path, encoder: FaceEncoder) -> dict[str, np.ndarray]:
    """Id of a piece of a timeline's `folder` to the embedding [E] of the face that its extraction
    chose; without pieces that have none."""
    shards = {
        f"{kind}-{tar.stem}": tar
        for kind in KINDS
        if (folder / kind).is_dir()
        for tar in list_shards(folder / kind)
    }
    found: dict[str, np.ndarray] = {}
    for name, tar in tqdm(shards.items(), desc="faces", unit="shard", disable=None):
        found |= _of_shard(tar, folder / "faces" / f"{name}.json", encoder)
    return found


def _of_shard(tar: Path, path: Path, encoder: FaceEncoder) -> dict[str, np.ndarray]:
    manifest = read_manifest(tar.with_suffix(".json"))
    told = {"shard": manifest.sha256, "encoder": encoder.name}
    kept = _kept(path, told)
    if kept is not None:
        return kept
    faces = {
        sample.id: embed_face(encoder, pictures(sample.streams["crops"])).round(5)
        for sample in read_shard(tar)
        if "crops" in sample.streams
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        plain = {name: vector_E.tolist() for name, vector_E in faces.items()}
        file.write(json.dumps({**told, "faces": plain}).encode())
    return faces


def _kept(path: Path, told: dict) -> dict[str, np.ndarray] | None:
    try:
        kept = dict(json.loads(path.read_text(encoding="utf-8")))
        faces = dict(kept.pop("faces"))
        if kept != told:
            return None
        return {name: np.array(vector, np.float64) for name, vector in faces.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not made yet, or not to the end
