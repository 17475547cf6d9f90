"""What the small wav2vec2 learns from: sounds, and for each state the teachers' and the prosody.

A book holds one corpus at one speed (a speed change by resampling moves pitch and formants too, so
it makes new voices). The teachers hear clean sound; the student hears it after `disturb`.

Shapes: B crops, T samples, S states, E numbers of all teacher states, P of the prosody.
"""

import itertools
import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data_pipeline.recipes.speech.corpora import read_corpus, read_sound
from data_pipeline.recipes.speech.disturb import disturb, span_mask
from data_pipeline.recipes.speech.prosody import COLUMNS, VOICED, prosody
from data_pipeline.recipes.speech.teachers import (
    HOP,
    TEACHER_SECONDS,
    LogMel,
    WhisperEncoder,
    base,
    normalized,
    num_states,
    teacher_mel,
    tiny_en,
)
from data_pipeline.recipes.speech.voices import readings, speak
from data_pipeline.schema import SAMPLE_RATE

log = logging.getLogger(__name__)

READ, READ_PART = "read", 400
"""Books of sentences that machines read: read0 holds the first 400, read1 the next."""
SHARES = {"ravdess": 0.45, "emodb": 0.25, "grid": 0.28, "grid_multi": 0.01, "cremad": 0.01}
"""Of each corpus in the real sound of a batch."""
TARGETS = {"tiny": 384, "base3": 512, "base4": 512, "base": 512}
"""Teacher states in a book, and their widths: the last of tiny.en, 3, 4 and the last of base."""
CROP_SECONDS = (1.6, 3.0)
"""Two lengths in turn, so that the short files are crops as well and never padded ones."""


def change_speed(sound_T: np.ndarray, speed: float) -> np.ndarray:
    """Faster and higher for speed > 1, by resampling."""
    if speed == 1.0:
        return sound_T
    from torchaudio.functional import resample

    per_second = 100
    rate = round(per_second * speed)
    return resample(torch.from_numpy(sound_T), rate, per_second).numpy()


class Teachers:
    """Whisper tiny.en and Whisper base, and which of their states a book keeps."""

    def __init__(self) -> None:
        self.log_mel = LogMel()
        self.tiny, self.base = WhisperEncoder(tiny_en()), WhisperEncoder(base())

    def __call__(self, sounds: list[np.ndarray]) -> list[np.ndarray]:
        """[S, E] float16 of each sound, the columns of TARGETS side by side."""
        mels = np.stack([teacher_mel(self.log_mel, sound) for sound in sounds])
        mel_BFM = torch.from_numpy(mels)
        deep = self.base(mel_BFM)
        state_BSE = torch.cat([self.tiny(mel_BFM)[-1], deep[2], deep[3], deep[-1]], -1).half()
        return [
            x[: num_states(len(sound))].numpy() for x, sound in zip(state_BSE, sounds, strict=True)
        ]


