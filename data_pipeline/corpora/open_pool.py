"""The open pool: what the recognizer that ships learns from and is judged on, in seven emotions.

As in the composed benchmark (data_pipeline.corpora.composed) a clip here is made of open data that
share nothing but an emotion: the voice of RAVDESS or EmoDB, faces of FER+, a sentence of MELD or
EmoryNLP. It differs in what a recognizer has to bear afterwards:

- seven classes, and beside composed clips single sources (voice, face or sentence alone) and pairs,
  so that each modality is taught by itself and any subset of them is met;
- a face is held for a stretch and may be neutral for a part of the clip, as an expression on film
  is at its peak in some frames alone, and some frames show any expression, as a mouth that speaks
  does;
- no channel always shows the emotion, the sentence least of all, but one of them always does;
- most voices of training are heard at another speed, many in noise, in a room or by telephone
  (data_pipeline.recipes.compose).

Everything is divided before anything is drawn, and no source item crosses:

    split   voices                             FER+ images                sentences
    pool    RAVDESS 2-14, EmoDB, GRID          train                      train
    train   the same                           train; valid, even rows    train
    dev     RAVDESS 15-18, EmoDB 13            valid, odd rows            dev
    test    RAVDESS 19-22, EmoDB 14 and 15     test                       test

`pool` is for pretraining and has no labels. RAVDESS actor 1 is left out, who speaks in the one
RAVDESS video that the recognizer is shown. GRID's speakers read commands without emotion and count
as neutral voices. Sentences: MELD's own splits, and to train EmoryNLP's of episodes that MELD's dev
and test have nothing of; one whose words dev or test has is left out. Of equal images one is taken.

    python -m data_pipeline.corpora open_pool ../shared/data --output runs/shipped/pool.csv
    python -m data_pipeline.recipes.compose runs/shipped/pool.csv --output runs/shipped/shards
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.corpora._open_data import (
    read_rows,
    rows_of_classes,
    single_images,
)
from data_pipeline.schema import Reject
from data_pipeline.table.clips import OnReject
from data_pipeline.table.words import normalize_text

SEED = 0
CLASSES = {  # class: (RAVDESS and GRID, EmoDB, FER+, MELD, EmoryNLP)
    "neutral": (("neutral", "calm"), "neutral", "neutral", "neutral", "Neutral"),
    "happy": (("happy",), "happiness", "happiness", "joy", "Joyful"),
    "sad": (("sad",), "sadness", "sadness", "sadness", "Sad"),
    "angry": (("angry",), "anger", "anger", "anger", "Mad"),
    "fear": (("fearful",), "fear", "fear", "fear", "Scared"),
    "disgust": (("disgust",), "disgust", "disgust", "disgust", None),
    "surprise": (("surprised",), None, "surprise", "surprise", None),
}
ACTORS = {"train": range(2, 15), "dev": range(15, 19), "test": range(19, 23)}
EMODB = {
    "train": ("03", "08", "09", "10", "11", "12"),
    "dev": ("13",),
    "test": ("14", "15"),
}
GRID_STEP = 10
"""Of the many clips of GRID's speaker 1, each so many-th."""
SHOWS = {"voice": 0.75, "face": 0.6, "text": 0.4}
"""Share of the composed clips whose channel shows the emotion; in the others it is neutral."""
PAIRS = 0.4
"""Share of the composed clips of pool and train that lack one modality."""
FACES = (1, 30)
"""Least and most frames of a clip, 10 a second."""
IMAGES = (1, 5)
"""Least and most images that they are held from."""
PEAK = 0.3
"""Least share of the frames that shows the expression; the others are neutral."""
STRAY = 0.25
"""Largest share of the frames that show any expression instead."""
WORDS = (4, 25)
"""Of a sentence of a composed clip."""
SOUNDS = ("clean", "1", "2")
"""How a voice of pool and train is heard: as it is, or disturbed by these seeds."""
COMPOSED = {"pool": 400, "train": 600, "dev": 60, "test": 80}
VOICES = {"pool": 100, "train": 300}
FACES_ALONE = {"pool": 50, "train": 300}
SENTENCES_ALONE = {"pool": 300, "train": 900}
"""Clips a class of each kind; of what has no number here each item is one clip, as it comes."""
EXPECTED = (
    "ravdess_audio/, emodb/, grid_s1/ and grid_multi/, each with metadata.csv, "
    "ferplus/ferplus_{train,valid,test}.npz, text/meld/{train,dev,test}_sent_emo.csv and "
    "text/emorynlp/emorynlp_{train,dev,test}_final.csv"
)


