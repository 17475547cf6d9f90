"""A folder of shards as a datasets.Dataset: Arrow on disk, typed, ready for a hub.

    clips = open_shards("runs/mine/shards", streams=["speech", "fbank"])
    clips.with_format("numpy")[0]["speech"]     # [S, D]; stored float16, numpy gets float32
    clips.push_to_hub("me/my-clips")

Read by data_pipeline.shards with all its checks, and once: Arrow's cache (HF_DATASETS_CACHE) is
known by the tars' sha256. `samples_of` gives the clips as ClipSamples again, whose arrays are views
of that file: they take no memory of their own, and processes of one machine share them.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.schema import ClipSample, Passport, SchemaError, Stream
from data_pipeline.shards import added_tar, list_shards, load_passport, read_manifest, read_shard

if TYPE_CHECKING:
    import datasets
    import pyarrow


def open_shards(
    folders: str | Path | Iterable[str | Path],
    streams: Collection[str] | None = None,
    cache_dir: str | Path | None = None,
) -> "datasets.Dataset":
    """A row a clip: id, text, words, meta (JSON), and each stream, null where the clip has none.

    streams: those wanted, added ones too; None is all that the shards themselves hold. Times that
    are not evenly spaced stand in NAME_seconds of the stream that keeps them.
    Raises SchemaError for shards that are altered, or of two passports.
    """
    import datasets  # a second, which those who open no shards need not wait
    from datasets.exceptions import DatasetGenerationError

    folders = [folders] if isinstance(folders, str | Path) else list(folders)
    passport = load_passport(folders, streams)
    tars = [tar for folder in folders for tar in list_shards(folder)]
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # commands have a log of their own
    try:
        return datasets.Dataset.from_generator(
            _rows,
            features=features_of(passport),
            cache_dir=None if cache_dir is None else str(cache_dir),
            gen_kwargs={
                "tars": tuple(map(str, tars)),
                "clocks": tuple((name, passport[name].clock) for name in sorted(passport)),
                "asked": None if streams is None else tuple(streams),
                "sha256": tuple(_digests(tars, streams or ())),
            },
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, SchemaError):
            raise error.__cause__ from None
        raise
    finally:
        if shown:
            datasets.enable_progress_bars()


def features_of(passport: Passport) -> "datasets.Features":
    """The types of the columns."""
    import datasets

    found: dict[str, Any] = {name: datasets.Value("string") for name in ("id", "text", "meta")}
    found["words"] = datasets.List(datasets.Value("string"))
    for name, spec in sorted(passport.items()):
        row = datasets.List(datasets.Value(spec.dtype), length=spec.width)
        found[name] = datasets.List(row)
        if spec.clock is not None:
            found[f"{spec.clock}_seconds"] = datasets.List(datasets.Value("float32"))
    return datasets.Features(found)


def samples_of(clips: "datasets.Dataset", passport: Passport) -> Iterator[ClipSample]:
    """The clips that `open_shards` gave, in their order. Arrays may be read and not written."""
    columns = {name: clips.data.column(name) for name in clips.column_names}
    for row in range(clips.num_rows):
        yield ClipSample(
            id=columns["id"][row].as_py(),
            text=columns["text"][row].as_py(),
            words=columns["words"][row].as_py(),
            streams={
                name: Stream(
                    values_ND=_view(columns[name][row]).reshape(-1, spec.width),
                    seconds_N=spec.seconds(len(columns[name][row]))
                    if spec.clock is None
                    else _view(columns[f"{spec.clock}_seconds"][row]),
                )
                for name, spec in passport.items()
                if columns[name][row].is_valid
            },
            meta=json.loads(columns["meta"][row].as_py()),
        )


def _view(value: "pyarrow.ListScalar") -> np.ndarray:
    """A list, or a list of lists, of numbers, flat."""
    from pyarrow.types import is_primitive

    numbers = value.values
    while not is_primitive(numbers.type):
        numbers = numbers.flatten()
    return numbers.to_numpy(zero_copy_only=True)


def _rows(
    tars: tuple[str, ...],
    clocks: tuple[tuple[str, str | None], ...],
    asked: tuple[str, ...] | None,
    sha256: tuple[str, ...],
) -> Iterator[dict[str, Any]]:
    for tar in tars:
        for sample in read_shard(Path(tar), streams=asked):
            meta = json.dumps(sample.meta, sort_keys=True, ensure_ascii=False)
            row = {"id": sample.id, "text": sample.text, "meta": meta, "words": sample.words}
            row |= {f"{clock}_seconds": None for _, clock in clocks if clock is not None}
            for name, clock in clocks:
                stream = sample.streams.get(name)
                row[name] = None if stream is None else stream.values_ND
                if stream is not None and clock is not None:
                    row[f"{clock}_seconds"] = stream.seconds_N
            yield row


def _digests(tars: list[Path], streams: Collection[str]) -> Iterator[str]:
    """Of all tars that are read."""
    for tar in tars:
        manifest = read_manifest(tar.with_suffix(".json"))
        yield manifest.sha256
        for name in streams:
            if name not in manifest.passport:
                yield read_manifest(added_tar(tar, name).with_suffix(".json")).sha256
