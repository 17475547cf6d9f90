"""EmoDB (Burkhardt et al. 2005): 535 German sentences by ten speakers, seven emotions; sound alone.

The name says it all: `03a01Fa.wav` is speaker 03, sentence a01, F for Freude (happiness), take a.
Files may lie anywhere below the root, in the release's `wav/` or not. One speaker is one recording.
There is no picture, so an extraction needs `require=[speech]`.
"""

import re
from collections import Counter
from pathlib import Path

from data_pipeline.corpora._release import (
    MEDIA_EXTENSIONS,
    Release,
    check_codes,
    check_counts,
    release_files,
)
from data_pipeline.table.clips import ClipTableError, OnReject

SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
EMOTIONS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
"""By the first letter of Wut, Langeweile, Ekel, Angst, Freude and Trauer."""
SPEAKERS = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")
PUBLISHED = {
    "anger": 127,
    "boredom": 81,
    "disgust": 46,
    "fear": 69,
    "happiness": 71,
    "sadness": 62,
    "neutral": 79,
}
"""Utterances of each emotion, 535 in all."""

_NAME = re.compile(r"(\d\d)([ab]\d\d)([A-Z])([a-z])")


def clips(root: Path, on_reject: OnReject) -> list[dict[str, str]]:
    """A row for each utterance under `root`, in order of name."""
    files = release_files(root, MEDIA_EXTENSIONS)
    if not files:
        raise ClipTableError(f"no EmoDB recordings under {root}; expected wav/03a01Fa.wav")
    release = Release(root, on_reject)
    for file in sorted(files, key=lambda file: (file.stem, file)):
        try:
            row = {"video": str(file.resolve()), **describe(file.stem)}
        except ValueError as error:
            release.reject("bad_name", release.where(file), str(error))
        else:
            release.add(release.where(file), row, name=file.stem)
    if {row["speaker"] for row in release.rows} == set(SPEAKERS):
        check_counts("EmoDB", Counter(row["label"] for row in release.rows), PUBLISHED)
    return release.rows


def describe(name: str) -> dict[str, str]:
    """The columns that a file's name (without extension) tells; ValueError when it tells none."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no EmoDB name; expected one like 03a01Fa")
    speaker, sentence, emotion, _ = match.groups()
    codes = (
        (speaker, SPEAKERS, "speaker"),
        (sentence, SENTENCES, "sentence"),
        (emotion, EMOTIONS, "emotion"),
    )
    check_codes("EmoDB", name, codes)
    return {
        "text": SENTENCES[sentence],
        "speaker": speaker,
        "recording": speaker,
        "label": EMOTIONS[emotion],
        "corpus": "emodb",
    }
