"""One extraction run: tasks, done markers, retries, progress.

Clips go one by one to a WorkerPool; when the last clip of a task is back, this process writes the
task's shard, whole or not at all. So a run that is killed at any moment loses at most the shards
it was at, and the same command goes on from there. Folder of a run:

    config.yaml  clips.csv  passport.json    what was asked, see data_pipeline.runs.claim
    NNNNNN.tar   NNNNNN.json                 shards, see data_pipeline.shards
    timings/NNNNNN.json                      seconds per stage of each clip
    previews/ID.json  previews/ID-N.jpg      what the report shows of the first few clips
    rejects.csv  summary.json                see data_pipeline.runs.ledger
"""

import logging
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipeline.files.atomic import atomic_file
from data_pipeline.runs.claim import (
    check_claim,
    check_claimed_passport,
    clear_leftovers,
    write_claim,
)
from data_pipeline.runs.ledger import (
    Summary,
    done_names,
    ledger_is_due,
    write_json,
    write_ledger,
)
from data_pipeline.runs.tasks import Task, check_added, cut_tasks
from data_pipeline.runs.worker_pool import (
    HOPELESS,
    Extraction,
    ExtractionError,
    Extractor,
    WorkerPool,
)
from data_pipeline.schema import Clip, Reject
from data_pipeline.shards import write_shard

log = logging.getLogger(__name__)


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
    clips_from: Path | None = None,
) -> Summary | None:
    """Extract what is still missing in `folder`, and say how the clips add up.

    None for a task of an array with others before and after it, which writes no ledger.

    config_text: the whole config as YAML, kept as config.yaml; settings: those of its keys that
    decide the bytes of the shards, so that a later run here must agree on them.
    clips_from: what the clips were read from; not to lie in `folder`, where files are replaced.
    array_index, array_count: this process does every array_count-th task, from array_index on.
    Raises ExtractionError for what ends a run, as against one clip.
    """
    folder = Path(folder)
    tasks = cut_tasks(clips, clips_per_shard, settings)
    mine = tasks[array_index::array_count]
    check_claim(folder, clips, settings, config_text, clips_from)
    with WorkerPool(
        make_extractor,
        num_workers=num_workers,
        attempts=attempts,
        clip_timeout_seconds=clip_timeout_seconds,
    ) as pool:
        pool.start(sum(len(t.clips) for t in mine if not (folder / f"{t.name}.json").exists()))
        # Again, as another run may have taken the folder while the encoders loaded.
        check_claim(folder, clips, settings, config_text, clips_from)
        check_claimed_passport(folder, pool.passport)
        write_claim(folder, clips, config_text, pool.passport)
        pending = [task for task in mine if not task.is_done(folder, pool.passport)]
        num_clips = sum(len(task.clips) for task in pending)
        num_done = sum(len(task.clips) for task in mine) - num_clips
        if num_done:
            log.info("%d clips are done already in %s", num_done, folder)
            again = {task.index for task in pending}
            done = [task for task in mine if task.index not in again]
            _warn_of_versions(folder, done, pool.versions)
        if not pending:
            log.info("nothing is left to do")
        started = time.monotonic()
        proven = _is_proven(folder, tasks)
        _extract(pool, pending, folder, num_previews, num_done, proven)
        wall_seconds = time.monotonic() - started
    last_run = None
    if pending:
        last_run = {
            "clips": num_clips,
            "workers": num_workers,
            "wall_seconds": round(wall_seconds, 3),
            "clips_per_second": round(num_clips / wall_seconds, 4),
        }
    if array_count > 1 and not ledger_is_due(folder, tasks):
        return None
    return write_ledger(folder, tasks, table_rejects, last_run)


def add_tasks(
    folder: Path,
    tasks: list[Task],
    make_extractor: Callable[[int], Extractor],
    *,
    num_workers: int,
    attempts: int = 3,
    clip_timeout_seconds: float = 600.0,
    array_index: int = 0,
    array_count: int = 1,
) -> None:
    """Make what is still missing of `tasks`, whose streams stand beside the shards of `folder`.

    Raises ExtractionError or SchemaError where some was made otherwise, and for what ends a run.
    """
    mine = tasks[array_index::array_count]
    with WorkerPool(
        make_extractor,
        num_workers=num_workers,
        attempts=attempts,
        clip_timeout_seconds=clip_timeout_seconds,
    ) as pool:
        pool.start(sum(len(t.clips) for t in mine if not (folder / f"{t.name}.json").exists()))
        check_added(folder, tasks, pool.passport)
        clear_leftovers(folder)
        pending = [task for task in mine if not task.is_done(folder, pool.passport)]
        num_done = sum(len(t.clips) for t in mine) - sum(len(t.clips) for t in pending)
        if not pending:
            log.info("nothing is left to do")
        proven = _is_proven(folder, tasks)
        _extract(pool, pending, folder, 0, num_done, proven)


def _is_proven(folder: Path, tasks: list[Task]) -> bool:
    """Encoders that have filled a shard of these tasks are not what makes clips fail now."""
    there = done_names(folder)
    return any(task.is_answered(folder) for task in tasks if task.name in there)


def _extract(
    pool: WorkerPool,
    pending: list[Task],
    folder: Path,
    num_previews: int,
    num_done: int,
    proven: bool,
) -> None:
    """Run the clips of `pending` and write each shard as soon as its last clip is back.

    proven: an earlier run got as far as a shard, so clips that all fail now are taken as they are.
    """
    task_of = {task.first + i: task for task in pending for i in range(len(task.clips))}
    jobs = [
        (number, task.clips[number - task.first], number < num_previews)
        for number, task in task_of.items()
    ]
    results: dict[int, dict[int, Extraction]] = defaultdict(dict)
    ready: list[Task] = []
    errors: Counter[str] = Counter()
    noted: Counter[str] = Counter()
    total = len(jobs) + num_done
    with tqdm(total=total, initial=num_done, unit="clip", disable=None) as bar:
        for done, (number, extraction) in enumerate(pool.run(jobs), 1):
            task, reject = task_of[number], extraction.reject
            results[task.index][number] = extraction
            bar.update()
            for note in extraction.notes:
                kind = re.sub(r"[\d.]+", "", note)
                noted[kind] += 1
                if noted[kind] == 1:
                    log.info(
                        "%s: %s (more such: `notes` in the samples' meta, rejects.csv)",
                        task.clips[number - task.first].id,
                        note,
                    )
            if len(results[task.index]) == len(task.clips):
                ready.append(task)
                if bar.disable:
                    log.info("shard %s | %d of %d clips", task.name, num_done + done, total)
            if reject is not None and reject.reason == "error":
                log.warning("%s: unexpected error: %s", reject.clip, reject.detail)
                errors[_kind(reject.detail)] += 1
            # While all clips end in one and the same kind of error the fault is hardly theirs. No
            # shard is written then, which a later run, the fault mended, would take for done.
            if not proven and len(errors) == 1 and errors.total() == done:
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


def _warn_of_versions(folder: Path, done: list[Task], versions: dict[str, str]) -> None:
    found = [(task.name, task.other_versions(folder, versions)) for task in done]
    found = [(name, others) for name, others in found if others]
    if found:
        name, others = found[0]
        log.warning(
            "%d of the shards in %s were made with other libraries, which may give other last "
            "digits; e.g. %s: %s. To have all alike, give another output=FOLDER",
            len(found),
            folder,
            name,
            ", ".join(others),
        )


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
        added=task.added,
        beside=task.beside,
    )
