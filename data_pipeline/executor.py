"""One extraction run: tasks, done markers, retries, progress.

Clips go one by one to a WorkerPool; when the last clip of a task is back, this process writes the
task's shard, whole or not at all. So a run that is killed at any moment loses at most the shards
it was at, and the same command goes on from there. Folder of a run:

    config.yaml  clips.csv  passport.json    what was asked; a later run here must ask the same
    NNNNNN.tar   NNNNNN.json                 shards, see data_pipeline.shards
    timings/NNNNNN.json                      seconds per stage of each clip
    previews/ID.json  previews/ID-N.jpg      what the report shows of the first few clips
    rejects.csv  summary.json                see data_pipeline.ledger
"""

import dataclasses
import json
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from data_pipeline.atomic import atomic_file, remove_leftovers
from data_pipeline.ledger import Summary, csv_bytes, write_json, write_ledger
from data_pipeline.schema import (
    Clip,
    Passport,
    Reject,
    SchemaError,
    check_passport,
    passport_from_json,
    passport_to_json,
)
from data_pipeline.shards import write_shard
from data_pipeline.tasks import Task, cut_tasks
from data_pipeline.worker_pool import (
    HOPELESS,
    Extraction,
    ExtractionError,
    Extractor,
    WorkerPool,
)

log = logging.getLogger(__name__)

CLIP_COLUMNS = tuple(field.name for field in dataclasses.fields(Clip))


def execute(
    clips: list[Clip],
    table_rejects: list[Reject],
    folder: str | Path,
    make_extractor: Callable[[int], Extractor],
    *,
    settings: dict[str, Any],
    config_text: str,
    clips_per_shard: int,
    num_workers: int,
    attempts: int = 3,
    clip_timeout_seconds: float = 600.0,
    num_previews: int = 0,
    array_index: int = 0,
    array_count: int = 1,
) -> Summary:
    """Extract what is still missing in `folder`, and say how the clips add up.

    config_text: the whole config as YAML, kept as config.yaml; settings: those of its keys that
    decide the bytes of the shards, so that a later run here must agree on them.
    array_index, array_count: this process does every array_count-th task, from array_index on.
    Raises ExtractionError for what ends a run, as against one clip.
    """
    folder = Path(folder)
    tasks = cut_tasks(clips, clips_per_shard, settings)
    mine = tasks[array_index::array_count]
    _claim(folder, clips, settings, config_text)
    with WorkerPool(
        make_extractor,
        num_workers=num_workers,
        attempts=attempts,
        clip_timeout_seconds=clip_timeout_seconds,
    ) as pool:
        pool.start(sum(len(t.clips) for t in mine if not (folder / f"{t.name}.json").exists()))
        _claim_passport(folder, pool.passport)
        pending = [task for task in mine if not task.is_done(folder, pool.passport)]
        num_clips = sum(len(task.clips) for task in pending)
        num_done = sum(len(task.clips) for task in mine) - num_clips
        if num_done:
            log.info("%d clips are done already in %s", num_done, folder)
        started = time.monotonic()
        _extract(pool, pending, folder, num_previews, num_done)
        wall_seconds = time.monotonic() - started
    last_run = None
    if pending:
        last_run = {
            "clips": num_clips,
            "workers": num_workers,
            "wall_seconds": round(wall_seconds, 3),
            "clips_per_second": round(num_clips / wall_seconds, 4),
        }
    return write_ledger(folder, tasks, table_rejects, last_run)


def _extract(
    pool: WorkerPool, pending: list[Task], folder: Path, num_previews: int, num_done: int
) -> None:
    """Run the clips of `pending` and write each shard as soon as its last clip is back."""
    task_of = {task.first + i: task for task in pending for i in range(len(task.clips))}
    jobs = [
        (number, task.clips[number - task.first], number < num_previews)
        for number, task in task_of.items()
    ]
    results: dict[int, dict[int, Extraction]] = defaultdict(dict)
    ready: list[Task] = []
    errors: Counter[str] = Counter()
    total = len(jobs) + num_done
    with tqdm(total=total, initial=num_done, unit="clip", disable=None) as bar:
        for done, (number, extraction) in enumerate(pool.run(jobs), 1):
            task, reject = task_of[number], extraction.reject
            results[task.index][number] = extraction
            bar.update()
            if len(results[task.index]) == len(task.clips):
                ready.append(task)
                if bar.disable:
                    log.info("shard %s | %d of %d clips", task.name, num_done + done, total)
            if reject is not None and reject.reason == "error":
                log.warning("%s: unexpected error: %s", reject.clip, reject.detail)
                errors[_kind(reject.detail)] += 1
            # While all clips end in one and the same kind of error the fault is hardly theirs. No
            # shard is written then, which a later run, the fault mended, would take for done.
            if len(errors) == 1 and errors.total() == done:
                if done == HOPELESS or 1 < done == len(jobs):
                    raise ExtractionError(
                        f"the first {done} clips all ended in the same unexpected error, so the "
                        f"run stops; the last one: {reject.detail}"
                    )
                if done < len(jobs):
                    continue
            for task in ready:
                of_task = results.pop(task.index)
                _write_task(folder, task, [of_task[n] for n in sorted(of_task)], pool)
            ready.clear()


