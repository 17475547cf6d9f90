"""What an extraction would reject, told from the headers of the files and the config alone.

Each file is opened once and nothing of it is decoded, some hundred files a second; of more than
MAX_FILES a sample is opened. Whether there is a face or a voice only the extraction finds out.
"""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av

from data_pipeline.extraction.config import MAX_MISSING_SECONDS, DataConfig
from data_pipeline.media.container import (
    DECLARING,
    MediaError,
    best_streams,
    check_format,
    why_unreadable,
)
from data_pipeline.schema import Clip

MAX_FILES = 2000
NUM_THREADS = 8
"""Files that are opened at once: a share in the network answers each after a while."""
_EXACT = {*DECLARING, "flac", "ogg", "wav"}
"""File formats whose length is known without reading them."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself."""

    has_video: bool = False
    has_sound: bool = False
    seconds: float | None = None
    """None where only reading tells."""
    reason: str = ""
    """Why it cannot be used, as in rejects.csv; empty where it can."""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What is to be expected of the clips whose files were opened."""

    num_files: int
    """Distinct files that the clips name."""
    num_opened: int
    num_clips: int
    """Clips of the files opened."""
    reasons: dict[str, int]
    """Reject reason to clips, most frequent first; a clip counts for its first reason."""
    examples: dict[str, str]
    """Reject reason to what was found in one of them."""

    @property
    def num_rejects(self) -> int:
        return sum(self.reasons.values())


def survey(clips: list[Clip], config: DataConfig) -> Survey:
    """Open the files of `clips`, or MAX_FILES of them, and see what `config` will reject."""
    of_file: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        of_file[clip.video].append(clip)
    files = sorted(of_file)
    if len(files) > MAX_FILES:
        files = sorted(random.Random(0).sample(files, MAX_FILES))
    track = config.media.audio_track
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        headers = list(pool.map(lambda file: read_header(Path(file), track), files))
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for file, header in zip(files, headers, strict=True):
        for clip in of_file[file]:
            for reason, detail in foresee(clip, header, config):
                reasons[reason] += 1
                examples.setdefault(reason, f"{clip.id}: {detail}")
                break
    return Survey(
        num_files=len(of_file),
        num_opened=len(files),
        num_clips=sum(len(of_file[file]) for file in files),
        reasons=dict(reasons.most_common()),
        examples=examples,
    )


def read_header(path: Path, audio_track: int | None = None) -> Header:
    """What `path` says of itself; a file that cannot be opened says why. Never raises."""
    if not os.path.isfile(path):
        reason = "unreadable_video" if os.path.exists(path) else "missing_file"
        return Header(reason=reason, detail=f"no file {path}")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            check_format(container, path)
            video, audio = best_streams(container, path, audio_track)
            exact = not _EXACT.isdisjoint(container.format.name.split(","))
            seconds = container.duration / av.time_base if container.duration else None
    except MediaError as error:
        return Header(reason=error.reason, detail=error.detail)
    except (av.FFmpegError, OSError) as error:
        return Header(reason="unreadable_video", detail=why_unreadable(path, error))
    return Header(
        has_video=video is not None,
        has_sound=audio is not None,
        seconds=seconds if exact else None,
    )


def foresee(clip: Clip, header: Header, config: DataConfig) -> Iterator[tuple[str, str]]:
    """(reason, detail) of each ground on which `config` will reject `clip`."""
    if not config.opens_video:
        return
    if header.reason:
        yield header.reason, header.detail
        return
    end = clip.end
    if header.seconds is not None:
        end = header.seconds if end is None else min(end, header.seconds)
        of_file = f"the file is {header.seconds:.2f} s long"
        if clip.start >= header.seconds:
            yield "empty_range", f"it starts at {clip.start:.2f} s; {of_file}"
            return
        missing = 0.0 if clip.end is None else clip.end - header.seconds
        if missing > MAX_MISSING_SECONDS and not config.media.take_truncated:
            yield "end_past_file", f"it ends at {clip.end:.2f} s; {of_file}"
    if end is not None:
        found = f"it is {end - clip.start:.2f} s long"
        if end - clip.start > config.max_seconds:
            yield "too_long", f"{found}; max_seconds={config.max_seconds:g}"
        if end - clip.start < config.min_seconds:
            yield "too_short", f"{found}; min_seconds={config.min_seconds:g}"
    if not header.has_video and config.requires("face"):
        yield "no_video", "only sound"
    needs_sound = config.requires("sound", "voice")
    needs_sound |= config.requires("face") and config.speaker == "active"
    if not header.has_sound and needs_sound:
        yield "no_sound", "only pictures"
    if clip.text is None and "text" in config.require and config.transcriber is None:
        yield "no_text", "no text in the table"
