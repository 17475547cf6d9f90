"""`face`, `face_probs`: what a frozen expression network says of the speaker's face, 10 a second.

Shapes: F faces.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np

from data_pipeline.features.extractors import Evidence
from data_pipeline.paths import PathText
from data_pipeline.schema import EXPRESSIONS, Stream

NEEDS = frozenset({"face"})
STREAMS = ("face", "face_probs")


@dataclass(frozen=True, kw_only=True)
class Settings:
    encoder: PathText = "densenet_ferplus"
    """Expression encoder: a folder, or what ships with the project."""


class Face:
    """`face` [F, 342] and `face_probs` [F, 8], float16, at the same times."""

    def __init__(self, settings: Settings, device: str) -> None:
        from data_pipeline.features.expression import load_expression_encoder  # loads torch

        self.encoder = load_expression_encoder(settings.encoder, device=device)
        self.crop_size = self.encoder.crop_size
        face = dataclasses.replace(self.encoder.spec, clock="face")
        probs = dataclasses.replace(face, width=len(EXPRESSIONS))
        self.passport = {"face": face, "face_probs": probs}

    def __call__(self, evidence: Evidence) -> dict[str, Stream]:
        seconds_F = evidence.crop_seconds_K.astype(np.float32)
        values = self.encoder(evidence.crops_KHW)
        return {
            name: Stream(values_ND=value.astype(np.float16), seconds_N=seconds_F)
            for name, value in zip(STREAMS, values, strict=True)
        }


def load(settings: Settings, device: str) -> Face:
    return Face(settings, device)