@dataclass(frozen=True, kw_only=True)
class Voice:
    """One recorded utterance."""

    corpus: str
    speaker: str
    path: Path
    text: str


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What the clips of one split are drawn from, each by class."""

    voices: dict[str, list[Voice]]
    images: list[tuple[str, dict[str, np.ndarray]]]
    """Splits of FER+ with their rows."""
    sentences: dict[str, list[tuple[str, str]]]
    """(corpus, text)."""


def clips(root: Path, on_reject: OnReject) -> list[dict[str, str]]:
    """A row for each clip; `root` holds the folders of EXPECTED.

    Columns beside those of the clip table: `split`, which is `recording` too; `images`, "valid 17
    17 402" are rows of ferplus_valid.npz, a frame each; `sound`, how the voice is heard: clean, a
    seed of disturbances, or none; and what each channel of a composed clip shows.
    """
    single = single_images(root / "ferplus")
    for split, single_N in single.items():
        on_reject(_repeated(root / "ferplus", split, single_N))
    voices, sentences = _voices(root, on_reject), _sentences(root / "text")
    rows: list[dict[str, str]] = []
    for number, split in enumerate(COMPOSED):
        rng = np.random.default_rng(np.random.SeedSequence((SEED, number)))
        part = "train" if split == "pool" else split
        sources = Sources(
            voices=voices[part],
            images=_images(root / "ferplus", split, single),
            sentences=sentences[part],
        )
        made = [
            *_composed(split, sources, rng),
            *_voices_alone(split, sources, rng),
            *_faces_alone(split, sources, root / "ferplus", rng),
            *_sentences_alone(split, sources, root / "text", rng),
        ]
        rows += [{**row, "id": f"{split}-{n:05d}-{row['id']}"} for n, row in enumerate(made)]
    return rows


def _row(split: str, label: str, corpus: str, kind: str, **columns: Any) -> dict[str, str]:
    nothing = {"text": "", "speaker": "", "images": "", "sound": "none"}
    return {
        "id": kind,
        "corpus": corpus,
        "recording": split,
        "split": split,
        "label": "" if split == "pool" else label,
        **nothing,
        **{name: str(value) for name, value in columns.items()},
    }


def _composed(split: str, sources: Sources, rng: np.random.Generator) -> Iterator[dict[str, str]]:
    for label in CLASSES:
        for _ in range(COMPOSED[split]):
            shown = _shown(label, rng)
            voice = _any(sources.voices[shown["voice"]], rng)
            row = _row(
                split,
                label,
                "open_pool",
                "composed",
                video=voice.path,
                speaker=f"{voice.corpus}-{voice.speaker}",
                sound=_heard(split, rng),
                images=_held(split, shown["face"], sources, rng),
                text=_any(_sayable(sources.sentences[shown["text"]]), rng)[1],
                **{f"{channel}_emotion": emotion for channel, emotion in shown.items()},
            )
            yield row | (_without(label, shown, rng) if split in ("pool", "train") else {})


def _shown(label: str, rng: np.random.Generator) -> dict[str, str]:
    """Channel to the emotion that it shows; one channel at least has the label's."""
    while True:
        shows = {channel: rng.random() < share for channel, share in SHOWS.items()}
        if any(shows.values()):
            return {channel: label if yes else "neutral" for channel, yes in shows.items()}


def _without(label: str, shown: dict[str, str], rng: np.random.Generator) -> dict[str, str]:
    """In some clips, the columns that take one modality away; never the only one that shows."""
    if rng.random() >= PAIRS:
        return {}
    gone = {"voice": {"sound": "none"}, "face": {"images": ""}, "text": {"text": ""}}
    showing = [channel for channel, emotion in shown.items() if emotion == label]
    free = [channel for channel in gone if showing != [channel]]
    return gone[_any(free, rng)]


