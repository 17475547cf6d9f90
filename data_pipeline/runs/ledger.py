"""The ledger of an extraction folder: every clip of the table is a sample or a reject.

It is derived from the shards' manifests, so it is right whoever wrote them and when: rejects.csv
(the table's bad rows first) and summary.json.
"""

import csv
import dataclasses
import io
import json
import logging
import os
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.files.atomic import atomic_file
from data_pipeline.runs.tasks import Task
from data_pipeline.runs.worker_pool import ExtractionError
from data_pipeline.schema import Reject, ShardManifest

log = logging.getLogger(__name__)

REJECT_COLUMNS = ("clip", "stage", "reason", "detail")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is in an output folder, and how its last run went; written as summary.json."""

    num_clips: int
    """Rows of the clip table, with those that could not be read as a clip."""
    num_samples: int
    num_rejects: int
    num_shards: int
    num_shards_done: int
    reasons: dict[str, int]
    """Reject reason to count, most frequent first."""
    error_shards: list[str]
    """Shards that hold rejects of the reason `error`, a fault of the program."""
    stage_seconds: dict[str, dict[str, float]]
    """Stage to total, mean and median seconds of the clips that came to it."""
    media_seconds: float
    """Length of all clips together."""
    last_run: dict[str, float] | None
    """clips, workers, wall_seconds, clips_per_second of the last run that had clips to do."""

    @property
    def is_complete(self) -> bool:
        return self.num_shards_done == self.num_shards

    def __str__(self) -> str:
        line = (
            f"input clips {self.num_clips} = "
            f"samples {self.num_samples} + rejects {self.num_rejects}"
        )
        if not self.is_complete:
            missing = self.num_clips - self.num_samples - self.num_rejects
            line += (
                f" + {missing} not done yet "
                f"({self.num_shards_done} of {self.num_shards} shards are there)"
            )
        return line


def write_ledger(
    folder: Path,
    tasks: list[Task],
    table_rejects: list[Reject],
    last_run: dict[str, float] | None,
) -> Summary:
    """Write rejects.csv and summary.json from the manifests that are there, and check the sums.

    Array tasks end at any time: whoever finds new manifests after writing writes again, so the
    last one to end leaves the whole ledger. Raises ExtractionError if a clip has no answer or two.
    """
    names = {task.name for task in tasks}
    while True:
        manifests = _manifests(folder, tasks)
        for task in tasks:
            if task.index in manifests:
                _check(folder, task, manifests[task.index])
        summary = _summarize(folder, tasks, manifests, table_rejects, last_run)
        rows = [dataclasses.asdict(reject) for reject in table_rejects]
        rows += [row for _, manifest in sorted(manifests.items()) for row in manifest.rejects]
        write_csv(folder / "rejects.csv", REJECT_COLUMNS, rows)
        write_json(folder / "summary.json", dataclasses.asdict(summary))
        if len(done_names(folder) & names) == len(manifests):
            break
    if summary.is_complete and summary.num_clips != summary.num_samples + summary.num_rejects:
        raise ExtractionError(f"{summary}: does not add up; remove {folder} and run again")
    return summary


def ledger_is_due(folder: Path, tasks: list[Task]) -> bool:
    """Whether a task of an array that ends now has to write the ledger: the first and the last.

    Those between would each read every manifest: tasks x shards files in all.
    """
    if done_names(folder) >= {task.name for task in tasks}:
        return True
    try:
        return read_summary(folder).is_complete  # no more: shards have gone since
    except ExtractionError:
        return True


def read_summary(folder: str | Path) -> Summary:
    """summary.json of an extraction folder. Raises ExtractionError if there is none."""
    path = Path(folder) / "summary.json"
    try:
        return Summary(**json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ExtractionError(
            f"no summary of an extraction at {path}: {error.strerror}; run "
            "python -m data_pipeline.extract until it ends"
        ) from error
    except (ValueError, TypeError) as error:
        raise ExtractionError(
            f"{path} is damaged: {error}; the same extraction command writes it again"
        ) from error


def csv_bytes(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", errors="backslashreplace")


def write_csv(path: Path, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    with atomic_file(path) as file:
        file.write(csv_bytes(columns, rows))


def write_json(path: Path, content: Any) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def done_names(folder: Path) -> set[str]:
    """Stems of the manifests that are there, by one listing of the folder; none are opened."""
    names = (entry.name for entry in os.scandir(folder))
    return {name.removesuffix(".json") for name in names if name.endswith(".json")}


def _manifests(folder: Path, tasks: list[Task]) -> dict[int, ShardManifest]:
    there = done_names(folder)
    found = {task.index: task.manifest(folder) for task in tasks if task.name in there}
    return {index: manifest for index, manifest in found.items() if manifest is not None}


def _check(folder: Path, task: Task, manifest: ShardManifest) -> None:
    answered = sorted([*manifest.samples, *(row["clip"] for row in manifest.rejects)])
    if answered != sorted(clip.id for clip in task.clips):
        raise ExtractionError(
            f"{folder / task.name}.json answers for {len(answered)} clips that are not the "
            f"{len(task.clips)} of its task; remove it and run again"
        )


def _timings(path: Path) -> list[dict[str, Any]]:
    """What a shard's clips took; a lost file costs no more than these numbers."""
    try:
        return [
            {
                "media_seconds": float(row["media_seconds"]),
                "seconds": {str(stage): float(s) for stage, s in row["seconds"].items()},
            }
            for row in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("no timings of this shard, %s cannot be read: %r", path, error)
        return []


def _last_run(folder: Path) -> dict[str, float] | None:
    if not (folder / "summary.json").exists():
        return None
    try:
        return read_summary(folder).last_run
    except ExtractionError as error:
        log.warning("how the last run went is lost: %s", error)
        return None


def _summarize(
    folder: Path,
    tasks: list[Task],
    manifests: dict[int, ShardManifest],
    table_rejects: list[Reject],
    last_run: dict[str, float] | None,
) -> Summary:
    reasons = Counter(reject.reason for reject in table_rejects)
    stages: dict[str, list[float]] = defaultdict(list)
    media_seconds = 0.0
    for task in tasks:
        if task.index not in manifests:
            continue
        reasons.update(row["reason"] for row in manifests[task.index].rejects)
        for row in _timings(folder / "timings" / f"{task.name}.json"):
            media_seconds += row["media_seconds"]
            for stage, seconds in row["seconds"].items():
                stages[stage].append(seconds)
    if last_run is None:
        last_run = _last_run(folder)
    return Summary(
        num_clips=sum(len(task.clips) for task in tasks) + len(table_rejects),
        num_samples=sum(manifest.num_samples for manifest in manifests.values()),
        num_rejects=sum(reasons.values()),
        num_shards=len(tasks),
        num_shards_done=len(manifests),
        reasons=dict(reasons.most_common()),
        error_shards=[
            task.name
            for task in tasks
            if task.index in manifests
            and any(row["reason"] == "error" for row in manifests[task.index].rejects)
        ],
        stage_seconds={
            stage: {
                "total": round(sum(seconds), 3),
                "mean": round(statistics.mean(seconds), 4),
                "median": round(statistics.median(seconds), 4),
            }
            for stage, seconds in stages.items()
        },
        media_seconds=round(media_seconds, 3),
        last_run=last_run,
    )
