"""From what a user names to the pieces that are judged: files found, cut, and kept as cut.

A cut is kept in OUTPUT/cuts, so that a run that was stopped cuts no file twice.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipeline.command_line import os_error_text
from data_pipeline.files.atomic import atomic_file
from data_pipeline.media.clip_media import MediaError
from data_pipeline.schema import MAX_ID_LENGTH, Clip, Reject, clip_id
from data_pipeline.speaker.utterances import Cut, Piece, cut_into_utterances
from data_pipeline.speaker.voices import (
    VoiceEncoder,
    VoiceEncoderError,
    embed_voices,
    load_voice_encoder,
    tell_apart,
)
from data_pipeline.table.clip_table import ClipTableError
from data_pipeline.table.clips import load_clips
from data_pipeline.table.encodings import decode_text, is_text
from finetune.timeline.utterance import TimelineError, Video

log = logging.getLogger(__name__)

CUTS = "cuts"
LIST_EXTENSION = ".txt"
NUM_NAMED = 3
"""So many reasons are told."""
PEOPLE = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """All that is to be extracted."""

    spoken: list[Clip]
    """Somebody speaks, or a table says so."""
    silent: list[Clip]
    """Nobody does: the picture is all there is."""
    videos: list[Video]
    named_by: dict[str, str]
    """Id of a clip with a name to what named it, as in Utterance."""


def find_clips(inputs: list[Path]) -> tuple[list[Clip], list[Reject]]:
    """The clips of videos, folders, clip tables and lists of them (.txt, a path a line), each with
    an id of its own. A file that is named twice counts once, and one that a table cuts is not cut
    again. Raises TimelineError where there is none at all."""
    clips: dict[tuple, Clip] = {}
    rejects: list[Reject] = []
    for path in _listed(inputs, rejects):
        try:
            found = load_clips(path, rejects)
        except (ClipTableError, OSError) as error:
            detail = os_error_text(error, path) if isinstance(error, OSError) else str(error)
            rejects.append(Reject(clip=str(path), stage="table", reason="no_clips", detail=detail))
            continue
        for clip in found:
            clips.setdefault((clip.video, clip.start, clip.end, clip.region), clip)
    if not clips:
        why = [f"{r.clip}: {r.detail}" if r.clip not in r.detail else r.detail for r in rejects]
        more = f"; and {len(why) - NUM_NAMED} more" if len(why) > NUM_NAMED else ""
        raise TimelineError(f"nothing to look at: {'; '.join(why[:NUM_NAMED])}{more}")
    cut_by_table = {clip.video for clip in clips.values() if not _is_whole(clip)}
    twice = sorted({c.video for c in clips.values() if _is_whole(c)} & cut_by_table)
    for video in twice:
        log.warning("%s is cut as its table or subtitles say, and not by its voices", video)
    kept = [c for c in clips.values() if c.video not in twice or not _is_whole(c)]
    return _with_own_ids(kept), rejects


def _listed(inputs: list[Path], rejects: list[Reject]) -> list[Path]:
    """With the lines of list files in their place."""
    found = []
    for path in inputs:
        if path.suffix.lower() != LIST_EXTENSION or not os.path.isfile(path):
            found.append(path)
            continue
        text, _ = decode_text(path.read_bytes())
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines or "\0" in text or not is_text(text):
            what = "is no text" if lines else "names no file"
            detail = f"{path} {what}; expected a path a line"
            rejects.append(Reject(clip=str(path), stage="table", reason="bad_list", detail=detail))
            continue
        found += [path.parent / os.path.expanduser(line) for line in lines]
    return found


def _with_own_ids(clips: list[Clip]) -> list[Clip]:
    """Ids are made of names and times: two files of one name, in two folders or of two endings, get
    a digest of their path."""
    count = Counter(clip.id for clip in clips)
    return [clip if count[clip.id] == 1 else replace(clip, id=_own_id(clip)) for clip in clips]


def _own_id(clip: Clip) -> str:
    place = repr((clip.video, clip.start, clip.end, clip.region))
    digest = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{clip.id[: MAX_ID_LENGTH - len(digest) - 1]}-{digest}"


def cut_all(clips: list[Clip], folder: Path, *, diarize: bool | None) -> Pieces:
    """Cut whole files; clips that have a time or words already stay as they are.

    diarize: tell voices apart; None is where the encoder is installed.
    """
    spoken: list[tuple[Clip, str]] = []
    silent: list[tuple[Clip, str]] = []
    videos = []
    whole = [clip for clip in clips if _is_whole(clip)]
    encoder = _encoder(diarize) if whole else None
    of_tables: set[str] = set()
    for clip in clips:
        if not _is_whole(clip):
            spoken.append((clip, "table" if clip.speaker else ""))
            if clip.video not in of_tables:
                of_tables.add(clip.video)
                videos.append(Video(path=clip.video))
            continue
        try:
            cut = _cut(clip, folder, encoder)
        except MediaError as error:
            videos.append(Video(path=clip.video, problem=f"{error.reason}: {error.detail}"))
            log.warning("%s: %s", clip.video, error.detail)
            continue
        notes = [*cut.notes, *_said(cut)]
        videos.append(Video(path=clip.video, seconds=cut.seconds, notes=tuple(notes)))
        for piece in cut.pieces:
            (spoken if piece.voiced else silent).append(_clip_of(clip, piece))
    every = [*spoken, *silent]
    own = _with_own_ids([clip for clip, _ in every])
    names = zip(own, (named_by for _, named_by in every), strict=True)
    return Pieces(
        spoken=own[: len(spoken)],
        silent=own[len(spoken) :],
        videos=videos,
        named_by={clip.id: named_by for clip, named_by in names if named_by},
    )


def _is_whole(clip: Clip) -> bool:
    return clip.start == 0 and clip.end is None and clip.text is None


def _said(cut: Cut) -> list[str]:
    said = [] if cut.has_video else ["the file has no picture"]
    if not cut.has_sound:
        return [*said, "the file has no sound"]
    return said if any(piece.voiced for piece in cut.pieces) else [*said, "no voice was heard"]


def letter(number: int) -> str:
    """Of a person who is counted from 0."""
    return PEOPLE[number] if number < len(PEOPLE) else f"P{number + 1}"


def _clip_of(clip: Clip, piece: Piece) -> tuple[Clip, str]:
    """The piece as a clip, and what named its speaker."""
    person, named_by = clip.speaker, "table" if clip.speaker else ""
    if not person and piece.voice is not None:
        person, named_by = letter(piece.voice), "neighbour" if piece.guessed else "voice"
    recording = clip.recording or Path(clip.video).stem
    of_piece = Clip(
        id=clip_id(clip.corpus, recording, piece.start),
        video=clip.video,
        start=piece.start,
        end=piece.end,
        speaker=person,
        recording=recording,
        corpus=clip.corpus,
        region=clip.region,
        columns=clip.columns,
    )
    return of_piece, named_by


def _encoder(diarize: bool | None) -> VoiceEncoder | None:
    if diarize is False:
        return None
    try:
        return load_voice_encoder()
    except VoiceEncoderError as error:
        if diarize:
            raise
        log.info("voices are not told apart: %s", error)
        return None


def _cut(clip: Clip, folder: Path, encoder: VoiceEncoder | None) -> Cut:
    """From the file, or as it was cut before."""
    path = folder / CUTS / f"{clip.id}.json"
    stat = os.stat(clip.video) if os.path.exists(clip.video) else None
    told = {
        "video": clip.video,
        "bytes": stat and stat.st_size,
        "modified": stat and stat.st_mtime,
        "diarize": encoder is not None,
    }
    kept = _kept(path, told)
    if kept is not None:
        return kept
    voices = {}
    if encoder is not None:
        voices = {
            "embed": lambda sound_T, spans: embed_voices(encoder, sound_T, spans),
            "tell_apart": tell_apart,
        }
    bar_format = "{desc}: {n:.0f} s of it listened to [{elapsed}]"
    with tqdm(desc=Path(clip.video).name, bar_format=bar_format, disable=None) as bar:

        def show(seconds: float) -> None:
            bar.n = seconds
            bar.refresh()

        cut = cut_into_utterances(clip.video, on_window=show, **voices)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(json.dumps({**told, "cut": asdict(cut)}, default=_plain).encode())
    return cut


def _kept(path: Path, told: dict) -> Cut | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        cut = kept.pop("cut")
        if kept != told:
            return None
        return Cut(**{**cut, "pieces": [Piece(**piece) for piece in cut["pieces"]]})
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not cut yet, or not to the end


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} is no JSON")
