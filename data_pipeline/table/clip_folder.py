"""A folder of videos as a clip table: each file a row, its words from the files beside it.

What lies beside `talk.mp4` belongs to it by name: `talk.srt`, `TALK.SRT`, `talk.en.vtt`,
`talk.mp4.srt`, `talk.txt`. Of several, one is used. Subtitles go before text, for their times;
then no language in the name before `-orig` (the one spoken, as downloaders mark it), before
English (which the encoders that ship read), before the others by name; and lines that are forced
or for the deaf last. Sound files are clips where a folder holds no video. Whatever is not used is
counted in a warning.
"""

import collections
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.schema import Reject, clip_id
from data_pipeline.table.clip_table import ClipTableError, OnReject, Row
from data_pipeline.table.encodings import decode_text
from data_pipeline.table.subtitles import SUBTITLE_EXTENSIONS, SubtitleError, clips_from_subtitles

VIDEO_EXTENSIONS = tuple(
    ".264 .265 .3g2 .3gp .amv .asf .avi .divx .dv .f4v .flv .h264 .h265 .hevc .ivf .m1v .m2p .m2t "
    ".m2ts .m2v .m4v .mjpeg .mjpg .mk3d .mkv .mod .mov .mp4 .mp4v .mpe .mpeg .mpg .mpv .mts .mxf "
    ".nut .ogm .ogv .qt .rm .rmvb .tod .ts .vob .vro .webm .wmv .wtv .y4m".split()
)
SOUND_EXTENSIONS = tuple(
    ".aac .ac3 .aif .aiff .amr .au .caf .flac .m4a .mka .mp2 .mp3 .oga .ogg .opus .wav .weba "
    ".wma".split()
)
TEXT_EXTENSION = ".txt"
NUM_NAMED = 3
"""So many files of a kind are named in a warning; the others are counted."""

_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][a-z0-9]+)*")
_ENGLISH = re.compile(r"(en|eng|english)([-_].*)?")
_LAST = {"forced": 2, "sdh": 1, "cc": 1}

log = logging.getLogger(__name__)


@dataclass
class _Notes:
    """What a user should hear of once, not once a file."""

    passed_over: list[str] = field(default_factory=list)
    western: list[str] = field(default_factory=list)

    def say(self) -> None:
        if self.passed_over:
            log.warning(
                "%d files are not used, as a better one lies beside the same video: %s "
                "(subtitles before text; no language in the name before -orig before English)",
                len(self.passed_over),
                _some(self.passed_over),
            )
        if self.western:
            log.warning(
                "%d files are not UTF-8 and were read as Windows-1252: %s; save them as UTF-8 if "
                "letters are wrong",
                len(self.western),
                _some(self.western),
            )


def folder_rows(root: Path, corpus: str, on_reject: OnReject) -> list[tuple[str, Row]]:
    """(place, row) of each clip under `root`, at any depth, in order of name.

    ClipTableError: no folder that can be read, or nothing in it that is a clip.
    """
    files = _walk(root, on_reject)
    media = [file for file in files if file.suffix.lower() in VIDEO_EXTENSIONS]
    media = media or [file for file in files if file.suffix.lower() in SOUND_EXTENSIONS]
    beside = _companions(media, files)
    used = {*media, *(file for found in beside.values() for file in found)}
    _say_left_out(root, [file for file in files if file not in used])
    if not media:
        raise ClipTableError(
            f"no videos under {root}; looked for {' '.join(VIDEO_EXTENSIONS)}, for sound files, "
            "and for a table named clips.csv or clips.parquet"
        )
    return _rows(media, beside, root, corpus, on_reject)


def file_rows(file: Path, corpus: str, on_reject: OnReject) -> list[tuple[str, Row]]:
    """(place, row) of each clip of one video or sound file."""
    # Not entry.is_file(), which raises for links in a circle.
    neighbours = [file.parent / name for name in os.listdir(file.parent)]
    neighbours = [path for path in neighbours if os.path.isfile(path)]
    media = [f for f in neighbours if f.suffix.lower() in VIDEO_EXTENSIONS and f != file]
    beside = _companions([*media, file], neighbours)
    return _rows([file], beside, file.parent, corpus, on_reject)


def _walk(root: Path, on_reject: OnReject) -> list[Path]:
    def unreadable(error: OSError) -> None:
        where, why = error.filename, error.strerror
        if Path(where) == root:
            raise ClipTableError(f"cannot read the folder {root}: {why}")
        detail = f"cannot read the folder {where}: {why}; its videos are not among the clips"
        name = Path(where).relative_to(root).as_posix()
        on_reject(Reject(clip=name, stage="table", reason="unreadable_folder", detail=detail))

    files = []
    for folder, subfolders, names in os.walk(root, onerror=unreadable):
        for link in filter(os.path.islink, (os.path.join(folder, s) for s in sorted(subfolders))):
            log.warning("%s is a link to a folder, which is not followed; name it in clips=", link)
        # macOS leaves ._ twins beside each file on foreign disks; they are no videos.
        files += [Path(folder, name) for name in names if not name.startswith(".")]
    return sorted(files)


