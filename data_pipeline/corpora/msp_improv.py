"""MSP-IMPROV (Busso et al. 2017): six dyads, 8,438 turns; under licence.

    Evalution.txt (sic; Evaluation.txt in later copies)     a line for each turn, among its raters'
    session1/S01A/S/MSP-IMPROV-S01A-F01-S-FM01.avi          anywhere; a .wav where there is no .avi
    All_human_transcriptions/MSP-IMPROV-S01A-F01-S-FM01.txt     UTD- in place of MSP- will do

A name tells the sentence and the emotion that was asked for (S01A), the speaker (F01), the scenario
and the turn. Scenarios: S other-improvised, R target-read, T target-improvised, P natural. The
label is what the raters heard, the emotion asked for is the column `target`; MEmoBERT keeps the
four emotions of scenario S alone. A session is one recording: its two speakers meet in it.
"""

import re
from collections import Counter
from pathlib import Path

from data_pipeline.corpora._release import (
    MEDIA_EXTENSIONS,
    Release,
    check_counts,
    log,
    read_text,
    release_files,
)
from data_pipeline.table.clips import VIDEO_EXTENSIONS, ClipTableError, OnReject

EMOTIONS = {
    "A": "anger",
    "H": "happiness",
    "S": "sadness",
    "N": "neutral",
    "O": "other",
    "X": "no_agreement",
}
SCENARIOS = {
    "S": "other-improvised",
    "R": "target-read",
    "T": "target-improvised",
    "P": "natural",
}
SESSIONS = 6
TURNS = {"S": 4381, "T": 652, "R": 620, "P": 2785}
ALL_TURNS = {"anger": 792, "happiness": 2644, "neutral": 3477, "sadness": 885}
IMPROVISED = {"anger": 470, "happiness": 1048, "neutral": 1789, "sadness": 633}
"""Published turns: of each scenario, of each class in all of them, of each class in scenario S."""

_NAME = re.compile(r"MSP-IMPROV-S\d\d([AHSN])-([FM])0?([1-6])-([SRTP])-[FM]{2}\d+")
_LABEL = re.compile(r"UTD-(IMPROV-[\w-]+)\.avi\s*;\s*(\w)\s*;(.*)")
_TRANSCRIPT = re.compile(r"(?:MSP|UTD)-(IMPROV-.+)")
_RATING = re.compile(r"\b([AVDN])\s*:\s*(-?\d+(?:\.\d+)?)")
_RATINGS = {"A": "activation", "V": "valence", "D": "dominance", "N": "naturalness"}


def clips(root: Path, on_reject: OnReject) -> list[dict[str, str]]:
    """A row for each turn under `root` that has a label, by name; with `scenario` and `target`."""
    release = Release(root, on_reject)
    labels = _labels(release)
    words = {
        f"MSP-{match[1]}": " ".join(release.text(file).split())
        for file in release_files(root, (".txt",))
        if (match := _TRANSCRIPT.fullmatch(file.stem))
    }
    found: dict[str, list[Path]] = {}
    for file in sorted(release_files(root, MEDIA_EXTENSIONS), key=_video_first):
        if _twin(file, found.get(file.stem)):
            continue
        found.setdefault(file.stem, []).append(file)
    sessions = {session for name in found if (session := _session(name))}
    absent = {name for name in labels if _session(name) and _session(name) not in sessions}
    if absent:
        log.warning(
            "MSP-IMPROV: there is no recording of session %s; its %s labels are left out",
            ", ".join(sorted({_session(name) for name in absent})),
            f"{len(absent):,}",
        )
    for name in sorted(found.keys() | labels.keys() - absent):
        for file in found.get(name, [None]):
            _add_turn(release, name, file, labels.get(name), words.get(name, ""))
    wordless = sum(not row["text"] for row in release.rows)
    if wordless:
        log.warning(
            "MSP-IMPROV: %s of %s turns have no transcript; expected "
            "All_human_transcriptions/MSP-IMPROV-S01A-F01-S-FM01.txt",
            f"{wordless:,}",
            f"{len(release.rows):,}",
        )
    if len(sessions) == SESSIONS:
        _compare(release.rows)
    return release.rows


def _add_turn(
    release: Release, name: str, file: Path | None, label: tuple[str, str] | None, text: str
) -> None:
    where = name if file is None else release.where(file)
    match = _NAME.fullmatch(name)
    if match is None:
        release.reject(
            "bad_name",
            where,
            f"{name!r} is no MSP-IMPROV name; expected one like MSP-IMPROV-S01A-F01-S-FM01",
        )
    elif label is None:
        release.reject("no_label", where, "Evalution.txt has no line of it; is that file cut?")
    elif file is None:
        release.reject("missing_file", where, f"it has a label, but there is no {name}.avi or .wav")
    else:
        target, letter, session, scenario = match.groups()
        code, ratings = label
        numbers = {_RATINGS[key]: value for key, value in _RATING.findall(ratings)}
        row = {
            "id": name,
            "video": str(file.resolve()),
            "text": text,
            "speaker": f"{letter}0{session}",
            "recording": f"session{session}",
            "label": EMOTIONS[code],
            "corpus": "msp_improv",
            "scenario": scenario,
            "target": EMOTIONS[target],
        }
        release.add(where, row | numbers)


def _session(name: str) -> str:
    """The number of a turn's session; empty for what is no turn's name."""
    match = _NAME.fullmatch(name)
    return match[3] if match else ""


def _video_first(file: Path) -> tuple[bool, Path]:
    return file.suffix.lower() not in VIDEO_EXTENSIONS, file


def _twin(file: Path, others: list[Path] | None) -> bool:
    """Whether a sound file is that of a video which is there."""
    is_sound = file.suffix.lower() not in VIDEO_EXTENSIONS
    return is_sound and any(o.suffix.lower() in VIDEO_EXTENSIONS for o in others or ())


def _labels(release: Release) -> dict[str, tuple[str, str]]:
    """Turn to the code of its emotion and its ratings."""
    files = [
        file
        for file in release_files(release.root, (".txt",))
        if file.name.lower() in ("evalution.txt", "evaluation.txt")
    ]
    if not files:
        raise ClipTableError(
            f"no Evalution.txt or Evaluation.txt under {release.root}; expected it beside "
            "session1 to session6 of MSP-IMPROV"
        )
    labels: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(read_text(files[0]).splitlines(), start=1):
        if not line.startswith("UTD-"):
            continue  # a rater's own, or blank
        where = f"{release.where(files[0])}:{number}"
        match = _LABEL.match(line)
        if match is None or match[2] not in EMOTIONS:
            release.reject(
                "bad_line",
                where,
                f"{line[:80]!r} is no label; expected `UTD-IMPROV-S01A-F01-S-FM01.avi; N; A:...`, "
                f"with one of {' '.join(EMOTIONS)}",
            )
        elif labels.setdefault(f"MSP-{match[1]}", (match[2], match[3])) != (match[2], match[3]):
            release.reject("duplicate_id", where, f"{match[1]} has another label above")
    return labels


def _compare(rows: list[dict[str, str]]) -> None:
    """With what was published."""
    check_counts("MSP-IMPROV, turns by scenario", Counter(r["scenario"] for r in rows), TURNS)
    check_counts("MSP-IMPROV, all scenarios", Counter(r["label"] for r in rows), ALL_TURNS)
    improvised = Counter(row["label"] for row in rows if row["scenario"] == "S")
    check_counts("MSP-IMPROV, scenario S", improvised, IMPROVISED)
