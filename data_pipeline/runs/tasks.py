"""A task is a shard: `clips_per_shard` neighbouring clips of the table, and its done marker.

A stream that is added later has tasks of its own: the samples of each shard.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.schema import (
    EXTRACTION_VERSION,
    FORMAT_VERSION,
    Clip,
    Passport,
    SchemaError,
    ShardManifest,
    check_passport,
    passport_from_json,
    passport_to_json,
)
from data_pipeline.shards import list_shards, read_manifest, shard_name

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Task:
    """The clips of one shard."""

    index: int
    first: int
    """Place of its first clip in the table."""
    clips: list[Clip]
    digest: str
    """Of the clips, and of the code and the settings that decide what is extracted from them."""
    added: str | None = None
    """The stream that is added to a shard that is done; None makes the shard itself."""
    beside: str = ""
    """Then: sha256 of the shard's tar."""

    @property
    def name(self) -> str:
        return shard_name(self.index, self.added)

    def manifest(self, folder: Path) -> ShardManifest | None:
        """The manifest of this task's shard; None if it is not done."""
        try:
            return read_manifest(folder / f"{self.name}.json")
        except FileNotFoundError:
            return None

    def other_versions(self, folder: Path, versions: dict[str, str]) -> list[str]:
        """Libraries that made this task's shard in another version than this run's."""
        manifest = self.manifest(folder)
        made = manifest.versions if manifest is not None else versions
        return [
            f"{name} {made.get(name, 'absent')} there, {versions.get(name, 'absent')} here"
            for name in sorted(made.keys() | versions.keys())
            if made.get(name) != versions.get(name)
        ]

    def is_answered(self, folder: Path) -> bool:
        """Whether a manifest for this very task is there, made by whichever process."""
        try:
            manifest = self.manifest(folder)
        except SchemaError:
            return False
        return manifest is not None and manifest.task == self.digest

    def is_done(self, folder: Path, passport: Passport) -> bool:
        """Whether the shard is there, as long as its manifest says, and answers for this task."""
        tar = folder / f"{self.name}.tar"
        try:
            manifest = self.manifest(folder)
            num_bytes = tar.stat().st_size
        except FileNotFoundError:
            return False
        except SchemaError as error:
            log.warning("%s", error)
            return False
        if manifest is None:
            return False
        if manifest.passport != passport_to_json(passport) or manifest.task != self.digest:
            log.warning("%s answers for another task; extracting it again", tar)
            return False
        if manifest.beside != self.beside:
            log.warning("%s stands beside another shard; extracting it again", tar)
            return False
        if num_bytes != manifest.num_bytes:
            log.warning("%s has not the bytes its manifest says; extracting it again", tar)
            return False
        return True


def cut_tasks(clips: list[Clip], clips_per_shard: int, settings: dict[str, Any]) -> list[Task]:
    """The table as tasks; the same table and settings always give the same ones."""
    tasks = []
    for index, first in enumerate(range(0, len(clips), clips_per_shard)):
        part = clips[first : first + clips_per_shard]
        tasks.append(Task(index=index, first=first, clips=part, digest=_digest(part, settings)))
    return tasks


def side_tasks(
    folder: Path, clips: dict[str, Clip], stream: str, settings: dict[str, Any]
) -> list[Task]:
    """A task a shard: its samples' clips, for the tar beside it."""
    tasks, first = [], 0
    for tar in list_shards(folder):
        manifest = read_manifest(tar.with_suffix(".json"))
        unknown = [sample for sample in manifest.samples if sample not in clips]
        if unknown:
            raise SchemaError(f"{folder}/clips.csv has no clip {unknown[0]} of {tar}; put it back")
        part = [clips[sample] for sample in manifest.samples]
        task = Task(
            index=int(tar.stem),
            first=first,
            clips=part,
            digest=_digest(part, settings),
            added=stream,
            beside=manifest.sha256,
        )
        tasks.append(task)
        first += len(part)
    return tasks


def check_added(folder: Path, tasks: Iterable[Task], passport: Passport) -> None:
    """Raise unless what is there of these tasks was made by this passport and these settings.

    What was made for another tar is not compared: it is made anew.
    """
    for task in tasks:
        try:
            manifest = task.manifest(folder)
        except SchemaError:
            continue  # damaged: is_done says so, and it is made anew
        if manifest is None or manifest.beside != task.beside:
            continue
        there = folder / f"{task.name}.tar"
        if manifest.passport != passport_to_json(passport):
            check_passport(passport_from_json(manifest.passport), passport, str(there))
        if manifest.task != task.digest:
            raise SchemaError(
                f"{there} was made with other settings, or by another version of this program; "
                f"give the same, or remove {folder}/*.{task.added}.* to make {task.added} anew"
            )


def _digest(clips: list[Clip], settings: dict[str, Any]) -> str:
    asked = {
        "format": FORMAT_VERSION,
        "extraction": EXTRACTION_VERSION,
        "settings": settings,
        "clips": [clip.to_dict() for clip in clips],
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
