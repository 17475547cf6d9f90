"""What a published network says of one face: the log odds that it speaks.

    evidence = SpeakerEvidence("weights/light_asd/pretrain_AVA_CVPR.model")
    log_odds = evidence.score(face_FHW, seconds_F, sound_T, voice)

The networks (data_pipeline.speaker.asd_networks) want what their authors fed them: grey faces of
112 x 112 pixels, 25 a second, and 13 mel cepstra, 100 a second, of 16-bit sound. Their weights do
not ship; a user names the file in active_speaker.network.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.fft import dct

from data_pipeline.schema import SAMPLE_RATE
from data_pipeline.speaker.asd_networks import LRASD, LightASD, load_speaker_network
from data_pipeline.speaker.synchrony import MIN_SECONDS, RATE, time_grid
from data_pipeline.speaker.voice import VoiceActivity

CEPSTRA, MEL_BANDS, FFT = 13, 26, 512
FRAME, HOP = 400, 160  # samples: 25 and 10 ms
PREEMPHASIS, LIFTER = 0.97, 22
HOPS_PER_FRAME = 4
WINDOW_FRAMES = 500  # 20 s at once: memory grows with it


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Of the faces that pass both bars the one with the highest sum speaks."""

    weight: float
    """The sum is synchrony + weight x mean log odds."""
    min_log_odds: float
    min_synchrony: float = 0.0
    """A mouth that goes against the sound does not speak, whatever a network says."""


JOINT = {
    LightASD: Joint(weight=0.03, min_log_odds=2.25),
    LRASD: Joint(weight=0.03, min_log_odds=5.25),
}
"""Fitted by data_pipeline.recipes.speaker_rule on the studio people of
docs/results/active_speaker.md, with the weights trained on AVA-ActiveSpeaker."""


class SpeakerEvidence:
    """One network, loaded once; judges one face at a time."""

    def __init__(self, path: str | Path) -> None:
        self.network = load_speaker_network(path)
        self.joint = JOINT[type(self.network)]

    def score(
        self,
        face_FHW: np.ndarray,
        seconds_F: np.ndarray,
        sound_T: np.ndarray,
        voice: VoiceActivity,
    ) -> float | None:
        """Mean log odds that the face speaks over the voice it is seen in; None if that is short.

        face_FHW: uint8 grey, faces.picture of each frame; sound from the clip's start.
        """
        grid_N = time_grid(seconds_F)
        voiced_N = voice.voiced_at(grid_N + 0.5 / RATE)
        if voiced_N.sum() < MIN_SECONDS * RATE:
            return None
        log_odds_N = self.log_odds(face_FHW, seconds_F, sound_T)
        return float(log_odds_N[voiced_N].mean())

    def log_odds(
        self, face_FHW: np.ndarray, seconds_F: np.ndarray, sound_T: np.ndarray
    ) -> np.ndarray:
        """[N] log odds at each tick of the face's time grid."""
        grid_N = time_grid(seconds_F)
        nearest_N = nearest(seconds_F, grid_N)
        found = []
        for start in range(0, len(grid_N), WINDOW_FRAMES):
            at_N = grid_N[start : start + WINDOW_FRAMES]
            pictures_NHW = face_FHW[nearest_N[start : start + WINDOW_FRAMES]]
            cepstra_SK = cepstra(_sound_of(sound_T, at_N[0], len(at_N)))
            with torch.inference_mode():
                face = self.network.face(torch.from_numpy(pictures_NHW)[None])
                sound = self.network.sound(torch.from_numpy(cepstra_SK)[None])
                found.append(self.network(face, sound)[0].numpy())
        return np.concatenate(found)


@functools.cache
def load_evidence(path: str) -> SpeakerEvidence:
    """The network of this file, on the CPU, kept for the clips to come."""
    return SpeakerEvidence(path)


def nearest(seconds_F: np.ndarray, at_N: np.ndarray) -> np.ndarray:
    """[N] index of the frame nearest to each time."""
    right_N = np.clip(np.searchsorted(seconds_F, at_N), 1, max(1, len(seconds_F) - 1))
    left_N = right_N - 1
    right_N = np.minimum(right_N, len(seconds_F) - 1)
    return np.where(at_N - seconds_F[left_N] <= seconds_F[right_N] - at_N, left_N, right_N)


def cepstra(sound_T: np.ndarray) -> np.ndarray:
    """[S, 13] float32 mel cepstra, 100 a second, of float32 [T] at 16 kHz.

    As python_speech_features has them by default, which both networks were trained on: 16-bit
    sound, preemphasis .97, frames of 25 ms without a window, 26 bands, orthonormal DCT, lifter 22,
    and the log of the frame's energy in place of the first.
    """
    emphasized_T = np.append(sound_T[:1], sound_T[1:] - PREEMPHASIS * sound_T[:-1]) * 32768.0
    num_frames = max(1, -(-(len(sound_T) - FRAME) // HOP) + 1)
    padded_T = np.zeros((num_frames - 1) * HOP + FRAME)
    padded_T[: len(emphasized_T)] = emphasized_T
    frames_SW = np.lib.stride_tricks.sliding_window_view(padded_T, FRAME)[::HOP]
    power_SB = np.abs(np.fft.rfft(frames_SW, FFT)) ** 2 / FFT
    tiny = np.finfo(float).eps
    energy_S = np.maximum(power_SB.sum(axis=1), tiny)
    log_SM = np.log(np.maximum(power_SB @ _mel_bands().T, tiny))
    cepstra_SK = dct(log_SM, type=2, axis=1, norm="ortho")[:, :CEPSTRA]
    cepstra_SK *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(CEPSTRA) / LIFTER)
    cepstra_SK[:, 0] = np.log(energy_S)
    return cepstra_SK.astype(np.float32)


@functools.cache
def _mel_bands() -> np.ndarray:
    """[26, 257] triangles from 0 to 8 kHz, evenly spaced in mel, corners on whole FFT bins."""
    mel = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), MEL_BANDS + 2)
    corner = np.floor((FFT + 1) * 700 * (10 ** (mel / 2595) - 1) / SAMPLE_RATE)
    low, middle, high = (x[:, None] for x in (corner[:-2], corner[1:-1], corner[2:]))
    at = np.arange(FFT // 2 + 1)
    rise = np.where((at >= low) & (at < middle), (at - low) / np.maximum(middle - low, 1), 0)
    fall = np.where((at >= middle) & (at < high), (high - at) / np.maximum(high - middle, 1), 0)
    return rise + fall


def _sound_of(sound_T: np.ndarray, start: float, num_frames: int) -> np.ndarray:
    """The sound beside `num_frames` frames from `start` seconds on: 4 hops each, silence beyond."""
    first = round(start * SAMPLE_RATE)
    # The last frame of cepstra reaches 15 ms beyond its hop.
    length = (num_frames * HOPS_PER_FRAME - 1) * HOP + FRAME
    piece_T = sound_T[first : first + length]
    return np.pad(piece_T, (0, length - len(piece_T)))
