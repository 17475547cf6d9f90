"""Which clips there are: read from the manifests of shard folders, no tar is opened."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.shards import list_shards, read_manifest


@dataclass(frozen=True, kw_only=True)
class ShardClips:
    """One shard and those of its clips that somebody wants."""

    tar: Path
    rows: np.ndarray
    """Positions in the tar, ascending."""
    ids: list[str]
    """Of these rows."""


def index_shards(folders: list[str]) -> list[ShardClips]:
    """Every clip of every finished shard in `folders`, from the manifests alone."""
    shards = []
    for folder in folders:
        for tar in list_shards(folder):
            ids = read_manifest(tar.with_suffix(".json")).samples
            shards.append(ShardClips(tar=tar, rows=np.arange(len(ids)), ids=ids))
    return [shard for shard in shards if shard.ids]


def unfinished_tars(folders: list[str]) -> list[str]:
    """A line for each folder that has tars without a manifest, which an extraction writes last."""
    lines = []
    for folder in map(Path, folders):
        tars = set(folder.glob("[0-9]" * 6 + ".tar"))
        unfinished = tars - set(list_shards(folder))
        if unfinished:
            verbs = ("has", "is") if len(unfinished) == 1 else ("have", "are")
            lines.append(
                f"{len(unfinished)} of {len(tars)} tars in {folder} {verbs[0]} no manifest and "
                f"{verbs[1]} left out; run the same extraction again"
            )
    return lines


def shard_digests(folders: list[str]) -> dict[str, list[str]]:
    """{folder: sha256 of each of its tars}, from the manifests alone."""
    return {
        folder: [read_manifest(tar.with_suffix(".json")).sha256 for tar in list_shards(folder)]
        for folder in folders
    }
