"""IEMOCAP (Busso et al. 2008): five dyads, 151 dialogues, 10,039 utterances; under licence.

    Session1/dialog/EmoEvaluation/Ses01F_impro01.txt     times, label and ratings of each utterance
    Session1/dialog/transcriptions/Ses01F_impro01.txt    its words
    Session1/dialog/avi/DivX/Ses01F_impro01.avi          both people in one picture

An utterance's speaker is the letter fourth from the end of its id, and the letter in the dialogue's
name is the one of the two who wears markers and sits in the left half of the picture: the region of
a clip is `left` where both letters are the same. Every utterance that is rated, or transcribed, is
a row or a reject; labels are the release's codes (ang hap exc sad neu fru fea sur dis oth xxx).

A session is one recording: its two speakers meet in all of its dialogues, so that no grouping by
dialogue keeps a speaker out of training, and dev and test may share it as the ten folds do.
"""

import re
from collections import Counter
from pathlib import Path

from data_pipeline.corpora._release import Release, check_counts, is_own
from data_pipeline.table.clips import VIDEO_EXTENSIONS, ClipTableError, OnReject

CODES = ("ang", "hap", "exc", "sad", "neu", "fru", "fea", "sur", "dis", "oth", "xxx")
PUBLISHED = {
    "Ses01": {"neu": 384, "hap+exc": 278, "sad": 194, "ang": 229},
    "Ses02": {"neu": 362, "hap+exc": 327, "sad": 197, "ang": 137},
    "Ses03": {"neu": 320, "hap+exc": 286, "sad": 305, "ang": 240},
    "Ses04": {"neu": 258, "hap+exc": 303, "sad": 143, "ang": 327},
    "Ses05": {"neu": 384, "hap+exc": 442, "sad": 245, "ang": 170},
}
"""Utterances of the four classes, by session: 5,531."""

_DIALOGUE = re.compile(r"Ses\d\d[FM]_\w+")
_NUMBER = r"-?\d+(?:\.\d+)?"
_RATED = re.compile(
    rf"\[({_NUMBER})\s*-\s*({_NUMBER})\]\s+(Ses\w+_[FM]\w{{3}})\s+(\w+)"
    rf"\s+\[({_NUMBER}),\s*({_NUMBER}),\s*({_NUMBER})\]"
)
_SAID = re.compile(r"(Ses\w+_[FM]\d\d\d)\s*\[[^\]]*\]\s*:\s*(.*)")
"""Lines without an id, or with one such as FXX0, are asides."""


def clips(root: Path, on_reject: OnReject) -> list[dict[str, str]]:
    """A row for each utterance under `root`, by dialogue; with the mean ratings beside it."""
    files = {
        folder: [
            file
            for file in sorted(root.rglob(f"{folder}/*.txt"))
            if is_own(file.relative_to(root)) and _DIALOGUE.fullmatch(file.stem)
        ]
        for folder in ("EmoEvaluation", "transcriptions")
    }
    if not files["EmoEvaluation"]:
        raise ClipTableError(
            f"no IEMOCAP labels under {root}; expected Session1/dialog/EmoEvaluation/*.txt, as in "
            "IEMOCAP_full_release"
        )
    release = Release(root, on_reject)
    for dialogue in sorted({(f.parents[1], f.name) for found in files.values() for f in found}):
        _add_dialogue(release, dialogue[0] / "EmoEvaluation" / dialogue[1])
    _compare(release.rows, {file.stem[:5] for file in files["EmoEvaluation"]})
    return release.rows


def _add_dialogue(release: Release, file: Path) -> None:
    video = _video_of(file)
    said = _words(release, file.parents[1] / "transcriptions" / file.name)
    known = set()
    lines = release.text(file).splitlines() if file.is_file() else []
    for number, line in enumerate(lines, start=1):
        if not line.startswith("["):
            continue
        match = _RATED.fullmatch(line.rstrip())
        if match is None or match[4] not in CODES:
            release.reject(
                "bad_line",
                f"{release.where(file)}:{number}",
                f"{line[:80]!r} is no rated utterance; expected `[6.2901 - 8.2357]`, its id, one "
                f"of {' '.join(CODES)} and three ratings, with tabs between them",
            )
            known.update(re.findall(r"Ses\w+_[FM]\d\d\d", line))
            continue
        start, end, name, label, valence, activation, dominance = match.groups()
        known.add(name)
        if video is None:
            _reject_video(release, name, file)
            continue
        own = name[-4] == file.stem[5]
        release.add(
            f"{release.where(file)}:{number}",
            {
                "id": name,
                "video": str(video.resolve()),
                "start": start,
                "end": end,
                "text": said.get(name, ""),
                "speaker": file.stem[:5] + name[-4],
                "recording": file.stem[:5],
                "label": label,
                "corpus": "iemocap",
                "region": "left" if own else "right",
                "valence": valence,
                "activation": activation,
                "dominance": dominance,
            },
        )
    for name in sorted(said.keys() - known):
        release.reject(
            "no_label",
            name,
            f"it is transcribed, but {release.where(file)} has no line of it; is that file cut?",
        )
    if not known and not said:
        release.reject("no_label", release.where(file), "it holds no rated utterance; is it cut?")


def _reject_video(release: Release, name: str, file: Path) -> None:
    expected = file.parents[1] / "avi" / "DivX" / f"{file.stem}.avi"
    release.reject("missing_file", name, f"no video {release.where(expected)}")


def _video_of(file: Path) -> Path | None:
    """The dialogue's video; the release's avi before what somebody made of it."""
    found = [
        video
        for video in sorted((file.parents[1] / "avi").rglob(f"{file.stem}.*"))
        if video.suffix.lower() in VIDEO_EXTENSIONS
    ]
    return min(found, key=lambda video: video.suffix.lower() != ".avi", default=None)


def _words(release: Release, file: Path) -> dict[str, str]:
    """Utterance to what is said in it; nothing where there is no such file."""
    if not file.is_file():
        return {}
    lines = (_SAID.match(line.strip()) for line in release.text(file).splitlines())
    return {match[1]: match[2] for match in lines if match}


def _compare(rows: list[dict[str, str]], sessions: set[str]) -> None:
    """Where all five sessions are there, with what was published of each."""
    if sessions != PUBLISHED.keys():
        return
    found: dict[str, Counter[str]] = {session: Counter() for session in sessions}
    for row in rows:
        label = "hap+exc" if row["label"] in ("hap", "exc") else row["label"]
        found[row["recording"]][label] += 1
    for session, published in PUBLISHED.items():
        check_counts(f"IEMOCAP, session {session}", found[session], published)
