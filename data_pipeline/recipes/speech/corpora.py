"""The speech the small wav2vec2 is distilled from and probed on, read from MEMOBERT_SHARED.

ravdess, emodb   acted emotions: probes, and distillation without the held-out speakers
grid             one speaker, fixed sentences, word alignments: word probes, distillation
grid_multi, cremad   a few more voices: distillation only
talking_heads    people in the wild; their note allows tests only, so nothing is trained on them
"""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.schema import SAMPLE_RATE

ALIGNMENT_UNITS_PER_SECOND = 25_000
HELD_OUT_SPEAKERS = {"ravdess": ("19", "20", "21", "22"), "emodb": ("14", "15")}
"""Their sound takes no part in the distillation."""
DISTILLED = ("ravdess", "emodb", "grid", "grid_multi", "cremad")


class CorpusError(UserError):
    """A corpus is not where or what it should be."""


@dataclass(frozen=True, kw_only=True)
class Word:
    """A spoken word of an alignment."""

    text: str
    start: float
    """Seconds."""
    end: float
    """Seconds."""


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One sound file and what is known of it."""

    corpus: str
    id: str
    path: Path
    speaker: str
    label: str | None = None
    """The emotion, where the corpus has one."""
    words: tuple[Word, ...] = ()

    @property
    def held_out(self) -> bool:
        return self.speaker in HELD_OUT_SPEAKERS.get(self.corpus, ())


def shared_folder() -> Path:
    """`$MEMOBERT_SHARED/data`, by default beside the repository; CorpusError if it is not there."""
    default = Path(__file__).resolve().parents[4] / "shared"
    folder = Path(os.environ.get("MEMOBERT_SHARED", default)) / "data"
    if not folder.is_dir():
        raise CorpusError(f"no folder {folder}; set MEMOBERT_SHARED to the folder that holds data/")
    return folder


def read_sound(path: Path) -> np.ndarray:
    """The first audio track of any file as [T] float32, mono, 16 kHz."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    with av.open(str(path)) as container:
        if not container.streams.audio:
            raise CorpusError(f"{path} has no audio track")
        frames = [out for f in container.decode(audio=0) for out in resampler.resample(f)]
        frames += resampler.resample(None)
    return np.concatenate([f.to_ndarray().reshape(-1) for f in frames]).astype(np.float32)


def read_alignment(path: Path) -> tuple[Word, ...]:
    """The words of a GRID alignment (`start end word`, 25,000 units a second), no silences."""
    words = []
    for line in path.read_text().splitlines():
        start, end, text = line.split()
        if text not in ("sil", "sp"):
            seconds = (
                int(start) / ALIGNMENT_UNITS_PER_SECOND,
                int(end) / ALIGNMENT_UNITS_PER_SECOND,
            )
            words.append(Word(text=text, start=seconds[0], end=seconds[1]))
    return tuple(words)


def read_corpus(name: str, folder: Path | None = None) -> list[Utterance]:
    """All utterances of one corpus, in the order of their file names."""
    if name not in _READERS:
        raise CorpusError(f"no corpus {name!r}; known: {', '.join(sorted(_READERS))}")
    folder = shared_folder() if folder is None else folder
    return sorted(_READERS[name](folder), key=lambda utterance: utterance.id)


def _rows(folder: Path) -> Iterator[dict[str, str]]:
    with open(folder / "metadata.csv", newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _emotional(corpus: str, folder: Path, speaker: str) -> Iterator[Utterance]:
    for row in _rows(folder):
        yield Utterance(
            corpus=corpus,
            id=row["utt_id"],
            path=folder / row["file"],
            speaker=row[speaker],
            label=row["emotion"],
        )


def _ravdess(folder: Path) -> Iterator[Utterance]:
    return _emotional("ravdess", folder / "ravdess_audio", "actor")


def _emodb(folder: Path) -> Iterator[Utterance]:
    return _emotional("emodb", folder / "emodb", "speaker")


def _cremad(folder: Path) -> Iterator[Utterance]:
    return _emotional("cremad", folder / "cremad", "actor")


def _grid(folder: Path) -> Iterator[Utterance]:
    folder = folder / "grid_s1"
    for row in _rows(folder):
        yield Utterance(
            corpus="grid",
            id=row["utt_id"],
            path=folder / row["file"],
            speaker=row["speaker"],
            words=read_alignment(folder / "align" / f"{row['utt_id']}.align"),
        )


def _grid_multi(folder: Path) -> Iterator[Utterance]:
    folder = folder / "grid_multi"
    for row in _rows(folder):
        yield Utterance(
            corpus="grid_multi",
            id=row["utt_id"],
            path=folder / row["file"],
            speaker=row["person_by_eye"],
        )


def _talking_heads(folder: Path) -> Iterator[Utterance]:
    folder = folder / "talking_heads"
    for row in _rows(folder):
        yield Utterance(
            corpus="talking_heads",
            id=row["clip_id"],
            path=folder / row["file"],
            speaker=row["clip_id"],
        )


_READERS = {
    "ravdess": _ravdess,
    "emodb": _emodb,
    "cremad": _cremad,
    "grid": _grid,
    "grid_multi": _grid_multi,
    "talking_heads": _talking_heads,
}
