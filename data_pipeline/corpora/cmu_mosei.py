"""CMU-MOSEI (Zadeh et al. 2018): 23,453 labelled segments of 3,228 videos of one speaker each.

    Raw/Videos/Full/Combined/VIDEO.mp4
    Raw/Transcript/Segmented/Combined/VIDEO.txt    a line a segment: VIDEO___3___12.5___17.2___words
    Raw/Labels/*.csv, *.json                       or elsewhere; `label` in the path of a .json

Written from what is publicly known of the raw release, which is not at hand. Assumed: a segment's
number is the same in transcripts and labels, and a label table is one of

    a rater's judgement a row       Input.VIDEO_ID, Input.CLIP, Answer.sentiment, Answer.happiness,
                                    ...: the release's own tables; the mean over raters is taken
    a segment a row                 video (or video_id, file), segment (or clip, clip_id, index),
                                    sentiment, happiness (or happy), sadness (or sad), ...
    {VIDEO: {"features": [[...]], "intervals": [[start, end]]}}
                                    what the SDK's label sequence holds, as JSON: sentiment, happy,
                                    sad, anger, surprise, disgust, fear, matched by their times

The label is the most intense of six emotions (of equal ones the first in the SDK's order), and
empty where all are 0 or none is known: most segments of the release have no label. `sentiment` is
from -3 to 3. The release names no speakers; a video is one recording.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.corpora._release import (
    Release,
    log,
    read_table,
    read_text,
    release_files,
    some,
)
from data_pipeline.table.clips import VIDEO_EXTENSIONS, ClipTableError, OnReject

EMOTIONS = ("happiness", "sadness", "anger", "surprise", "disgust", "fear")
"""In the SDK's order."""
SCORES = ("sentiment", *EMOTIONS)

_SHORT = {"happy": "happiness", "sad": "sadness"}
_VIDEO = ("input.video_id", "video", "video_id", "file")
_SEGMENT = ("input.clip", "segment", "clip", "clip_id", "index")
_TRANSCRIPTS, _VIDEOS = ("Transcript", "Segmented", "Combined"), ("Full", "Combined")

Scores = dict[str, float]


def clips(root: Path, on_reject: OnReject) -> list[dict[str, str]]:
    """A row for each segment that is transcribed under `root`, with its `sentiment`."""
    transcripts = [f for f in release_files(root, (".txt",)) if f.parent.parts[-3:] == _TRANSCRIPTS]
    if not transcripts:
        raise ClipTableError(
            f"no CMU-MOSEI transcripts under {root}; expected "
            "Raw/Transcript/Segmented/Combined/*.txt beside Raw/Videos/Full/Combined/*.mp4"
        )
    release = Release(root, on_reject)
    videos = {
        f.stem: f
        for f in reversed(release_files(root, VIDEO_EXTENSIONS))
        if f.parent.parts[-2:] == _VIDEOS
    }
    by_number, by_time = _labels(release)
    used = set()
    for file in transcripts:
        for place, (video, segment, start, end, text) in _segments(release, file):
            times = video, round(float(start), 2), round(float(end), 2)
            label = (video, segment) if (video, segment) in by_number else times
            used.add(label)
            if video not in videos:
                release.reject("missing_file", place, f"no video Videos/Full/Combined/{video}.mp4")
                continue
            row = {
                "id": f"{video}_{segment}",
                "video": str(videos[video].resolve()),
                "start": start,
                "end": end,
                "text": text,
                "recording": video,
                "corpus": "cmu_mosei",
            }
            release.add(place, row | _columns(by_number.get(label) or by_time.get(label)))
    for name in sorted(videos.keys() - {file.stem for file in transcripts}):
        what = "Transcript/Segmented/Combined has no file of it"
        release.reject("no_lines", release.where(videos[name]), what)
    if unused := sorted((by_number.keys() | by_time.keys()) - used, key=str):
        names = some("_".join(map(str, label)) for label in unused)
        log.warning("%s labels are of segments that no transcript has: %s", len(unused), names)
    return release.rows