def _held(split: str, emotion: str, sources: Sources, rng: np.random.Generator) -> str:
    """Column `images` of a face that shows `emotion` in a stretch of the clip."""
    name, rows_of = _any(sources.images, rng)
    num_frames = int(rng.integers(FACES[0], FACES[1] + 1))
    drawn = rng.choice(rows_of[emotion], size=rng.integers(IMAGES[0], IMAGES[1] + 1))
    row_F = np.sort(rng.integers(0, len(drawn), num_frames))
    row_F = drawn[row_F]
    if emotion != "neutral":
        num_peak = max(1, round(num_frames * rng.uniform(PEAK, 1)))
        start = rng.integers(0, num_frames - num_peak + 1)
        resting = np.ones(num_frames, dtype=bool)
        resting[start : start + num_peak] = False
        row_F[resting] = rng.choice(rows_of["neutral"])
    stray_F = rng.random(num_frames) < rng.uniform(0, STRAY)
    stray_F[rng.choice(np.flatnonzero(np.isin(row_F, drawn)))] = False  # one frame shows it
    row_F[stray_F] = [rng.choice(rows_of[_any(list(rows_of), rng)]) for _ in range(stray_F.sum())]
    return " ".join([name, *map(str, row_F)])


def _voices_alone(
    split: str, sources: Sources, rng: np.random.Generator
) -> Iterator[dict[str, str]]:
    for label, voices in sources.voices.items():
        for voice in _drawn(voices, VOICES.get(split), rng):
            yield _row(
                split,
                label,
                voice.corpus,
                "voice",
                video=voice.path,
                speaker=voice.speaker,
                sound=_heard(split, rng),
            )


def _faces_alone(
    split: str, sources: Sources, folder: Path, rng: np.random.Generator
) -> Iterator[dict[str, str]]:
    """Held faces to learn from; to be judged, each image of FER+ by itself."""
    for label in CLASSES:
        if split in FACES_ALONE:
            columns = [_held(split, label, sources, rng) for _ in range(FACES_ALONE[split])]
        else:
            columns = [f"{name} {row}" for name, rows in sources.images for row in rows[label]]
        for images in columns:
            source = folder / f"ferplus_{images.split()[0]}.npz"
            yield _row(split, label, "ferplus", "face", video=source, images=images)


def _sentences_alone(
    split: str, sources: Sources, folder: Path, rng: np.random.Generator
) -> Iterator[dict[str, str]]:
    for label, sentences in sources.sentences.items():
        for corpus, text in _drawn(sentences, SENTENCES_ALONE.get(split), rng):
            yield _row(split, label, corpus, "sentence", video=folder, text=text)


def _heard(split: str, rng: np.random.Generator) -> str:
    return _any(SOUNDS, rng) if split in ("pool", "train") else "clean"


