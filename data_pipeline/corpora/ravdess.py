"""RAVDESS speech (Livingstone and Russo 2018): 24 actors, 2 sentences, 8 emotions, 60 takes each.

`01-01-06-01-02-01-12`: modality (01 sound and picture, 02 picture, 03 sound), channel (01 speech,
02 song), emotion, intensity, statement, repetition, actor (odd male, even female). Files may lie
anywhere, as .mp4, .wav or what was made of them. Of a take that is there in several modalities one
file is the clip, 01 before 03 before 02; songs are left out, and both are counted. One actor is
one recording: splits go by actor.
"""

import re
from collections import Counter
from pathlib import Path

from data_pipeline.corpora._release import (
    MEDIA_EXTENSIONS,
    Release,
    check_counts,
    log,
    release_files,
    some,
)
from data_pipeline.table.clips import ClipTableError, OnReject

EMOTIONS = dict(
    zip(
        "01 02 03 04 05 06 07 08".split(),
        "neutral calm happy sad angry fearful disgust surprised".split(),
        strict=True,
    )
)
INTENSITIES = {"01": "normal", "02": "strong"}
STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
BEST_FIRST = ("01", "03", "02")
"""Modalities, the one with most to it first."""
SONG = "02"
ACTORS = tuple(f"{number:02d}" for number in range(1, 25))
TAKES = 60

_NAME = re.compile(r"(0[123])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)")


def clips(root: Path, on_reject: OnReject) -> list[dict[str, str]]:
    """A row for each spoken take under `root`, by actor and name, with its `intensity`."""
    files = release_files(root, MEDIA_EXTENSIONS)
    if not files:
        raise ClipTableError(
            f"no RAVDESS recordings under {root}; expected Actor_01/01-01-01-01-01-01-01.mp4, or "
            "the .wav of 03-01-01-01-01-01-01"
        )
    release = Release(root, on_reject)
    takes: dict[str, list[Path]] = {}
    songs = []
    for file in files:
        try:
            describe(file.stem)
        except ValueError as error:
            release.reject("bad_name", release.where(file), str(error))
            continue
        if file.stem[3:5] == SONG:
            songs.append(file.name)
        else:
            takes.setdefault(file.stem[3:], []).append(file)
    others = []
    for take in sorted(takes, key=lambda take: (take[-2:], take)):
        best = min(takes[take], key=lambda file: BEST_FIRST.index(file.stem[:2])).stem
        for file in takes[take]:
            if file.stem == best:
                row = {"video": str(file.resolve()), **describe(best)}
                release.add(release.where(file), row, name=best)
            else:
                others.append(file.name)
    for what, names in (("songs", songs), ("files of takes that are clips already", others)):
        if names:
            log.warning("RAVDESS: %s %s are left out: %s", f"{len(names):,}", what, some(names))
    _compare(release.rows)
    return release.rows


def describe(name: str) -> dict[str, str]:
    """The columns that a file's name (without extension) tells; ValueError when it tells none."""
    match = _NAME.fullmatch(name)
    if match is None or match[7] not in ACTORS:
        raise ValueError(
            f"{name!r} is no RAVDESS name; expected one like 01-01-06-01-02-01-12, with an actor "
            "from 01 to 24"
        )
    _, _, emotion, intensity, statement, repetition, actor = match.groups()
    return {
        "text": STATEMENTS[statement],
        "speaker": actor,
        "recording": actor,
        "label": EMOTIONS[emotion],
        "corpus": "ravdess",
        "intensity": INTENSITIES[intensity],
        "repetition": str(int(repetition)),
    }


def _compare(rows: list[dict[str, str]]) -> None:
    """Where all 24 actors are there, with what was published of each."""
    found = Counter(row["speaker"] for row in rows)
    if len(found) == len(ACTORS):
        check_counts("RAVDESS, takes by actor", found, dict.fromkeys(ACTORS, TAKES))
