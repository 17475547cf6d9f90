"""Subtitle files: a row of a clip table for each line, and each word once.

    clips_from_subtitles("film.mp4", "film.srt")   rows (video, start, end, text) and rejects

SubRip (.srt) and WebVTT (.vtt). Automatic captions roll: a line stays on the screen while the next
one is spoken, so a cue shows again what the one before it ended with, or the same line with a word
more. Such files are told by their cues, of which most repeat the one before, and only what is new
in a cue is its text.
"""

import html
import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.schema import Reject
from data_pipeline.table.encodings import decode_text, is_text
from data_pipeline.table.words import normalize_text, split_words

SUBTITLE_EXTENSIONS = (".srt", ".vtt")
MIN_LINE_SECONDS = 1.0
"""MEmoBERT drops shorter subtitle lines: their times are seldom good to less than that."""
MAX_ROLL_SECONDS = 0.5
"""A cue that comes later than this after the one before says its words anew."""

_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{2})[,.](\d{1,3})"
_TIMING = re.compile(rf"^\s*{_TIME}\s*-->\s*{_TIME}(?:\s|$)")
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


class SubtitleError(UserError):
    """A subtitle file without a line."""


@dataclass(frozen=True, kw_only=True)
class _Cue:
    number: int
    """Of the line with its times, in the file."""
    start: float
    end: float
    lines: tuple[str, ...]
    """Without markup and without empty ones."""


def clips_from_subtitles(
    video: str | Path, subtitle: str | Path
) -> tuple[list[dict[str, str]], list[Reject]]:
    """Rows of a clip table (video, start, end, text), one a subtitle line, and the lines dropped.

    Lines without text and lines shorter than MIN_LINE_SECONDS are dropped, as in MEmoBERT, and so
    are lines that cannot be read or whose times make no sense; each gives a Reject. Every timed
    line of the file is a row or a Reject, or repeats what rows say. SubtitleError when there is
    none at all.
    """
    subtitle = Path(subtitle)
    rows: list[dict[str, str]] = []
    rejects: list[Reject] = []
    text, _ = decode_text(subtitle.read_bytes())
    for cue in _unroll(_cues(text)):
        spoken = normalize_text(" ".join(cue.lines))
        seconds = cue.end - cue.start
        problem = None
        if not is_text(spoken or ""):
            problem = "not_utf8", "the text is not UTF-8; save the subtitles as UTF-8"
        elif spoken is None:
            problem = "empty_text", "the line has a time but no words"
        elif seconds <= 0:
            span = f"from {cue.start:.3f} s to {cue.end:.3f} s"
            problem = "empty_span", f"{span}; expected end after start"
        elif seconds < MIN_LINE_SECONDS:
            found = f"{seconds:.3f} s long, expected at least {MIN_LINE_SECONDS:g} s"
            problem = "short_line", found
        if problem:
            reason, detail = problem
            where = f"{subtitle.name}:{cue.number}"
            rejects.append(Reject(clip=where, stage="table", reason=reason, detail=detail))
        else:
            times = {"start": f"{cue.start:.3f}", "end": f"{cue.end:.3f}"}
            rows.append({"video": str(video), **times, "text": spoken})
    if not rows and not rejects:
        raise SubtitleError(
            f"{subtitle} holds no subtitle line; expected SubRip (.srt) or WebVTT (.vtt) lines "
            "like 00:00:01,000 --> 00:00:02,500; mend it, or move it away from the video"
        )
    return rows, rejects


def _cues(text: str) -> list[_Cue]:
    lines = text.splitlines()
    cues: list[_Cue] = []
    for i, line in enumerate(lines):
        timing = _TIMING.match(line)
        if timing is None:
            continue
        shown: list[str] = []
        for words in lines[i + 1 :]:
            if not words:  # one of spaces is none: automatic captions hold the line above free so
                break
            if _TIMING.match(words):  # the blank line is missing: this is the next line's number
                shown = shown[:-1] if shown and shown[-1].strip().isdigit() else shown
                break
            shown.append(words)
        start, end = (_seconds(*timing.groups()[k : k + 4]) for k in (0, 4))
        plain = (normalize_text(html.unescape(_MARKUP.sub(" ", words))) for words in shown)
        cues.append(_Cue(number=i + 1, start=start, end=end, lines=tuple(filter(None, plain))))
    return cues


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction}")


def _unroll(cues: list[_Cue]) -> list[_Cue]:
    """Cues that say each word once; those of a file that does not roll as they are."""
    pairs = list(itertools.pairwise(cues))
    carried = [(after, *_carried(before, after)) for before, after in pairs]
    repeats = [(len(after.lines), m, grown) for after, m, grown in carried if m]
    if 2 * len(repeats) < len(pairs) or not any(n > m or grown for n, m, grown in repeats):
        return cues
    unrolled = cues[:1]
    for cue, m, grown in carried:
        if grown:
            last = unrolled[-1]
            unrolled[-1] = replace(last, end=cue.end, lines=(*last.lines, grown))
        if len(cue.lines) > m or not m:
            unrolled.append(replace(cue, lines=cue.lines[m:]))
    return unrolled


def _carried(before: _Cue, after: _Cue) -> tuple[int, str]:
    """How many of the lines of `after` `before` ends with, and what the last of them has more."""
    if after.start - before.end > MAX_ROLL_SECONDS:
        return 0, ""
    shown, lines = before.lines, after.lines
    for m in range(min(len(shown), len(lines)), 0, -1):
        old, new = split_words(shown[-1]), split_words(lines[m - 1])
        if shown[len(shown) - m : -1] == lines[: m - 1] and new[: len(old)] == old:
            return m, " ".join(new[len(old) :])
    return 0, ""
