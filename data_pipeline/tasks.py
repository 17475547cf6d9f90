"""A task is a shard: `clips_per_shard` neighbouring clips of the table, and its done marker."""

import dataclasses
import hashlib
import json
import logging
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
    passport_to_json,
)
from data_pipeline.shards import read_manifest, shard_name

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

    @property
    def name(self) -> str:
        return shard_name(self.index)

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
        if num_bytes != manifest.num_bytes:
            log.warning("%s has not the bytes its manifest says; extracting it again", tar)
            return False
        return True


def cut_tasks(clips: list[Clip], clips_per_shard: int, settings: dict[str, Any]) -> list[Task]:
    """The table as tasks; the same table and settings always give the same ones."""
    tasks = []
    for index, first in enumerate(range(0, len(clips), clips_per_shard)):
        part = clips[first : first + clips_per_shard]
        asked = {
            "format": FORMAT_VERSION,
            "extraction": EXTRACTION_VERSION,
            "settings": settings,
            "clips": [dataclasses.asdict(clip) for clip in part],
        }
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        tasks.append(Task(index=index, first=first, clips=part, digest=digest))
    return tasks