def _companions(media: list[Path], files: list[Path]) -> dict[Path, list[Path]]:
    """The files with words beside each of `media`, the best one first."""
    of_stem: dict[tuple[Path, str], list[Path]] = collections.defaultdict(list)
    for file in media:
        of_stem[file.parent, file.stem.casefold()].append(file)
    found: dict[Path, list[tuple[tuple, Path]]] = collections.defaultdict(list)
    for file in files:
        kind = file.suffix.lower()
        if kind not in (*SUBTITLE_EXTENSIONS, TEXT_EXTENSION):
            continue
        stem, tags = file.stem, []
        while (file.parent, stem.casefold()) not in of_stem and "." in stem.lstrip("."):
            stem, _, tag = stem.rpartition(".")
            tags.append(tag.lower())
        ending = ""  # talk.mp4.srt is of talk.mp4 alone
        if tags and "." + tags[-1] in VIDEO_EXTENSIONS + SOUND_EXTENSIONS:
            ending = "." + tags.pop()
        # A text named notes or readme is about the video; subtitles are always of it.
        if kind == TEXT_EXTENSION and not all(_LANGUAGE.fullmatch(tag) for tag in tags):
            continue
        for video in of_stem.get((file.parent, stem.casefold()), ()):
            if ending in ("", video.suffix.lower()):
                found[video].append((_rank(kind, tags, stem == video.stem), file))
    return {video: [file for _, file in sorted(ranked)] for video, ranked in found.items()}


def _rank(kind: str, tags: list[str], exact: bool) -> tuple:
    languages = [tag for tag in tags if tag not in _LAST]
    if not languages:
        language = 0
    elif any(tag.endswith("-orig") for tag in languages):
        language = 1
    elif any(map(_ENGLISH.fullmatch, languages)):
        language = 2
    else:
        language = 3
    last = max((_LAST[tag] for tag in tags if tag in _LAST), default=0)
    return kind == TEXT_EXTENSION, not exact, last == 2, language, last, kind


def _rows(
    media: list[Path],
    beside: dict[Path, list[Path]],
    root: Path,
    corpus: str,
    on_reject: OnReject,
) -> list[tuple[str, Row]]:
    rows: list[tuple[str, Row]] = []
    notes = _Notes()
    of_stem = collections.Counter(file.with_suffix("") for file in media)
    for file in media:
        name = file.relative_to(root).as_posix()
        mine, rejects = _rows_of_file(name, beside.get(file, []), root, notes)
        if of_stem[file.with_suffix("")] > 1:  # a.mp4 beside a.mkv: the id tells them apart
            for _, row in mine:
                row["id"] = clip_id(corpus, name, float(row.get("start", 0.0)))
        rows += mine
        for reject in rejects:
            on_reject(reject)
    notes.say()
    return rows


def _rows_of_file(
    name: str, beside: list[Path], root: Path, notes: _Notes
) -> tuple[list[tuple[str, Row]], list[Reject]]:
    """Rows and rejects of one video by the first of the files beside it that has words."""
    rows: list[tuple[str, Row]] = [(name, {"video": name})]
    rejects: list[Reject] = []
    taken = None
    for file in beside:
        encoding = ""
        try:
            if file.suffix.lower() == TEXT_EXTENSION:
                text, encoding = decode_text(file.read_bytes())
                rows, rejects = [(name, {"video": name, "text": text})], []
            else:
                _, encoding = decode_text(file.read_bytes())
                lines, rejects = clips_from_subtitles(name, file)
                rows = [(f"{name}@{line['start']}", line) for line in lines]
        except SubtitleError as error:
            rows = []
            rejects = [Reject(clip=name, stage="table", reason="no_lines", detail=str(error))]
        except OSError as error:
            rows = []
            rejects = [
                Reject(clip=name, stage="table", reason="unreadable_text", detail=str(error))
            ]
        if rows:
            taken = file
            if encoding == "windows-1252":
                notes.western.append(_shown(file, root))
            break
    others = [file for file in beside if file is not taken]
    if taken is not None:
        notes.passed_over += [f"{_shown(f, root)} ({taken.name} is used)" for f in others]
    return rows, rejects


def _say_left_out(root: Path, files: list[Path]) -> None:
    if not files:
        return
    kinds = collections.Counter(file.suffix.lower() or "without an ending" for file in files)
    log.warning(
        "%d files under %s are neither videos nor words beside one, and are left out: %s; e.g. %s",
        len(files),
        root,
        ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8)),
        _some([_shown(file, root) for file in files]),
    )


def _some(names: list[str]) -> str:
    more = len(names) - NUM_NAMED
    return ", ".join(names[:NUM_NAMED]) + (f" and {more} more" if more > 0 else "")


def _shown(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix().encode("utf-8", "backslashreplace").decode()
