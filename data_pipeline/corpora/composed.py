"""The composed benchmark: open data that share nothing but an emotion, put together as clips.

No open corpus has emotional speech, video and text together in number, so this one is
**semi-synthetic**: one clip is the sound of one RAVDESS utterance, 8 to 20 face images of FER+ and
one sentence of MELD. It is for measuring whether pretraining, prompts and heads do what they
claim; its figures say nothing of how well emotions are recognised in life.

Each clip has a label, one of the four of IEMOCAP. As people do, most clips do not show it in every
channel: voice and face show the emotion in some (VOICE_SHOWS, FACE_SHOWS) and are neutral in the
others. Without that the faces alone answer the task, and no fusion can be shown. The sentence is
always one of the emotion, and hard enough to read.

Everything is divided before anything is drawn, and no source item crosses:

    split   RAVDESS actors   FER+ images   MELD sentences   clips an actor
    pool    1-14             train         train            256, for pretraining, without a label
    train   1-14             valid, even   train            128
    dev     15-18            valid, odd    dev              96
    test    19-22            test          test             128

FER+ repeats images within and across its splits, and MELD sentences: of equal images one is taken,
by one split, and a sentence whose words another split has is left out. FER+ train taught the
expression encoder that ships, and of actors 19 to 22 the speech encoder heard nothing, so train,
dev and test stand on images, and test on voices, that no encoder learned from. Of the images of
train and dev it must be said that the expression encoder's best lap, prior and temperature were
chosen on FER+ valid, where they come from.

    python -m data_pipeline.corpora composed ../shared/data --output runs/composed.csv
    python -m data_pipeline.recipes.compose runs/composed.csv --output runs/composed
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.corpora._open_data import (
    plain_words,
    read_rows,
    rows_of_classes,
    single_images,
)
from data_pipeline.schema import Reject
from data_pipeline.table.clips import ClipTableError, OnReject
from data_pipeline.table.words import normalize_text

SEED = 0
CLASSES = {  # class: (RAVDESS, FER+, MELD)
    "anger": (("angry",), "anger", "anger"),
    "happy": (("happy",), "happiness", "joy"),
    "neutral": (("neutral", "calm"), "neutral", "neutral"),
    "sad": (("sad",), "sadness", "sadness"),
}
VOICE_SHOWS = 0.75
FACE_SHOWS = 0.4
"""Share of clips whose voice, or face, shows the emotion; in the others it is neutral."""
FACES = (8, 20)
"""Least and most of a clip, 10 a second."""
WORDS = (4, 25)
"""Of a sentence that is taken."""
ACTORS = {
    "pool": range(1, 15),
    "train": range(1, 15),
    "dev": range(15, 19),
    "test": range(19, 23),
}
IMAGES = {"pool": "train", "train": "valid", "dev": "valid", "test": "test"}
SENTENCES = {"pool": "train", "train": "train", "dev": "dev", "test": "test"}
CLIPS_PER_ACTOR = {"pool": 256, "train": 128, "dev": 96, "test": 128}
"""As many of each class."""
EXPECTED = (
    "ravdess_audio/metadata.csv, ferplus/ferplus_{train,valid,test}.npz and "
    "text/meld/{train,dev,test}_sent_emo.csv"
)


def clips(root: Path, on_reject: OnReject) -> list[dict[str, str]]:
    """A row for each composed clip; `root` holds ravdess_audio/, ferplus/ and text/meld/.

    Columns beside those of the clip table: `split`; `images`, "valid 17 402 ..." are rows of
    ferplus_valid.npz; and what voice and face really show, `voice_emotion`, `face_emotion`.
    """
    rows, single = [], single_images(root / "ferplus")
    for number, split in enumerate(ACTORS):
        rng = np.random.default_rng(np.random.SeedSequence((SEED, number)))
        images = _images(root / "ferplus", split, single[IMAGES[split]])
        sentences = _sentences(root / "text" / "meld", split)
        for actor, sounds in _sounds(root / "ravdess_audio", split, on_reject).items():
            rows += _compose(split, actor, sounds, images, sentences, rng)
    return rows


def _compose(
    split: str,
    actor: str,
    sounds: dict[str, list[Path]],
    images: dict[str, np.ndarray],
    sentences: dict[str, list[str]],
    rng: np.random.Generator,
) -> Iterator[dict[str, str]]:
    """The clips of one actor."""
    for number in range(CLIPS_PER_ACTOR[split]):
        label = list(CLASSES)[number % len(CLASSES)]
        voice = label if rng.random() < VOICE_SHOWS else "neutral"
        face = label if rng.random() < FACE_SHOWS else "neutral"
        count = rng.integers(FACES[0], FACES[1] + 1)
        drawn = rng.choice(images[face], size=count, replace=False)
        yield {
            "id": f"composed-{split}-{actor}-{number:03d}",
            "video": str(rng.choice(sounds[voice])),
            "text": str(rng.choice(sentences[label])),
            "speaker": actor,
            "recording": actor,
            "corpus": "composed",
            "label": label if split != "pool" else "",
            "split": split,
            "images": " ".join([IMAGES[split], *map(str, drawn)]),
            "voice_emotion": voice,
            "face_emotion": face,
        }


def _sounds(folder: Path, split: str, on_reject: OnReject) -> dict[str, dict[str, list[Path]]]:
    """Actor to class to the sounds of it."""
    class_of = {said: name for name, names in CLASSES.items() for said in names[0]}
    found: dict[str, dict[str, list[Path]]] = {}
    for row in _table(folder / "metadata.csv"):
        if int(row["actor"]) not in ACTORS[split] or row["emotion"] not in class_of:
            continue
        path = folder / row["file"]
        if path.is_file():
            of_actor = found.setdefault(f"actor{int(row['actor']):02d}", defaultdict(list))
            of_actor[class_of[row["emotion"]]].append(path.resolve())
            continue
        detail = f"no {path}; expected the sound that metadata.csv names"
        on_reject(Reject(clip=row["file"], stage="table", reason="missing_file", detail=detail))
    for actor in (f"actor{number:02d}" for number in ACTORS[split]):
        absent = [name for name in CLASSES if not found.get(actor, {}).get(name)]
        if absent:
            raise ClipTableError(
                f"{folder}: {actor} has no sound of {', '.join(absent)}; expected one of each "
                "class of each actor: the benchmark would be another one"
            )
    return found


def _images(folder: Path, split: str, single_N: np.ndarray) -> dict[str, np.ndarray]:
    """Class to rows of the split's images whose votes have a majority for it."""
    row_N = np.arange(len(single_N))
    usable_N = single_N.copy()
    if IMAGES[split] == "valid":  # shared by train and dev
        usable_N &= row_N % 2 == (0 if split == "train" else 1)
    expression_of = {name: names[1] for name, names in CLASSES.items()}
    return rows_of_classes(folder, IMAGES[split], usable_N, expression_of)


def _sentences(folder: Path, split: str) -> dict[str, list[str]]:
    """Class to sentences of it, each once; one whose words another split has too is left out."""
    of_split = {name: _of_meld(folder, name) for name in ("train", "dev", "test")}
    mine = of_split.pop(SENTENCES[split])
    others = {plain_words(text) for table in of_split.values() for text, _ in table}
    class_of = {names[2]: name for name, names in CLASSES.items()}
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for text, emotion in mine:
        if emotion in class_of and plain_words(text) not in others:
            if WORDS[0] <= len(text.split()) <= WORDS[1]:
                found[class_of[emotion]][text] = None
    return {name: list(found[name]) for name in CLASSES}


def _of_meld(folder: Path, name: str) -> list[tuple[str, str]]:
    rows = _table(folder / f"{name}_sent_emo.csv")
    return [(normalize_text(row["Utterance"]) or "", row["Emotion"]) for row in rows]


def _table(path: Path) -> list[dict[str, str]]:
    return read_rows(path, EXPECTED)
