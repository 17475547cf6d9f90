"""CREMA-D (Cao et al. 2014): 91 actors, 12 sentences, 6 emotions, 7,442 clips of 2 s.

The name says it all: `1001_DFA_ANG_XX.flv` is actor 1001, sentence DFA, anger, level unspecified.
Pictures lie in VideoFlash/ as .flv; a sound file (AudioWAV/, AudioMP3/) is a clip of its own only
where its video is missing, else it is counted. One actor is one recording: splits go by actor.
"""

import re
from pathlib import Path

from data_pipeline.corpora._release import (
    Release,
    check_codes,
    check_counts,
    log,
    release_files,
    some,
)
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
ACTORS, CLIPS = 91, 7442

_NAME = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{1,2})")


def clips(root: Path, on_reject: OnReject) -> list[dict[str, str]]:
    """A row for each recording under `root`, in order of name; with a column `level`."""
    videos, sounds = release_files(root, VIDEO_EXTENSIONS), release_files(root, SOUND_EXTENSIONS)
    if not videos and not sounds:
        raise ClipTableError(f"no CREMA-D recordings under {root}; expected VideoFlash/*.flv")
    release = Release(root, on_reject)
    seen = {file.stem for file in videos}
    twins = [file.name for file in sounds if file.stem in seen]
    alone = [file for file in sounds if file.stem not in seen]
    for file in sorted([*videos, *alone], key=lambda file: (file.stem, file)):
        try:
            row = {"video": str(file.resolve()), **describe(file.stem)}
        except ValueError as error:
            release.reject("bad_name", release.where(file), str(error))
        else:
            release.add(release.where(file), row, name=file.stem)
    if twins:
        log.warning("CREMA-D: %s sounds of videos are left out: %s", len(twins), some(twins))
    if len({row["speaker"] for row in release.rows}) == ACTORS:
        check_counts("CREMA-D", {"clips": len(release.rows)}, {"clips": CLIPS})
    return release.rows


def describe(name: str) -> dict[str, str]:
    """The columns that a file's name (without extension) tells; ValueError when it tells none."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no CREMA-D name; expected one like 1001_DFA_ANG_XX")
    actor, sentence, emotion, level = match.groups()
    codes = (
        (sentence, SENTENCES, "sentence"),
        (emotion, EMOTIONS, "emotion"),
        (level, LEVELS, "level"),
    )
    check_codes("CREMA-D", name, codes)
    return {
        "text": SENTENCES[sentence],
        "speaker": actor,
        "recording": actor,
        "label": EMOTIONS[emotion],
        "corpus": "cremad",
        "level": LEVELS[level],
    }