def _drawn(items: Sequence[Any], count: int | None, rng: np.random.Generator) -> list[Any]:
    """Each item once; or `count` of them, each as often as another, give or take once."""
    if count is None:
        return list(items)
    laps = [rng.permutation(len(items)) for _ in range(-(-count // len(items)))]
    return [items[i] for i in np.concatenate(laps)[:count]]


def _any(items: Sequence[Any], rng: np.random.Generator) -> Any:
    return items[int(rng.integers(len(items)))]


def _sayable(sentences: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [s for s in sentences if WORDS[0] <= len(s[1].split()) <= WORDS[1]]


def _voices(root: Path, on_reject: OnReject) -> dict[str, dict[str, list[Voice]]]:
    """Split to class to voices."""
    found: dict[str, dict[str, list[Voice]]] = {split: defaultdict(list) for split in ACTORS}
    for split, label, voice in (*_ravdess(root), *_emodb(root), *_grid(root)):
        if voice.path.is_file():
            found[split][label].append(voice)
            continue
        detail = f"no {voice.path}; expected the sound that metadata.csv names"
        on_reject(Reject(clip=voice.path.name, stage="table", reason="missing_file", detail=detail))
    return {split: {label: of[label] for label in CLASSES} for split, of in found.items()}


def _ravdess(root: Path) -> Iterator[tuple[str, str, Voice]]:
    class_of = {said: label for label, names in CLASSES.items() for said in names[0]}
    for row in _rows(root / "ravdess_audio" / "metadata.csv"):
        for split, actors in ACTORS.items():
            if int(row["actor"]) in actors:
                path = (root / "ravdess_audio" / row["file"]).resolve()
                speaker = f"{int(row['actor']):02d}"
                voice = Voice(corpus="ravdess", speaker=speaker, path=path, text=row["transcript"])
                yield split, class_of[row["emotion"]], voice


def _emodb(root: Path) -> Iterator[tuple[str, str, Voice]]:
    """Without boredom, which is none of the seven."""
    class_of = {names[1]: label for label, names in CLASSES.items()}
    for row in _rows(root / "emodb" / "metadata.csv"):
        for split, speakers in EMODB.items():
            if row["speaker"] in speakers and row["emotion"] in class_of:
                path = (root / "emodb" / row["file"]).resolve()
                voice = Voice(
                    corpus="emodb", speaker=row["speaker"], path=path, text=row["transcript_de"]
                )
                yield split, class_of[row["emotion"]], voice


def _grid(root: Path) -> Iterator[tuple[str, str, Voice]]:
    """Neutral voices to learn from."""
    for folder, who, said, step in (
        ("grid_s1", "speaker", "transcript_from_name", GRID_STEP),
        ("grid_multi", "person_by_eye", "transcript", 1),
    ):
        for row in _rows(root / folder / "metadata.csv")[::step]:
            path = (root / folder / row["file"]).resolve()
            voice = Voice(corpus="grid", speaker=row[who], path=path, text=row[said])
            yield "train", "neutral", voice


def _repeated(folder: Path, split: str, single_N: np.ndarray) -> Reject:
    """What of a split of FER+ is left out, told in one line."""
    expression_of = {label: names[2] for label, names in CLASSES.items()}
    of_classes = rows_of_classes(folder, split, np.ones_like(single_N), expression_of)
    row_K = np.concatenate(list(of_classes.values()))
    detail = (
        f"{int((~single_N[row_K]).sum())} of its {len(row_K)} images of the seven emotions are "
        "left out: the same pixels are there before, in it or in another split"
    )
    return Reject(
        clip=f"ferplus_{split}.npz", stage="table", reason="repeated_images", detail=detail
    )


def _images(
    folder: Path, split: str, single: dict[str, np.ndarray]
) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Of train both what the face encoder learned from, which is plenty, and what it did not, on
    which it errs as it will."""
    expression_of = {label: names[2] for label, names in CLASSES.items()}
    names = {"pool": ["train"], "train": ["train", "valid"], "dev": ["valid"], "test": ["test"]}
    found = []
    for name in names[split]:
        usable_N = single[name].copy()
        if name == "valid":  # shared by train and dev
            usable_N &= np.arange(len(usable_N)) % 2 == (0 if split == "train" else 1)
        found.append((name, rows_of_classes(folder, name, usable_N, expression_of)))
    return found


def _sentences(folder: Path) -> dict[str, dict[str, list[tuple[str, str]]]]:
    """Split to class to sentences, each once."""
    names = ("train", "dev", "test")
    meld = {name: _rows(folder / "meld" / f"{name}_sent_emo.csv") for name in names}
    emory = [
        row for name in names for row in _rows(folder / "emorynlp" / f"emorynlp_{name}_final.csv")
    ]
    judged = {_episode(row) for name in ("dev", "test") for row in meld[name]}
    of_split = {name: [("meld", row) for row in rows] for name, rows in meld.items()}
    of_split["train"] += [("emorynlp", row) for row in emory if _episode(row) not in judged]
    class_of = {
        "meld": {names[3]: label for label, names in CLASSES.items()},
        "emorynlp": {names[4]: label for label, names in CLASSES.items() if names[4]},
    }
    words = {
        name: {letters_of(row["Utterance"]) for _, row in rows} for name, rows in of_split.items()
    }
    others = {  # what is judged keeps its sentences, and what is learned from gives way
        "train": words["dev"] | words["test"],
        "dev": words["test"],
        "test": set(),
    }
    found: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for name, rows in of_split.items():
        texts: dict[str, dict[tuple[str, str], None]] = {label: {} for label in CLASSES}
        for corpus, row in rows:
            text, label = normalize_text(row["Utterance"]), class_of[corpus].get(row["Emotion"])
            if text and label and letters_of(text) and letters_of(text) not in others[name]:
                texts[label][corpus, text] = None
        found[name] = {label: list(of_label) for label, of_label in texts.items()}
    return found


def letters_of(text: str) -> str:
    """ASCII letters and digits alone, as MELD writes the quotes of one sentence in several ways."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _episode(row: dict[str, str]) -> tuple[int, int]:
    return int(row["Season"]), int(row["Episode"])


def _rows(path: Path) -> list[dict[str, str]]:
    return read_rows(path, EXPECTED)
