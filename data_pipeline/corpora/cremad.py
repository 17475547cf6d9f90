"""CREMA-D (Cao et al. 2014): 91 actors, 12 sentences, 6 emotions, 7,442 clips of 2 s.

The name says it all: `1001_DFA_ANG_XX.flv` is actor 1001, sentence DFA, anger, level unspecified.
Pictures lie in VideoFlash/ as .flv; a sound file (AudioWAV/, AudioMP3/) is a clip of its own only
where its video is missing. One actor is one recording: splits go by actor.
"""

import re
from pathlib import Path

from data_pipeline.schema import Reject
from data_pipeline.table.clips import VIDEO_EXTENSIONS, ClipTableError, OnReject

SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happiness",
    "NEU": "neutral",
    "SAD": "sadness",
}
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified", "X": "unspecified"}
SOUND_EXTENSIONS = (".mp3", ".wav")

_NAME = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{1,2})")


def clips(root: Path, on_reject: OnReject) -> list[dict[str, str]]:
    """A row for each recording under `root`, in order of name; with a column `level`."""
    files: dict[str, Path] = {}
    for extensions in (VIDEO_EXTENSIONS, SOUND_EXTENSIONS):
        for file in sorted(root.rglob("*")):
            if file.suffix.lower() in extensions and not file.name.startswith("."):
                files.setdefault(file.stem, file)
    if not files:
        raise ClipTableError(f"no CREMA-D recordings under {root}; expected VideoFlash/*.flv")
    rows = []
    for name in sorted(files):
        try:
            rows.append({"video": str(files[name].resolve()), **describe(name)})
        except ValueError as error:
            where = files[name].relative_to(root).as_posix()
            on_reject(Reject(clip=where, stage="table", reason="bad_name", detail=str(error)))
    return rows


def describe(name: str) -> dict[str, str]:
    """The columns that a file's name (without extension) tells; ValueError when it tells none."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no CREMA-D name; expected one like 1001_DFA_ANG_XX")
    actor, sentence, emotion, level = match.groups()
    for code, known, what in (
        (sentence, SENTENCES, "sentence"),
        (emotion, EMOTIONS, "emotion"),
        (level, LEVELS, "level"),
    ):
        if code not in known:
            raise ValueError(f"{name}: no {what} {code}; CREMA-D has {' '.join(known)}")
    return {
        "text": SENTENCES[sentence],
        "speaker": actor,
        "recording": actor,
        "label": EMOTIONS[emotion],
        "corpus": "cremad",
        "level": LEVELS[level],
    }