def _kind(detail: str) -> tuple[str, str]:
    """Exception and place of an unexpected error: `Type: what, of this clip (file.py:12)`."""
    return detail.partition(":")[0], detail.rpartition("(")[2]


def _write_task(folder: Path, task: Task, extractions: list[Extraction], pool: WorkerPool) -> None:
    """Previews and timings first: a shard that is done has them."""
    timings = []
    for clip, extraction in zip(task.clips, extractions, strict=True):
        timings.append(
            {
                "clip": clip.id,
                "media_seconds": round(extraction.media_seconds, 3),
                "seconds": {stage: round(s, 4) for stage, s in extraction.seconds.items()},
            }
        )
        if extraction.preview is not None:
            (folder / "previews").mkdir(exist_ok=True)
            for n, frame in enumerate(extraction.preview.frames):
                with atomic_file(folder / "previews" / f"{clip.id}-{n}.jpg") as file:
                    file.write(frame)
            write_json(folder / "previews" / f"{clip.id}.json", extraction.preview.about)
    (folder / "timings").mkdir(exist_ok=True)
    write_json(folder / "timings" / f"{task.name}.json", timings)
    write_shard(
        folder,
        task.index,
        [e.sample for e in extractions if e.sample is not None],
        [e.reject for e in extractions if e.reject is not None],
        pool.passport,
        pool.versions,
        task.digest,
    )


def _claim(folder: Path, clips: list[Clip], settings: dict[str, Any], config_text: str) -> None:
    """Make `folder` this run's, or refuse: one folder answers for one table and one config."""
    folder.mkdir(parents=True, exist_ok=True)
    for place in (folder, folder / "previews", folder / "timings"):
        for path in remove_leftovers(place):
            log.info("removed %s, left by a killed run", path)
    way_out = f"Give another output=FOLDER, or remove {folder} to extract everything anew."
    table = csv_bytes(CLIP_COLUMNS, [dataclasses.asdict(clip) for clip in clips])
    config_path, table_path = folder / "config.yaml", folder / "clips.csv"
    there = {path.name for path in folder.iterdir() if path.suffix != ".tmp"}
    if {config_path.name, table_path.name} <= there:
        found = _read(config_path, yaml.safe_load)
        # Weights that settings name, but no config does, are for the tasks' digests to tell.
        differences = [
            f"{name}: found {found[name]!r}, expected {value!r}"
            for name, value in settings.items()
            if name in found and found[name] != value
        ]
        if differences:
            raise ExtractionError(
                "\n  ".join([f"{folder} was made with other settings:", *differences])
                + f"\n{way_out}"
            )
        before = table_path.read_bytes()
        if before != table:
            lines = [set(x.splitlines()) for x in (before, table)]
            raise ExtractionError(
                f"{folder} was made from another clip table: {len(lines[0] - lines[1])} of its "
                f"clips are not among these {len(clips)}, {len(lines[1] - lines[0])} of these are "
                f"new. {way_out}"
            )
    else:
        foreign = sorted(there - {config_path.name, table_path.name})
        if foreign:
            raise ExtractionError(
                f"{folder} holds {', '.join(foreign[:3])} and is no extraction folder. {way_out}"
            )
    for path, content in ((table_path, table), (config_path, config_text.encode())):
        with atomic_file(path) as file:
            file.write(content)


def _claim_passport(folder: Path, passport: Passport) -> None:
    path = folder / "passport.json"
    if not path.exists():
        write_json(path, passport_to_json(passport))
        return
    found = passport_from_json(_read(path, json.loads))
    try:
        check_passport(found, passport, str(folder))
    except SchemaError as error:
        raise ExtractionError(f"{error}\nOr give another output=FOLDER.") from error


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """A mapping that an earlier run wrote."""
    try:
        content = parse(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"found a {type(content).__name__}, expected a mapping")
    except (ValueError, yaml.YAMLError) as error:
        raise ExtractionError(
            f"cannot read {path}: {error}\nPut it back, give another output=FOLDER, or remove "
            f"{path.parent} to extract everything anew."
        ) from error
    return content
