"""`crops`: the speaker's aligned grey face itself, for streams of faces that are made later.

Off by default: 2 KB a face, 23 KB a second, some three times what the features of a face take.
"""

from dataclasses import dataclass

import numpy as np
from pydantic import PositiveInt

from data_pipeline.features.extractors import Evidence
from data_pipeline.schema import FeatureSpec, Stream

NEEDS = frozenset({"face"})
STREAMS = ("crops",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    size: PositiveInt = 48
    """Side, in pixels, which all streams of faces must share; 48 is what the encoder that ships
    with the project reads."""


class Crops:
    """Rows of size x size pixels, uint8, 10 a second."""

    def __init__(self, settings: Settings) -> None:
        self.crop_size = settings.size
        spec = FeatureSpec(
            name="crops",
            weights_sha256="",
            layer=0,
            pooling=1,
            rate_hz=10.0,
            width=settings.size**2,
            preprocessing=f"align5-{settings.size}-grey",
            dtype="uint8",
            clock="crops",
        )
        self.passport = {"crops": spec}

    def __call__(self, evidence: Evidence) -> dict[str, Stream]:
        values_ND = np.ascontiguousarray(evidence.crops_KHW).reshape(len(evidence.crops_KHW), -1)
        return {"crops": Stream(values_ND=values_ND, seconds_N=evidence.crop_seconds_K)}


def pictures(stream: Stream) -> np.ndarray:
    """[K, H, W] uint8 of a stored stream of crops."""
    side = round(stream.values_ND.shape[1] ** 0.5)
    return stream.values_ND.reshape(-1, side, side)


def load(settings: Settings, device: str) -> Crops:
    return Crops(settings)
