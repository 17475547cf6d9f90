"""Whose folder an output folder is: one folder answers for one clip table and one config.

`check_claim` only looks. `write_claim` writes clips.csv, config.yaml and passport.json, in this
order, and a run does so when its encoders have loaded: a first start that fails leaves nothing.
"""

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.config import ConfigError
from data_pipeline.files.atomic import atomic_file, remove_leftovers
from data_pipeline.paths import check_stage
from data_pipeline.runs.ledger import csv_bytes, write_json
from data_pipeline.runs.worker_pool import ExtractionError
from data_pipeline.schema import (
    Clip,
    Passport,
    SchemaError,
    check_passport,
    passport_from_json,
    passport_to_json,
)

log = logging.getLogger(__name__)

CLIP_COLUMNS = tuple(
    field.name for field in dataclasses.fields(Clip) if field.name not in ("region", "columns")
)
TABLE, CONFIG, PASSPORT = "clips.csv", "config.yaml", "passport.json"
_ELSEWHERE = "Give another output=FOLDER."


def check_claim(
    folder: Path,
    clips: list[Clip],
    settings: dict[str, Any],
    config_text: str,
    clips_from: Path | None,
) -> None:
    """Raise ExtractionError unless `folder` is free for this run or was begun by the same one.

    clips_from: the table, folder or video that the clips were read from. Writes nothing.
    """
    _check_place(folder, clips_from)
    if not folder.exists():
        return
    try:
        check_stage(folder, "extraction", "output")
    except ConfigError as error:
        raise ExtractionError(str(error)) from error
    there = {path.name: path for path in folder.iterdir() if path.suffix != ".tmp"}
    table = table_bytes(clips)
    if TABLE in there and CONFIG in there:
        _check_settings(folder, settings, config_text, _way_out(folder))
        _check_table(there[TABLE], clips, table, _way_out(folder))
        return
    # A run that is killed while it claims the folder leaves the first of its files. Anything but
    # the very bytes it would write is the user's, whatever the name.
    ours = {TABLE: table, CONFIG: config_text.encode()}
    foreign = sorted(
        name for name, path in there.items() if name not in ours or _bytes_of(path) != ours[name]
    )
    if foreign:
        raise ExtractionError(
            f"{folder} holds {', '.join(foreign[:3])} and is no extraction folder of these clips "
            f"and settings. {_ELSEWHERE}"
        )


def check_claimed_passport(folder: Path, passport: Passport) -> None:
    """Raise ExtractionError if `folder` was begun with other encoders."""
    path = folder / PASSPORT
    if not path.exists():
        return
    try:
        check_passport(passport_from_json(_read(path, json.loads)), passport, str(folder))
    except SchemaError as error:
        raise ExtractionError(f"{error}\nOr give another output=FOLDER.") from error


def write_claim(folder: Path, clips: list[Clip], config_text: str, passport: Passport) -> None:
    """Make `folder` this run's, after both checks; clear away what killed runs left in it."""
    folder.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    for name, content in ((TABLE, table_bytes(clips)), (CONFIG, config_text.encode())):
        with atomic_file(folder / name) as file:
            file.write(content)
    if not (folder / PASSPORT).exists():
        write_json(folder / PASSPORT, passport_to_json(passport))


def clear_leftovers(folder: Path) -> None:
    """Remove what killed runs left of files that they had not finished."""
    for place in (folder, folder / "previews", folder / "timings"):
        for path in remove_leftovers(place):
            log.info("removed %s, left by a killed run", path)


def table_bytes(clips: list[Clip]) -> bytes:
    """clips.csv; with a column `region`, and each further one, where a clip has it."""
    rows = [clip.to_dict() for clip in clips]
    further = dict.fromkeys(name for row in rows for name in row if name not in CLIP_COLUMNS)
    return csv_bytes((*CLIP_COLUMNS, *further), rows)


def _check_place(folder: Path, clips_from: Path | None) -> None:
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise ExtractionError(f"{nearest} is a file, expected a folder. {_ELSEWHERE}")
    if clips_from is None or not clips_from.exists():
        return
    source = clips_from.resolve()
    if folder.resolve() == (source if source.is_dir() else source.parent):
        raise ExtractionError(
            f"the clips lie in the output folder {folder} itself, whose files an extraction "
            f"replaces. Give another one, such as output={folder / 'shards'}"
        )


def _check_settings(folder: Path, settings: dict[str, Any], config_text: str, way_out: str) -> None:
    found = _read(folder / CONFIG, yaml.safe_load)
    # Weights that settings name, but no config does, are for the tasks' digests to tell.
    named = yaml.safe_load(config_text)
    _check_device(folder, *(_device_kind(config) for config in (found, named)), way_out)
    differences = [
        f"{name}: found {found.get(name, 'nothing')!r}, expected {value!r}"
        for name, value in settings.items()
        if name in named and (name not in found or found[name] != value)
    ]
    if differences:
        raise ExtractionError(
            "\n  ".join([f"{folder} was made with other settings:", *differences]) + f"\n{way_out}"
        )


def _check_device(folder: Path, begun_on: str, now_on: str, way_out: str) -> None:
    if "auto" in (begun_on, now_on) or begun_on == now_on:
        return
    raise ExtractionError(
        f"{folder} was begun with device={begun_on}, and this run has device={now_on}: features "
        f"of the two differ in their last digits. Give device={begun_on}, on a machine that has "
        f"it, to go on. {way_out}"
    )


def _device_kind(config: dict[str, Any]) -> str:
    """cpu or cuda; auto of a config that was written before a run wrote what auto came to."""
    return str(config.get("device", "auto")).partition(":")[0]


def _check_table(path: Path, clips: list[Clip], table: bytes, way_out: str) -> None:
    before = _bytes_of(path)
    if before == table:
        return
    old, new = (set((content or b"").splitlines()) for content in (before, table))
    raise ExtractionError(
        f"{path.parent} was made from another clip table: {len(old - new)} of its clips are not "
        f"among these {len(clips)}, {len(new - old)} of these are new. {way_out}"
    )


def _way_out(folder: Path) -> str:
    """Only a folder that an extraction filled may be removed on our word."""
    if (folder / PASSPORT).exists():
        return f"Give another output=FOLDER, or remove {folder} to extract everything anew."
    return _ELSEWHERE


def _bytes_of(path: Path) -> bytes | None:
    """Content of a file; None for what is none."""
    return path.read_bytes() if path.is_file() else None


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """A mapping that an earlier run wrote."""
    try:
        content = parse(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"found a {type(content).__name__}, expected a mapping")
    except (ValueError, yaml.YAMLError) as error:
        raise ExtractionError(
            f"cannot read {path}: {error}\nPut it back. {_way_out(path.parent)}"
        ) from error
    return content
