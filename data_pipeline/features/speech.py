"""`speech`: pooled states of a frozen speech encoder of the wav2vec2 kind, where somebody speaks.

Shapes: S states, D width.
"""

from dataclasses import dataclass

from pydantic import PositiveInt

from data_pipeline.features.extractors import Evidence
from data_pipeline.paths import PathText
from data_pipeline.schema import Stream

NEEDS = frozenset({"voice"})
STREAMS = ("speech",)


@dataclass(frozen=True, kw_only=True)
class Settings:
    encoder: PathText = "wav2vec2_small"
    """A folder, a hub name such as facebook/wav2vec2-base, or what ships with the project."""
    layer: int = -1
    """Index into the hidden states; -1 is the last."""
    pooling: PositiveInt = 3
    """Mean over this many states; 3 of wav2vec2's are 60 ms."""


class Speech:
    """`speech` [S, D] float16."""

    def __init__(self, settings: Settings, device: str) -> None:
        from data_pipeline.features.wav2vec2 import load_speech_encoder  # loads torch

        self.encoder = load_speech_encoder(
            settings.encoder, layer=settings.layer, pooling=settings.pooling, device=device
        )
        self.passport = {"speech": self.encoder.spec}

    def __call__(self, evidence: Evidence) -> dict[str, Stream]:
        from data_pipeline.features.wav2vec2 import ShortSoundError

        try:
            values_SD = self.encoder(evidence.sound_T)
        except ShortSoundError:
            return {}
        seconds_S = self.encoder.spec.seconds(len(values_SD))
        return {"speech": Stream(values_ND=values_SD, seconds_N=seconds_S)}


def load(settings: Settings, device: str) -> Speech:
    return Speech(settings, device)