def _segments(release: Release, file: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(place, parts) of each line that is a segment; the others are rejects."""
    lines = [(n, line.strip()) for n, line in enumerate(release.text(file).splitlines(), start=1)]
    lines = [(n, line) for n, line in lines if line]
    if not lines:
        release.reject("no_lines", release.where(file), "it is empty; expected a line a segment")
    for number, line in lines:
        place = f"{release.where(file)}:{number}"
        parts = tuple(line.split("___", 4))
        if len(parts) == 5 and parts[1].isdecimal() and all(map(_is_number, parts[2:4])):
            yield place, parts
        else:
            what = f"{line[:80]!r} is no segment; expected VIDEO___3___12.5___17.2___words"
            release.reject("bad_line", place, what)


def _columns(scores: Scores | None) -> dict[str, str]:
    if scores is None:
        return {}
    strongest = max(EMOTIONS, key=lambda emotion: scores.get(emotion, 0.0))
    label = {"label": strongest} if scores.get(strongest, 0.0) > 0 else {}
    sentiment = {"sentiment": f"{scores['sentiment']:g}"} if "sentiment" in scores else {}
    return label | sentiment


def _labels(release: Release) -> tuple[dict[tuple, Scores], dict[tuple, Scores]]:
    """Scores by (video, segment), and by (video, start, end): means over the rows of each."""
    rows: dict[tuple, list[Scores]] = defaultdict(list)
    timed: dict[tuple, Scores] = {}
    for file in release_files(release.root, (".csv",)):
        for place, key, scores in _table(file):
            if scores is None:
                what = f"{key} is no row of labels; expected a video, a segment and numbers"
                release.reject("bad_line", f"{release.where(file)}:{place}", what)
            else:
                rows[key].append(scores)
    for file in release_files(release.root, (".json",)):
        if "label" in release.where(file).lower():
            timed |= _sequence(file)
    if not rows and not timed:
        log.warning("no label table of CMU-MOSEI under %s: all rows are unlabelled", release.root)
    return {key: _mean(scores) for key, scores in rows.items()}, timed


def _table(file: Path) -> Iterator[tuple[int, tuple, Scores | None]]:
    """(line, (video, segment), scores) of a table of labels; nothing of any other table."""
    columns, rows = read_table(file)
    column = {name.strip().lower(): name for name in columns}
    video = next((column[name] for name in _VIDEO if name in column), None)
    segment = next((column[name] for name in _SEGMENT if name in column), None)
    plain = {name.removeprefix("answer."): real for name, real in column.items()}
    scored = {_SHORT.get(name, name): real for name, real in plain.items()}
    scored = {name: real for name, real in scored.items() if name in SCORES}
    if video is None or segment is None or not scored:
        return
    for line, row in rows:
        key = ((row[video] or "").strip(), (row[segment] or "").strip().removesuffix(".0"))
        cells = {name: row[real] for name, real in scored.items()}
        good = all(key) and all(cell is not None and _is_number(cell) for cell in cells.values())
        yield line, key, {n: float(c) for n, c in cells.items()} if good else None


def _sequence(file: Path) -> dict[tuple, Scores]:
    """Scores by (video, start, end) of the SDK's label sequence. Raises ClipTableError."""
    try:
        data = json.loads(read_text(file))
        found = {
            (video, round(start, 2), round(end, 2)): dict(zip(SCORES, map(float, row), strict=True))
            for video, part in data.items()
            for row, (start, end) in zip(part["features"], part["intervals"], strict=True)
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ClipTableError(
            f"{file} is no label sequence of CMU-MOSEI ({error}); expected VIDEO to `features`, "
            f"rows of {', '.join(SCORES)}, and `intervals`"
        ) from error
    return found


def _mean(rows: list[Scores]) -> Scores:
    found = {name: [row[name] for row in rows if name in row] for name in SCORES}
    return {name: math.fsum(cells) / len(cells) for name, cells in found.items() if cells}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
