"""MELD (Poria et al. 2019): 13,708 utterances of 1,432 dialogues of the series Friends.

    train_sent_emo.csv    train_splits/dia0_utt0.mp4
    dev_sent_emo.csv      dev_splits_complete/dia0_utt0.mp4
    test_sent_emo.csv     output_repeated_splits_test/dia0_utt0.mp4

Tables and folders may lie at any depth. Where the test folder has final_videos_testdiaD_uttU.mp4
beside diaD_uttU.mp4, the former is what the table means. One video is missing from the release (dev
dia110_utt7), one cannot be decoded (train dia125_utt3, which the extraction rejects). A dialogue is
one recording; speakers are shared by the three splits, as the series has one cast.
"""

import re
from pathlib import Path

from data_pipeline.corpora._release import Release, log, read_table, release_files, some
from data_pipeline.table.clips import VIDEO_EXTENSIONS, ClipTableError, OnReject

FOLDERS = {
    "train": "train_splits",
    "dev": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}
PUBLISHED = {"train": (9988, 9989), "dev": (1108, 1109), "test": (2610,)}
"""Utterances: those that can be used, and with the one that cannot, those of the table."""
COLUMNS = ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")

_NAME = re.compile(r"(final_videos_test)?dia(\d+)_utt(\d+)")
_WESTERN = {c: bytes([c & 0xFF]) for c in (*range(0x80, 0xA0), *range(0xDC80, 0xDCA0))}


def clips(root: Path, on_reject: OnReject) -> list[dict[str, str]]:
    """A row for each utterance under `root`, in the order of the tables, with its `sentiment`."""
    release = Release(root, on_reject)
    tables = {file.name: file for file in reversed(release_files(root, (".csv",)))}
    videos: dict[str, list[Path]] = {split: [] for split in FOLDERS}
    for file in release_files(root, VIDEO_EXTENSIONS):
        for split, folder in FOLDERS.items():
            if file.parent.name == folder:
                videos[split].append(file)
    names = {split: f"{split}_sent_emo.csv" for split in FOLDERS}
    if not any(videos[split] and names[split] in tables for split in FOLDERS):
        raise ClipTableError(
            f"no split of MELD under {root}; expected train_sent_emo.csv with "
            "train_splits/dia0_utt0.mp4, or the same of dev or test"
        )
    whole = all(videos[split] and names[split] in tables for split in FOLDERS)
    for split, name in names.items():
        before = len(release.rows)
        if videos[split] and name in tables:
            _add_split(release, split, tables[name], videos[split])
        elif videos[split] or name in tables:
            there, absent = (name, FOLDERS[split])[:: 1 if name in tables else -1]
            log.warning("%s is there, but not %s: MELD's %s is left out", there, absent, split)
        count = len(release.rows) - before
        if whole and count not in PUBLISHED[split]:
            usable = " or ".join(f"{number:,}" for number in PUBLISHED[split])
            log.warning("MELD, %s: %s rows (published: %s)", split, f"{count:,}", usable)
    return release.rows


def _add_split(release: Release, split: str, table: Path, files: list[Path]) -> None:
    videos = _videos(release, files)
    listed = set()
    for number, row in _lines(table):
        place = f"{release.where(table)}:{number}"
        key = (row["Dialogue_ID"] or "").strip(), (row["Utterance_ID"] or "").strip()
        if None in row.values() or not all(map(str.isdecimal, key)):
            what = f"it has not one cell a column, or numbers in {' and '.join(COLUMNS[-2:])}"
            release.reject("bad_line", place, f"{what}; is the table cut there?")
            continue
        dialogue, utterance = (int(part) for part in key)
        name = f"dia{dialogue}_utt{utterance}"
        listed.add(name)
        if name not in videos:
            where = f"{FOLDERS[split]}/{name}"
            release.reject("missing_file", where, f"no video, of {place}")
            continue
        release.add(
            place,
            {
                "id": f"{split}_{name}",
                "video": str(videos[name].resolve()),
                "text": mend(row["Utterance"]),
                "speaker": mend(row["Speaker"]).strip(),
                "recording": f"{split}_dia{dialogue}",
                "label": row["Emotion"].strip(),
                "corpus": "meld",
                "sentiment": row["Sentiment"].strip(),
            },
        )
    for name in sorted(videos.keys() - listed):
        release.reject("no_label", release.where(videos[name]), f"{table.name} has no line of it")


def _videos(release: Release, files: list[Path]) -> dict[str, Path]:
    """diaD_uttU to its video."""
    found: dict[str, Path] = {}
    replaced = []
    for file in sorted(files, key=lambda file: not file.stem.startswith("final_")):
        match = _NAME.fullmatch(file.stem)
        if match is None:
            what = f"{file.stem!r} is no MELD name; expected one like dia0_utt0"
            release.reject("bad_name", release.where(file), what)
            continue
        name = f"dia{int(match[2])}_utt{int(match[3])}"
        if name in found and found[name].stem.startswith("final_") and not match[1]:
            replaced.append(file.name)
        elif name in found:
            what = f"{name} is at {release.where(found[name])} already, which is used"
            release.reject("duplicate_id", release.where(file), what)
        else:
            found[name] = file
    if replaced:
        log.warning(
            "%d videos of MELD's test are not used, as final_videos_test* is the right one: %s",
            len(replaced),
            some(replaced),
        )
    return found


def _lines(table: Path) -> list[tuple[int, dict[str, str | None]]]:
    """(line, row) of each row; of one that has not a cell a column some or all are None."""
    columns, rows = read_table(table)
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        raise ClipTableError(
            f"{table} has no column {', '.join(missing)}; expected {', '.join(COLUMNS)}, as in "
            "MELD's train_sent_emo.csv"
        )
    return [(n, {c: None if None in row else row[c] for c in COLUMNS}) for n, row in rows]


def mend(text: str) -> str:
    """Quotes and dashes that were pasted in as Windows-1252 among UTF-8; the rest as it is."""
    return "".join(
        _WESTERN[ord(c)].decode("windows-1252", "replace") if ord(c) in _WESTERN else c
        for c in text
    )