def book_sounds(name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Name and sound of what the student may hear of a corpus; those of `readN` are made here."""
    if name.startswith(READ):
        first = READ_PART * int(name.removeprefix(READ))
        for i, (text, voice) in enumerate(readings(first + READ_PART)):
            if i >= first:
                yield f"{i:05}", speak(voice, text)[: TEACHER_SECONDS * SAMPLE_RATE]
    else:
        for utterance in read_corpus(name):
            if not utterance.held_out:
                yield utterance.id, read_sound(utterance.path)


def teach(work: Path, names: Sequence[str], speed: float) -> None:
    """Write the books of these names; one that is there is not written again."""
    teachers = Teachers()
    for name in names:
        path = work / f"{name}_{speed}"
        if path.is_dir():
            continue
        start, rows = time.monotonic(), []
        sounds = ((id_, normalized(change_speed(x, speed))) for id_, x in book_sounds(name))
        while group := list(itertools.islice(sounds, 4)):
            states = teachers([sound for _, sound in group])
            rows += [(*row, s, prosody(row[1])) for row, s in zip(group, states, strict=True)]
        write_book(path, rows)
        log.info("%s: %d sounds in %.0f s", path.name, len(rows), time.monotonic() - start)


def write_book(path: Path, rows: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """Id, sound, teacher states and prosody of each sound, in float16; the folder appears whole."""
    part = path.with_suffix(path.suffix + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for column, kind in enumerate(("sound", "states", "prosody"), start=1):
        whole = np.concatenate([row[column] for row in rows])
        np.save(part / f"{kind}.npy", whole.astype(np.float16))
    index = [[id_, len(sound), len(states)] for id_, sound, states, _ in rows]
    (part / "index.json").write_text(json.dumps(index))
    part.rename(path)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A sound [T] and for each of its states the teachers' [S, E] and the prosody [S, P]."""

    sound_T: np.ndarray
    states_SE: np.ndarray
    prosody_SP: np.ndarray


def read_book(path: Path) -> list[Lesson]:
    """The lessons of a book, memory-mapped."""
    if not path.is_dir():
        raise FileNotFoundError(f"no book {path}; run `teach` first")
    arrays = [
        np.load(path / f"{kind}.npy", mmap_mode="r", allow_pickle=False)
        for kind in ("sound", "states", "prosody")
    ]
    index = json.loads((path / "index.json").read_text())
    at = np.cumsum([[0, 0]] + [row[1:] for row in index], axis=0)
    sound, states, tone = arrays
    return [
        Lesson(sound_T=sound[t0:t1], states_SE=states[s0:s1], prosody_SP=tone[s0:s1])
        for (t0, s0), (t1, s1) in itertools.pairwise(at)
    ]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Crops and their standardized targets."""

    sound_BT: torch.Tensor
    target_BSE: torch.Tensor
    moment_BE2: torch.Tensor
    """[B, 2 E] mean and deviation of a crop's targets over time, on the scale of their own spread
    over sounds: between sounds they differ much less than states do."""
    prosody_BSP: torch.Tensor
    voiced_BS: torch.Tensor
    """Where the pitch is one."""
    mask_BS: torch.Tensor


class Lessons:
    """Books of some corpora at some speeds; draws batches by (seed, step)."""

    def __init__(
        self,
        work: Path,
        shares: dict[str, float],
        speeds: Sequence[float] = (1.0,),
        targets: Sequence[str] = tuple(TARGETS),
        kind: str = "varied",
        together: bool = False,
    ) -> None:
        self.kind, self.together = kind, together
        self.names, share = list(shares), np.array(list(shares.values()))
        self.share = share / share.sum()
        self.books = {
            name: [x for speed in speeds for x in read_book(work / f"{name}_{speed}")]
            for name in self.names
        }
        ends = dict(zip(TARGETS, np.cumsum(list(TARGETS.values())), strict=True))
        self.columns = np.concatenate(
            [np.arange(ends[name] - TARGETS[name], ends[name]) for name in targets]
        )
        self._scale()

    def _scale(self) -> None:
        """Mean and deviation of targets, of their moments and of prosody, over a few hundred real
        sounds; what machines read does not count, so that all recipes have one scale."""
        known = [x for name in SHARES for x in self.books[name][::5]]
        states = [x.states_SE[:, self.columns].astype(np.float32) for x in known]
        every = np.concatenate(states)
        self.mean_E, self.std_E = every.mean(0), every.std(0)
        moments = np.stack([self.moments((s - self.mean_E) / self.std_E) for s in states])
        self.moment_mean, self.moment_std = moments.mean(0), np.maximum(moments.std(0), 1e-3)
        tone = np.concatenate([x.prosody_SP for x in known]).astype(np.float32)
        self.tone_mean, self.tone_std = tone.mean(0), tone.std(0)
        pitch = tone[tone[:, COLUMNS.index("voicing")] > VOICED, 0]
        self.tone_mean[0], self.tone_std[0] = pitch.mean(), pitch.std()

    @staticmethod
    def moments(target_SE: np.ndarray) -> np.ndarray:
        return np.concatenate([target_SE.mean(0), target_SE.std(0)])

    def _sounds(self, length: int, count: int, rng: np.random.Generator) -> list[Lesson]:
        """Sounds that are long enough, of a corpus drawn by its share: one for each, or for all of
        them `together`, so that what tells them apart is not the corpus."""
        found: list[Lesson] = []
        book = None
        while len(found) < count:
            if book is None or not self.together:
                book = self.books[self.names[rng.choice(len(self.names), p=self.share)]]
                book = [x for x in book if len(x.sound_T) >= length]
            if book:
                found.append(book[rng.integers(len(book))])
            else:
                book = None
        return found

    def _crop(self, lesson: Lesson, length: int, rng: np.random.Generator) -> Lesson:
        states = num_states(length)
        first = int(rng.integers((len(lesson.sound_T) - length) // HOP + 1))
        return Lesson(
            sound_T=lesson.sound_T[first * HOP : first * HOP + length].astype(np.float32),
            states_SE=lesson.states_SE[first : first + states, self.columns].astype(np.float32),
            prosody_SP=lesson.prosody_SP[first : first + states].astype(np.float32),
        )

    def batch(self, seed: int, step: int, batch_seconds: float, mask_share: float) -> Batch:
        """The batch of one step; the same for the same arguments. Half of the crops have about
        `mask_share` of their states masked."""
        rng = np.random.default_rng((seed, step))
        seconds = CROP_SECONDS[step % 2]
        count = round(batch_seconds / seconds)
        length = int(seconds * SAMPLE_RATE)
        crops = [self._crop(x, length, rng) for x in self._sounds(length, count, rng)]
        clean = [x.sound_T for x in crops]
        sounds = [disturb(self.kind, x, clean[:i], rng) for i, x in enumerate(clean)]
        targets = [(x.states_SE - self.mean_E) / self.std_E for x in crops]
        moments = [
            (self.moments(target) - self.moment_mean) / self.moment_std for target in targets
        ]
        tones = [(x.prosody_SP - self.tone_mean) / self.tone_std for x in crops]
        voiced = [x.prosody_SP[:, COLUMNS.index("voicing")] > VOICED for x in crops]
        masks = [span_mask(len(t), mask_share * rng.integers(2), rng) for t in targets]
        stacked = [torch.from_numpy(np.stack(rows)) for rows in (targets, moments, tones, voiced)]
        return Batch(
            sound_BT=torch.from_numpy(np.stack(sounds).astype(np.float32)),
            target_BSE=stacked[0],
            moment_BE2=stacked[1],
            prosody_BSP=stacked[2],
            voiced_BS=stacked[3],
            mask_BS=torch.from_numpy(np.stack(masks)),
        )
