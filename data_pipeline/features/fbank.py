"""`fbank`: Kaldi-style log-mel filter banks of the sound, by torchaudio. It has no weights.

Shapes: T samples, N frames, M mel bins.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from data_pipeline.config import Positive
from data_pipeline.features.extractors import Evidence
from data_pipeline.schema import SAMPLE_RATE, FeatureSpec, Stream

NEEDS = frozenset({"sound"})
STREAMS = ("fbank",)
FRAME_MS = 25.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    mel_bins: Annotated[int, Field(ge=4)] = 80
    """Bands, from 20 Hz to 8 kHz; torchaudio takes 4 or more."""
    shift_ms: Positive = 10.0
    """From one frame to the next; a frame is 25 ms long."""

    def __post_init__(self) -> None:
        if not (self.shift_ms * SAMPLE_RATE / 1000).is_integer():
            raise ValueError(
                f"shift_ms is {self.shift_ms:g}; expected whole samples of {SAMPLE_RATE} Hz, such "
                "as 10 or 12.5"
            )


class Fbank:
    """Log-mel energies [N, M] float16; torchaudio.compliance.kaldi.fbank without dither."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        spec = FeatureSpec(
            name=f"kaldi-fbank{settings.mel_bins}",
            weights_sha256="",
            layer=0,
            pooling=1,
            rate_hz=1000 / settings.shift_ms,
            width=settings.mel_bins,
            preprocessing=f"povey-{FRAME_MS:g}ms-16bit-scale-nodither",
        )
        self.passport = {"fbank": spec}

    def __call__(self, evidence: Evidence) -> dict[str, Stream]:
        import torch
        from torchaudio.compliance.kaldi import fbank

        if len(evidence.sound_T) < FRAME_MS * SAMPLE_RATE / 1000:
            return {}
        sound_1T = torch.from_numpy(np.ascontiguousarray(evidence.sound_T))[None]
        values_NM = fbank(
            sound_1T * 2**15,  # Kaldi's scale: 16-bit integers
            sample_frequency=SAMPLE_RATE,
            num_mel_bins=self.settings.mel_bins,
            frame_length=FRAME_MS,
            frame_shift=self.settings.shift_ms,
            dither=0.0,
        )
        seconds_N = self.passport["fbank"].seconds(len(values_NM))
        values_ND = values_NM.numpy().astype(np.float16)
        return {"fbank": Stream(values_ND=values_ND, seconds_N=seconds_N)}


def load(settings: Settings, device: str) -> Fbank:
    return Fbank(settings)
