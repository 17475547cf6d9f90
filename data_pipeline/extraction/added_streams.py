"""One stream more for a finished extraction, without doing the others again.

    python -m data_pipeline.extract 'add=[fbank]' output=runs/mine streams.fbank.mel_bins=40

Beside each shard NNNNNN.tar it writes NNNNNN.fbank.tar and its manifest, for the clips that are
samples there, from the folder's own config.yaml and clips.csv. A clip that cannot give the stream
is a reject of that manifest and stays in its shard. Sound is decoded again where an extractor needs
it; faces are taken from the stream `crops`, where the folder has one, and pictures never decoded.
"""

import csv
import dataclasses
import functools
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from data_pipeline.config import Positive, load_config
from data_pipeline.extraction.config import DataConfig
from data_pipeline.features.extractors import (
    Wanted,
    find_module,
    needs_of,
    owners,
    settings_class,
    with_defaults,
)
from data_pipeline.paths import PathText
from data_pipeline.runs.claim import CONFIG, TABLE
from data_pipeline.runs.ledger import read_summary
from data_pipeline.runs.tasks import side_tasks
from data_pipeline.runs.worker_pool import ExtractionError, Extractor
from data_pipeline.schema import Clip
from data_pipeline.shards import load_passport
from data_pipeline.slurm import ArraySettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AddConfig:
    """Streams more for a folder that an extraction has finished."""

    add: tuple[str, ...]
    """Extractors: files of data_pipeline/features, or modules of one's own."""
    output: PathText
    """Folder of the finished extraction."""
    streams: Wanted = field(
        default_factory=dict, metadata={"merges": True, "sections": settings_class}
    )
    """Settings of what is added, as of an extraction: streams.fbank.mel_bins=40."""
    workers: PositiveInt | None = None
    """Processes; null is one a core, and on GPUs no more than their memory holds."""
    device: str = "auto"
    """auto, cpu or cuda."""
    attempts: PositiveInt = 3
    """A clip that ends its process so many times is a reject."""
    clip_timeout_seconds: Positive = 600.0
    """A clip that takes longer is taken for hung, and its process ended."""
    array: ArraySettings = field(default_factory=ArraySettings)

    def __post_init__(self) -> None:
        if not self.add:
            raise ValueError("add is empty; expected a stream to add, such as add=[fbank]")
        stray = [name for name in self.streams if name not in self.add]
        if stray:
            raise ValueError(f"streams.{stray[0]} is set, but add=[{', '.join(self.add)}]")
        said = {name: self.streams.get(name) or {} for name in self.add}
        object.__setattr__(self, "streams", with_defaults(said))
        for name in owners(self.add).values():
            made = find_module(name).STREAMS
            if len(made) > 1:
                raise ValueError(
                    f"{name} makes {' and '.join(made)} at once, and a stream is added alone; "
                    f"extract anew with streams.{name} in the config and another output=FOLDER"
                )


@dataclass(frozen=True, kw_only=True)
class Added:
    """What lies beside the shards now, of one stream."""

    stream: str
    num_clips: int
    num_samples: int
    num_rejects: int
    num_shards: int
    num_shards_done: int

    def __str__(self) -> str:
        line = f"{self.stream}: samples {self.num_samples} + rejects {self.num_rejects}"
        if self.num_shards_done < self.num_shards:
            return f"{line}, {self.num_shards_done} of {self.num_shards} shards are there"
        return f"{line} = samples of the shards {self.num_clips}"


def run(config: AddConfig) -> list[Added]:
    """Add each stream of `config` where it is missing. Raises ExtractionError, SchemaError."""
    folder = Path(config.output).expanduser()
    base = load_config(DataConfig, finished(folder) / CONFIG, [])
    own = load_passport(folder)
    for stream in owners(config.add):
        if stream in own:
            raise ExtractionError(
                f"the shards in {folder} hold {stream} already; to make it otherwise, extract "
                "anew with another output=FOLDER"
            )
    if "face" in needs_of(config.add) and "crops" not in own:
        raise ExtractionError(
            f"{', '.join(config.add)} needs faces, and {folder} stores none, so each would have to "
            "be found again; extract anew with streams.crops={} and the stream itself in the "
            "config, and another output=FOLDER"
        )
    clips = read_clips(folder)
    return [_add(config, base, folder, clips, name) for name in config.add]


def _add(
    config: AddConfig, base: DataConfig, folder: Path, clips: dict[str, Clip], name: str
) -> Added:
    from data_pipeline.extraction.devices import (  # loads torch
        device_kind,
        num_workers,
        resolve_device,
    )
    from data_pipeline.extraction.stream_adder import load_adder
    from data_pipeline.runs.executor import add_tasks

    (stream,) = find_module(name).STREAMS
    settings = config.streams[name]
    device = resolve_device(config.device)
    asked = {name: settings, **_how_made(base, device_kind(device))}
    tasks = side_tasks(folder, clips, stream, asked)
    alone = adding(base, name, settings)
    make: functools.partial[Extractor]
    make = functools.partial(load_adder, alone, folder, device)
    array_index, array_count = config.array.share()
    add_tasks(
        folder,
        tasks,
        make,
        num_workers=num_workers(config.workers, device),
        attempts=config.attempts,
        clip_timeout_seconds=config.clip_timeout_seconds,
        array_index=array_index,
        array_count=array_count,
    )
    done = [m for m in (task.manifest(folder) for task in tasks) if m is not None]
    return Added(
        stream=stream,
        num_clips=sum(len(task.clips) for task in tasks),
        num_samples=sum(manifest.num_samples for manifest in done),
        num_rejects=sum(len(manifest.rejects) for manifest in done),
        num_shards=len(tasks),
        num_shards_done=len(done),
    )


def adding(base: DataConfig, name: str, settings: dict[str, Any]) -> DataConfig:
    """The config of the folder, with this one stream, which every clip must give, and no text."""
    streams = {other: False for other in base.streams} | {name: settings}
    speaker = "any_face" if "face" in needs_of([name]) else "none"
    return dataclasses.replace(
        base,
        streams=streams,
        require=find_module(name).STREAMS,
        speaker=speaker,
        transcriber=None,
        previews=0,
    )


def finished(folder: Path) -> Path:
    """`folder`, when all shards of its extraction are there. Raises ExtractionError."""
    summary = read_summary(folder)
    if not summary.is_complete:
        raise ExtractionError(
            f"{folder} is not finished ({summary}); run its extraction to the end first, with "
            f"--config {folder / CONFIG}"
        )
    return folder


def read_clips(folder: Path) -> dict[str, Clip]:
    """Id to clip, of the clips.csv that an extraction wrote. Raises ExtractionError."""
    path = folder / TABLE
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        clips = [_clip(row) for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ExtractionError(f"cannot read {path}: {error}; put it back") from error
    return {clip.id: clip for clip in clips}


def _how_made(base: DataConfig, device: str) -> dict[str, Any]:
    """What else decides the bytes of an added stream; the CPU is not named."""
    heard = {"media": dataclasses.asdict(base.media), "voice": base.voice}
    return heard if device == "cpu" else {**heard, "device": device}


def _clip(row: dict[str, str]) -> Clip:
    said = {name: value for name, value in row.items() if value != ""}
    for name in ("start", "end"):
        if name in said:
            said[name] = float(said[name])
    return Clip.from_dict(said)
