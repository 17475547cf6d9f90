"""Voices told apart: an embedding of who speaks, and groups of those that are near.

    embed = load_voice_encoder()                 # extra `diarize`
    embeddings = embed(sound_T, spans)
    tell_apart(embeddings, seconds)              # [0, 0, 1, 0, ...]

The encoder is GE2E (Wan et al. 2018, https://arxiv.org/abs/1710.10467) with the weights of
resemblyzer: 40 mel bands, three LSTM layers of 256, a linear layer, on windows of 1.6 s. Only the
weights are taken from that package: what it imports wants parts of setuptools that are gone.

Shapes: T samples, M mel frames, P windows, E = 256.
"""

import logging
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torchaudio
from torch import nn

from data_pipeline.errors import UserError
from data_pipeline.files.weights import resolve_weights
from data_pipeline.schema import SAMPLE_RATE
from data_pipeline.speaker.groups import by_appearance, near_groups

log = logging.getLogger(__name__)

WEIGHTS = "package:resemblyzer"
WIDTH, BANDS, LAYERS = 256, 40, 3
HOP = 160  # samples
WINDOW_FRAMES, STEP_FRAMES = 160, 77  # 1.6 s, 1.3 windows a second, as resemblyzer
LEAST_COVERED = 0.75
LEVEL_DBFS = -30.0
"""Quieter sound is raised to it, as resemblyzer does."""
SHORTEST_SECONDS = 0.8
"""Of less no embedding is made: its voice is told by its neighbours."""
SURE_SECONDS = 1.6
"""A whole window of the encoder; of less the embedding wanders."""
FARTHEST = 0.40
"""Cosine distance of two groups above which they are two voices; see docs/results/voices.md."""


class VoiceEncoderError(UserError):
    """The encoder of voices is not there."""


class VoiceEncoder(nn.Module):
    """Who speaks in a piece of sound, as a unit vector [E]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, WIDTH, LAYERS, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)

    @cached_property
    def _mel(self) -> torchaudio.transforms.MelSpectrogram:
        """That of librosa: slaney's bands and norm, power 2, zeros around the sound."""
        return torchaudio.transforms.MelSpectrogram(
            SAMPLE_RATE,
            n_fft=400,
            hop_length=HOP,
            n_mels=BANDS,
            norm="slaney",
            mel_scale="slaney",
            pad_mode="constant",
        )

    def forward(self, mel_PMB: torch.Tensor) -> torch.Tensor:
        """[P, E], each of length 1."""
        _, (hidden_LPE, _) = self.lstm(mel_PMB)
        return nn.functional.normalize(torch.relu(self.linear(hidden_LPE[-1])), dim=-1)

    @torch.inference_mode()
    def embed(self, sound_T: np.ndarray) -> np.ndarray:
        """[E], the mean over windows, of length 1."""
        sound_T = _raised(np.ascontiguousarray(sound_T, np.float32))
        starts = _window_starts(len(sound_T))
        missing = (starts[-1] + WINDOW_FRAMES) * HOP - len(sound_T)
        mel_MB = self._mel(torch.from_numpy(np.pad(sound_T, (0, max(0, missing))))).T
        mel_PMB = torch.stack([mel_MB[start : start + WINDOW_FRAMES] for start in starts])
        return nn.functional.normalize(self(mel_PMB).mean(dim=0), dim=0).numpy()


def _window_starts(num_samples: int) -> list[int]:
    """In mel frames; the last window may reach over the sound's end by a quarter."""
    num_frames = -(-(num_samples + 1) // HOP)
    starts = list(range(0, max(1, num_frames - WINDOW_FRAMES + STEP_FRAMES + 1), STEP_FRAMES))
    covered = (num_samples - starts[-1] * HOP) / (WINDOW_FRAMES * HOP)
    return starts[:-1] if covered < LEAST_COVERED and len(starts) > 1 else starts


def load_voice_encoder(weights: str = WEIGHTS) -> VoiceEncoder:
    """Raises VoiceEncoderError where the weights are not installed."""
    try:
        path = Path(resolve_weights(weights)) / "pretrained.pt"
    except ValueError as error:
        raise VoiceEncoderError(
            f"no encoder that tells voices apart: {error}; pip install -e .[diarize]"
        ) from error
    state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    encoder = VoiceEncoder()
    # Two more scalars scale the similarities of its training.
    encoder.load_state_dict({k: v for k, v in state.items() if not k.startswith("similarity")})
    return encoder.eval()


def embed_voices(
    encoder: VoiceEncoder, sound_T: np.ndarray, spans: list[tuple[float, float]]
) -> list[np.ndarray | None]:
    """Of each span (seconds) of `sound_T` an embedding [E]; None of one that is too short."""
    found = []
    for start, end in spans:
        piece_T = sound_T[max(0, round(start * SAMPLE_RATE)) : round(end * SAMPLE_RATE)]
        is_short = len(piece_T) < SHORTEST_SECONDS * SAMPLE_RATE
        found.append(None if is_short else encoder.embed(piece_T))
    return found


def tell_apart(
    embeddings: list[np.ndarray | None], seconds: list[float], farthest: float = FARTHEST
) -> list[int | None]:
    """A number for each piece: equal where the voices are near, counted in order of appearance.

    Pieces of SURE_SECONDS and more (all, where there are none) make the groups: agglomerative, by
    the mean cosine distance of two groups. A shorter one joins the nearest group; one without an
    embedding has its nearest neighbour's number, None where nothing has one.
    """
    known = [n for n, vector in enumerate(embeddings) if vector is not None]
    if not known:
        return [None] * len(embeddings)
    sure = [n for n in known if seconds[n] >= SURE_SECONDS] or known
    vectors_NE = np.stack([embeddings[n] for n in sure])
    groups = np.array(near_groups(vectors_NE, farthest, "cosine"))
    centres_GE = np.stack(
        [
            np.mean([embeddings[sure[at]] for at in np.flatnonzero(groups == group)], axis=0)
            for group in range(groups.max() + 1)
        ]
    )
    centres_GE /= np.linalg.norm(centres_GE, axis=1, keepdims=True)
    group_of = {n: int(np.argmax(centres_GE @ embeddings[n])) for n in known}
    group_of |= dict(zip(sure, groups.tolist(), strict=True))
    nearest = [min(known, key=lambda k, n=n: abs(k - n)) for n in range(len(embeddings))]
    found = [group_of[at] for at in nearest]
    return by_appearance(found)


def _raised(sound_T: np.ndarray) -> np.ndarray:
    """To LEVEL_DBFS where it is quieter."""
    power = float(np.mean(sound_T.astype(np.float64) ** 2))
    if power == 0:
        return sound_T
    gain = 10 ** ((LEVEL_DBFS - 10 * np.log10(power)) / 20)
    return sound_T * np.float32(max(1.0, gain))
