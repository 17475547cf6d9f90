"""GRID (Cooke, Barker, Cunningham and Shao 2006): 34 speakers, 1,000 six-word sentences each.

The six letters of a name spell the sentence, `bbaf2n` is "bin blue at f two now"; `bbaf2n.align`,
where there is one, has the words with their times. Videos may lie anywhere below the root, in the
release's `s1/bbaf2n.mpg` or in a plain `clips/`. No emotions: for pretraining only. One speaker is
one recording: all his clips were filmed in one sitting.
"""

import csv
import io
import re
from pathlib import Path

from data_pipeline.schema import Reject
from data_pipeline.table.clips import VIDEO_EXTENSIONS, ClipTableError, OnReject

LETTERS = (
    {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    {"b": "blue", "g": "green", "r": "red", "w": "white"},
    {"a": "at", "b": "by", "i": "in", "w": "with"},
    {c: c for c in "abcdefghijklmnopqrstuvxyz"},
    dict(
        zip("z123456789", "zero one two three four five six seven eight nine".split(), strict=True)
    ),
    {"a": "again", "n": "now", "p": "please", "s": "soon"},
)

_SILENCE = ("sil", "sp")
_ALIGN_UNITS = 25_000  # of an .align file, in a second
_SPEAKER_FOLDER = re.compile(r"s\d{1,2}")


def clips(root: Path, on_reject: OnReject) -> list[dict[str, str]]:
    """A row for each video under `root`, in order of path."""
    files = sorted(f for f in root.rglob("*") if not f.name.startswith("."))
    videos = [f for f in files if f.suffix.lower() in VIDEO_EXTENSIONS]
    if not videos:
        raise ClipTableError(f"no GRID videos under {root}; expected clips/*.mpg or s1/*.mpg")
    speakers = _speakers(root / "metadata.csv")
    aligns: dict[str, list[Path]] = {}
    for file in files:
        if file.suffix == ".align":
            aligns.setdefault(file.stem, []).append(file)
    rows = []
    for video in videos:
        where = video.relative_to(root).as_posix()
        try:
            name = sentence_name(video.stem)
            speaker = speakers.get(where) or _folder_speaker(video, root)
            align = _align_of(speaker, aligns.get(name, []))
            words = align_words(align) if align else sentence(name)
        except ValueError as error:
            on_reject(Reject(clip=where, stage="table", reason="bad_name", detail=str(error)))
            continue
        rows.append(
            {
                "video": str(video.resolve()),
                "text": " ".join(words),
                "speaker": speaker,
                "recording": speaker,
                "corpus": "grid",
            }
        )
    return rows


def sentence_name(stem: str) -> str:
    """The six letters at the end of a file's name, `id2_vcd_swwp2s` too; ValueError if none."""
    name = stem.lower().rpartition("_")[2]
    if len(name) != 6:
        raise ValueError(f"{stem!r} is no GRID name; expected six letters such as bbaf2n")
    return name


def sentence(name: str) -> list[str]:
    """The six words that a name spells; ValueError names the letter that spells none."""
    words = []
    for place, (letter, known) in enumerate(zip(name, LETTERS, strict=True), start=1):
        if letter not in known:
            raise ValueError(
                f"{name}: letter {place} is {letter!r}; GRID has {' '.join(known)} there"
            )
        words.append(known[letter])
    return words


def align_words(path: Path) -> list[str]:
    """The words of an .align file, silences left out; ValueError when it is none."""
    return [word for _, _, word in align_spans(path)]


def align_spans(path: Path) -> list[tuple[float, float, str]]:
    """Start and end, in seconds, of each word of an .align file, silences left out; ValueError when
    it is none."""
    spans = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                start, end, word = line.split()
                if int(end) < int(start):
                    raise ValueError(f"{word!r} ends before it starts")
                if word not in _SILENCE:
                    spans.append((int(start) / _ALIGN_UNITS, int(end) / _ALIGN_UNITS, word))
    except ValueError as error:
        raise ValueError(f"{path.name} is no alignment (start end word): {error}") from error
    if not spans:
        raise ValueError(f"{path.name} holds no word")
    return spans


def _align_of(speaker: str, found: list[Path]) -> Path | None:
    """Speakers share names: of several files, the one in the speaker's own folder."""
    own = [path for path in found if speaker in path.parts] if len(found) > 1 else found
    return own[0] if len(own) == 1 else None


def _folder_speaker(video: Path, root: Path) -> str:
    folders = [root.resolve().name, *video.relative_to(root).parts[:-1]]
    return next((f for f in reversed(folders) if _SPEAKER_FOLDER.fullmatch(f)), folders[0])


def _speakers(metadata: Path) -> dict[str, str]:
    """Speaker by file, from a table with the columns `file` and `speaker` (or `person...`)."""
    if not metadata.is_file():
        return {}
    try:
        text = metadata.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ClipTableError(f"{metadata} is not UTF-8: {error}; save it as CSV UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    names = [n for n in reader.fieldnames or [] if n.startswith(("speaker", "person"))]
    if not names or "file" not in (reader.fieldnames or []):
        return {}
    return {row["file"]: row[names[0]] for row in reader if row[names[0]]}
