"""Composed stories: real voices and real sentences that share nothing but an emotion.

No open corpus has stories of several utterances with sound, words, valence and arousal, so this
one is **semi-synthetic**. A clip is the sound of one RAVDESS take (its own words are two fixed
sentences, which tell nothing) with a sentence of MELD, of the same emotion; a story is CLIPS of
them, by one actor and of one emotion. Its figures say what sound, words and both are worth to the
system `stories`, not how well emotions are told in life.

Valence and arousal, low, medium or high, are derived from the emotion, by its place in Russell's
circumplex (EMOTIONS): nobody rated them. RAVDESS `calm` is left out, as MELD has none.

No take and no sentence is in two stories, and all sentences of a MELD dialogue go to one actor, so
that splits by actor share neither voices, nor sentences, nor dialogues.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.corpora._open_data import plain_words, read_rows
from data_pipeline.table.clips import ClipTableError
from data_pipeline.table.words import normalize_text

SEED = 0
CLIPS = 2
"""Of a story."""
WORDS = (4, 25)
"""Of a sentence that is taken."""
EMOTIONS = {  # label: (RAVDESS, MELD, valence, arousal)
    "anger": ("angry", "anger", "low", "high"),
    "disgust": ("disgust", "disgust", "low", "medium"),
    "fear": ("fearful", "fear", "low", "high"),
    "happy": ("happy", "joy", "high", "high"),
    "neutral": ("neutral", "neutral", "medium", "medium"),
    "sad": ("sad", "sadness", "low", "low"),
    "surprise": ("surprised", "surprise", "medium", "high"),
}
EXPECTED = "ravdess_audio/metadata.csv and text/meld/{train,dev,test}_sent_emo.csv"
BySource = dict[str, dict[str, list[str]]]
"""Actor to emotion to sounds, or to sentences."""


def clips(root: Path) -> list[dict[str, str]]:
    """A row for each composed clip, with its story as `recording`, and columns `valence` and
    `arousal`; `root` holds ravdess_audio/ and text/meld/. Raises ClipTableError where a file is
    missing: the stories would be others."""
    rng = np.random.default_rng(SEED)
    sounds = _sounds(root / "ravdess_audio")
    sentences = _sentences(root / "text" / "meld", sorted(sounds), rng)
    return [
        row
        for actor in sorted(sounds)
        for emotion in EMOTIONS
        for row in _compose(actor, emotion, sounds[actor][emotion], sentences[actor][emotion], rng)
    ]


def _compose(
    actor: str, emotion: str, sounds: list[str], sentences: list[str], rng: np.random.Generator
) -> Iterator[dict[str, str]]:
    """The stories of one actor and emotion: as many as both the sounds and the sentences give."""
    pairs = list(zip(rng.permutation(sounds), rng.permutation(sentences), strict=False))
    _, _, valence, arousal = EMOTIONS[emotion]
    for number in range(len(pairs) // CLIPS * CLIPS):
        story = f"{actor}-{emotion}-{number // CLIPS}"
        sound, sentence = pairs[number]
        yield {
            "id": f"stories-{story}-{number % CLIPS}",
            "video": str(sound),
            "text": str(sentence),
            "speaker": actor,
            "recording": story,
            "corpus": "stories",
            "label": emotion,
            "valence": valence,
            "arousal": arousal,
        }


def _sounds(folder: Path) -> BySource:
    emotion_of = {names[0]: emotion for emotion, names in EMOTIONS.items()}
    found: BySource = defaultdict(lambda: defaultdict(list))
    for row in read_rows(folder / "metadata.csv", EXPECTED):
        path = folder / row["file"]
        if not path.is_file():
            raise ClipTableError(f"no {path}; expected the sound that metadata.csv names")
        if row["emotion"] in emotion_of:
            of_actor = found[f"actor{int(row['actor']):02d}"]
            of_actor[emotion_of[row["emotion"]]].append(str(path.resolve()))
    return found


def _sentences(folder: Path, actors: list[str], rng: np.random.Generator) -> BySource:
    """Dialogues are dealt to the actors, and each sentence is taken once."""
    emotion_of = {names[1]: emotion for emotion, names in EMOTIONS.items()}
    dialogues: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    seen: set[tuple[str, ...]] = set()
    for split in ("train", "dev", "test"):
        for row in read_rows(folder / f"{split}_sent_emo.csv", EXPECTED):
            text = normalize_text(row["Utterance"]) or ""
            words = plain_words(text)
            if WORDS[0] <= len(text.split()) <= WORDS[1] and words not in seen:
                seen.add(words)
                emotion = emotion_of[row["Emotion"]]
                dialogues[split, row["Dialogue_ID"]].append((emotion, text))
    found: BySource = defaultdict(lambda: defaultdict(list))
    order = rng.permutation(len(dialogues))
    for place, number in enumerate(order):
        for emotion, text in list(dialogues.values())[number]:
            found[actors[place % len(actors)]][emotion].append(text)
    return found
