"""What the manifests of shard folders say: each is read once, and of a tar its size alone.

    found = read_manifests(["runs/shards"], {"face", "speech"})
    for shard in found.shards["runs/shards"]: ...

A manifest of 100 clips is 6 KB of JSON and 0.1 ms of work, most of it parsing. What is kept of it
is its ids as one string of bytes and its digests as numbers, not an object for each clip: with all
that is worked out of them, ten million clips are 1 GB at the peak, on the one rank that reads.

C: clips of a shard.
"""

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from data_pipeline.schema import Passport, ShardManifest, passport_from_json
from data_pipeline.shards import (
    ShardError,
    agreed_passport,
    check_size,
    list_folder,
    only,
    parse_manifest,
    with_added,
)

THREADS = 16
"""Manifests asked for at once: a network disk takes milliseconds to open a file, and opens many."""
CHUNK = 32
"""Manifests a thread reads at a time: handing over each alone costs as much as parsing it."""
_NO_STREAM = "0" * 16
Given, Made = TypeVar("Given"), TypeVar("Made")


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardRecord:
    """What is kept of one manifest while a run starts."""

    tar: Path
    sha256: str
    """Of the tar."""
    num_clips: int
    packed_ids: bytes
    """In the order of the tar, one a line; b"" for none."""
    features_C: np.ndarray
    """uint64, the digests of the clips' streams; 0 for words alone."""

    @classmethod
    def of(cls, tar: Path, manifest: ShardManifest) -> "ShardRecord":
        """Raises ShardError for ids and digests that are not one of each for every clip."""
        try:
            packed = "\n".join(manifest.samples).encode()
            digests = [digest or _NO_STREAM for digest in manifest.digests]
            if set(map(len, digests)) - {len(_NO_STREAM)}:
                raise ValueError("16 hex digits are expected")
            features_C = np.frombuffer(bytes.fromhex("".join(digests)), dtype=">u8")
        except (TypeError, ValueError) as error:
            raise _bad(tar, f"an id or a digest that is none ({error})") from error
        num_clips = len(manifest.samples)
        if len(features_C) != num_clips or packed.count(b"\n") != max(0, num_clips - 1):
            raise _bad(tar, f"{num_clips} samples, {len(features_C)} digests")
        return cls(
            tar=tar,
            sha256=manifest.sha256,
            num_clips=num_clips,
            packed_ids=packed,
            features_C=features_C.astype(np.uint64),
        )


@dataclass(frozen=True, kw_only=True)
class Manifests:
    """Of several folders."""

    shards: dict[str, list[ShardRecord]]
    """Folder to its finished shards, in order of their names."""
    passport: Passport
    """Of all of them."""
    unfinished: list[str]
    """A line for each folder that has tars without a manifest, which an extraction writes last."""


def read_manifests(folders: Collection[str], streams: Collection[str] | None = None) -> Manifests:
    """Every finished shard of `folders`; `streams` as load_passport takes them.

    Raises SchemaError when there is none, two differ in their passport, or one cannot be read.
    """
    listed = {folder: list_folder(folder) for folder in folders}
    tars = [tar for finished, _ in listed.values() for tar in finished]
    records: list[ShardRecord] = []
    passports: list[Passport] = []
    pool = ThreadPoolExecutor(THREADS)
    try:
        for tar, (content, num_bytes) in zip(tars, _by_chunks(pool, _fetch, tars), strict=True):
            manifest = _parse(tar, content, num_bytes)
            records.append(ShardRecord.of(tar, manifest))
            own = passport_from_json(manifest.passport)
            _append(passports, own if streams is None else only(own, streams))
        if streams is not None and any(not own.keys() >= set(streams) for own in passports):
            pairs, passports = list(zip(tars, passports, strict=True)), []
            for joined in _by_chunks(pool, lambda pair: with_added(*pair, streams), pairs):
                _append(passports, joined)
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, not all the rest first
    passport = agreed_passport(zip(tars, passports, strict=True), folders)
    left = iter(records)
    return Manifests(
        shards={folder: [next(left) for _ in finished] for folder, (finished, _) in listed.items()},
        passport=passport,
        unfinished=[
            _unfinished(folder, len(finished), len(unfinished))
            for folder, (finished, unfinished) in listed.items()
            if unfinished
        ],
    )


def _append(passports: list[Passport], passport: Passport) -> None:
    """One object for all that are alike, not 100,000."""
    passports.append(passports[-1] if passports and passports[-1] == passport else passport)


def _by_chunks(
    pool: ThreadPoolExecutor, work: Callable[[Given], Made], things: Sequence[Given]
) -> Iterator[Made]:
    """`work` of each, in order, by threads, which are some chunks ahead and no more."""

    def do(at: int) -> Future[list[Made]]:
        return pool.submit(lambda: [work(one) for one in things[at : at + CHUNK]])

    places = iter(range(0, len(things), CHUNK))
    ahead = deque(map(do, itertools.islice(places, 2 * THREADS)))
    while ahead:
        done = ahead.popleft().result()
        ahead.extend(map(do, itertools.islice(places, 1)))
        yield from done


def _fetch(tar: Path) -> tuple[bytes, int]:
    """A manifest's bytes and the size of its tar, -1 of one that is gone: what a disk is asked for.
    Threads that parse as well wait for one another's turn at Python: half as long again."""
    path = tar.with_suffix(".json")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ShardError(
            f"{path} went away after its folder was listed; start again once nothing else writes "
            f"to {tar.parent} or clears it"
        ) from None
    try:
        return content, tar.stat().st_size
    except FileNotFoundError:
        return content, -1


def _parse(tar: Path, content: bytes, num_bytes: int) -> ShardManifest:
    manifest = parse_manifest(content, tar.with_suffix(".json"))
    if num_bytes != manifest.num_bytes:
        check_size(tar, manifest)  # a copy that broke off; a flipped bit is seen when it is read
    return manifest


def _unfinished(folder: str, finished: int, unfinished: int) -> str:
    verbs = ("has", "is") if unfinished == 1 else ("have", "are")
    return (
        f"{unfinished} of {finished + unfinished} tars in {folder} {verbs[0]} no manifest and "
        f"{verbs[1]} left out; run the same extraction again"
    )


def _bad(tar: Path, found: str) -> ShardError:
    return ShardError(
        f"{tar.with_suffix('.json')} has {found}, expected one id and one digest a clip: cut or "
        "altered. Remove it and run the same extraction again"
    )
