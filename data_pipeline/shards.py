"""Shards: WebDataset tars of ClipSamples, each with a manifest beside it.

Why tars: training reads thousands of small arrays in order, and one sequential file of 10-100 MB
is what disks, network file systems and `webdataset` like best. On disk, for shard 3:

    000003.tar           {id}.json  {id}.face.npy  {id}.face_seconds.npy  {id}.speech.npy  ...
                         (data_pipeline.files.samples)
    000003.json          ShardManifest: ids, bytes, sha256, feature passport, rejects
    000003.fbank.tar     a stream added later: {id}.fbank.npy ...
    000003.fbank.json    its manifest, which names the tar that it stands beside

    manifest = write_shard("runs/shards", 3, samples, rejects, passport, versions, task)
    for tar in list_shards("runs/shards"):
        for sample in read_shard(tar, streams=["face", "fbank"]): ...

Written by webdataset's own TarWriter; read by tarfile, since webdataset passes over what is not as
written, and here that is an error. The bytes of a tar depend on its samples alone. The manifest is
written last and marks the shard as done, so a tar that a killed process left behind is never taken
for a whole one.
"""

import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data_pipeline.files.atomic import atomic_file, sync_folder
from data_pipeline.files.samples import (
    AGAIN,
    ShardError,
    decode_about,
    decode_streams,
    encode_about,
    encode_streams,
    grouped,
)
from data_pipeline.schema import (
    ClipSample,
    Passport,
    Reject,
    SchemaError,
    ShardManifest,
    Stream,
    check_passport,
    passport_from_json,
    passport_to_json,
)

_verified: set[tuple[str, int, int]] = set()
"""Tars this process has hashed: (path, bytes, mtime in ns)."""
_SHARD_FILE = re.compile(r"[0-9]{6}\.(tar|json)")


def shard_name(index: int, added: str | None = None) -> str:
    """Stem of a shard's two files, or of those of a stream that was `added` to it."""
    return f"{index:06d}" if added is None else f"{index:06d}.{added}"


def write_shard(
    folder: str | Path,
    index: int,
    samples: Iterable[ClipSample],
    rejects: Iterable[Reject],
    passport: Passport,
    versions: dict[str, str],
    task: str,
    *,
    added: str | None = None,
    beside: str = "",
) -> ShardManifest:
    """Write one shard: the tar, then its manifest. Samples are streamed, checked, not kept.

    task: digest of the clips and settings that this shard answers for.
    added, beside: the samples bring streams alone, to stand under this name beside the shard whose
    tar has the sha256 `beside`.
    Raises SchemaError for a sample that breaks its contract; nothing is left behind then.
    """
    from webdataset.writer import TarWriter  # loads torch

    folder, stem = Path(folder), shard_name(index, added)
    tar_path, json_path = folder / f"{stem}.tar", folder / f"{stem}.json"
    digests: dict[str, str] = {}
    with atomic_file(tar_path) as file:
        hashing = _HashingWriter(file)
        with TarWriter(hashing, encoder=False, mtime=0, user="", group="", mode=0o644) as tar:
            for sample in samples:
                if sample.id in digests:
                    raise SchemaError(f"clip id {sample.id!r} twice in shard {index}")
                sample.check(passport)
                fields = dict(encode_streams(sample, passport))
                if added is None:
                    fields["json"] = encode_about(sample)
                tar.write({"__key__": sample.id, **fields})
                digests[sample.id] = features_digest(sample)
        # A manifest of other bytes must not stand beside the new tar, even for a moment.
        with contextlib.suppress(FileNotFoundError, SchemaError):
            if read_manifest(json_path).sha256 != hashing.digest.hexdigest():
                json_path.unlink()
                sync_folder(folder)
    manifest = ShardManifest(
        num_samples=len(digests),
        num_bytes=hashing.num_bytes,
        sha256=hashing.digest.hexdigest(),
        task=task,
        passport=passport_to_json(passport),
        versions=dict(sorted(versions.items())),
        samples=list(digests),
        rejects=[dataclasses.asdict(reject) for reject in rejects],
        digests=list(digests.values()),
        beside=beside,
    )
    with atomic_file(json_path) as file:
        file.write(manifest.to_json().encode())
    return manifest


def read_manifest(json_path: str | Path) -> ShardManifest:
    """The manifest at `json_path`. Raises SchemaError, or FileNotFoundError."""
    return parse_manifest(Path(json_path).read_bytes(), json_path)


def parse_manifest(content: bytes, json_path: str | Path) -> ShardManifest:
    """What was read at `json_path`. Raises SchemaError."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ShardError(f"{json_path} is no shard manifest: {error}; {AGAIN}") from error
    return ShardManifest.from_json(text, str(json_path))


def list_folder(folder: str | Path) -> tuple[list[Path], list[Path]]:
    """(tars that are done, tars that have no manifest yet) in `folder`, in order of their names.

    The folder is listed once and no file in it is looked at: on a network disk that is what costs.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ShardError(f"no folder {folder}; make it with python -m data_pipeline.extract")
    names = [name for name in os.listdir(folder) if _SHARD_FILE.fullmatch(name)]
    tars = {name.removesuffix(".tar") for name in names if name.endswith(".tar")}
    done = {name.removesuffix(".json") for name in names if name.endswith(".json")}
    if gone := sorted(done - tars):
        raise ShardError(f"{folder / gone[0]}.tar is gone, its manifest is there; {AGAIN}")
    finished, unfinished = (
        [folder / f"{stem}.tar" for stem in sorted(stems)] for stems in (done, tars - done)
    )
    return finished, unfinished


def list_shards(folder: str | Path) -> list[Path]:
    """Tars in `folder` that are done (have a manifest), in order of their names."""
    return list_folder(folder)[0]


def load_passport(
    folders: str | Path | Iterable[str | Path], streams: Collection[str] | None = None
) -> Passport:
    """The one feature passport of all shards in `folders`; an error when two differ.

    streams: those wanted, of the shards' own and of the added ones; what nobody made is absent.
    None is all that the shards themselves hold.
    """
    folders = [folders] if isinstance(folders, str | Path) else list(folders)
    tars = [tar for folder in folders for tar in list_shards(folder)]
    found = (
        (tar, with_added(tar, passport_from_json(_open_manifest(tar).passport), streams))
        for tar in tars
    )
    return agreed_passport(found, folders)


def agreed_passport(
    found: Iterable[tuple[Path, Passport]], folders: Iterable[str | Path]
) -> Passport:
    """The one passport of these tars, all that `folders` hold.

    Raises SchemaError when two differ, ShardError when there is none.
    """
    first, passport = None, None
    for tar, other in found:
        if passport is None:
            first, passport = tar, other
        if other is not passport:
            check_passport(other, passport, f"{tar} (compared with {first})")
    if passport is None:
        names = ", ".join(map(str, folders))
        raise ShardError(f"no finished shard in {names}; run python -m data_pipeline.extract")
    return passport


def with_added(tar_path: Path, own: Passport, streams: Collection[str] | None) -> Passport:
    """Of one shard, whose `own` passport was read; `streams` as load_passport takes them."""
    if streams is None:
        return own
    passport = dict(own)
    for name in streams:
        added = tar_path.with_suffix(f".{name}.tar")
        if name not in passport and added.with_suffix(".json").is_file():
            passport |= passport_from_json(_open_manifest(added).passport)
    return only(passport, streams)


def only(passport: Passport, streams: Collection[str]) -> Passport:
    """Of these streams, those that it has."""
    return {name: spec for name, spec in passport.items() if name in streams}


def read_shard(
    tar_path: str | Path, *, streams: Collection[str] | None = None, verify: bool = False
) -> Iterator[ClipSample]:
    """The samples of one shard, in order.

    streams: those to read, added ones joined by id; None is all that the shard itself holds.
    Before the first sample is given out, each tar's size and sha256 are compared with its
    manifest, so a cut or altered tar gives none rather than some. A process hashes a file once
    (1.5 s a GB) and again only when its size or time changed, or with `verify`.
    Raises ShardError. Nothing is unpickled.
    """
    tar_path = Path(tar_path)
    manifest = _open_manifest(tar_path)
    own = passport_from_json(manifest.passport)
    added = [] if streams is None else [name for name in streams if name not in own]
    joined = [_Added(tar_path, name, manifest.sha256, verify) for name in added]
    for sample in _samples(tar_path, manifest, own, verify):
        for one in joined:
            sample.streams.update(one.streams_of(sample.id))
        yield (
            sample
            if streams is None
            else dataclasses.replace(
                sample, streams={name: s for name, s in sample.streams.items() if name in streams}
            )
        )
    for one in joined:
        one.check_end()


def verify_shard(tar_path: str | Path, streams: Collection[str] = ()) -> int:
    """Compare the bytes of a shard, and of those of `streams` that were added to it, with their
    manifests: what read_shard does before its first sample, with nothing parsed or kept.

    Returns the bytes that were read. Raises ShardError.
    """
    tar_path, num_bytes = Path(tar_path), 0
    added = (tar_path.with_suffix(f".{name}.tar") for name in sorted(streams))
    for path in (tar_path, *(path for path in added if path.with_suffix(".json").is_file())):
        manifest = _open_manifest(path)
        check_size(path, manifest)
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256")
        _check_digest(path, stat, digest.hexdigest(), manifest)
        num_bytes += stat.st_size
    return num_bytes


def added_tar(tar_path: Path, stream: str) -> Path:
    """Where a stream that was added to a shard lies. Raises ShardError when it is not there."""
    path = tar_path.with_suffix(f".{stream}.tar")
    if not path.with_suffix(".json").is_file():
        raise ShardError(
            f"{tar_path} has no stream {stream!r}; add it with python -m data_pipeline.extract "
            f"'add=[{stream}]' output={tar_path.parent}"
        )
    return path


def features_digest(sample: ClipSample) -> str:
    """16 hex digits of the streams of `sample`, whatever its id, text and label; "" without any."""
    digest = hashlib.blake2b(digest_size=8)
    for name, stream in sorted(sample.streams.items()):
        digest.update(f"{name}{stream.values_ND.shape}".encode())
        digest.update(np.ascontiguousarray(stream.values_ND))
        digest.update(np.ascontiguousarray(stream.seconds_N))
    return digest.hexdigest() if sample.streams else ""


class _HashingWriter:
    """Hashes and counts what passes through to `file`."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.num_bytes += len(data)
        return self.file.write(data)


class _Added:
    """The samples of an added stream, handed out beside those of its shard."""

    def __init__(self, tar_path: Path, stream: str, sha256: str, verify: bool) -> None:
        self.path = added_tar(tar_path, stream)
        manifest = _open_manifest(self.path)
        if manifest.beside != sha256:
            raise ShardError(
                f"{self.path} was added to another {tar_path.name} than the one that lies there; "
                f"remove it and run python -m data_pipeline.extract 'add=[{stream}]' "
                f"output={tar_path.parent}"
            )
        passport = passport_from_json(manifest.passport)
        self._samples = _samples(self.path, manifest, passport, verify)
        self._next = next(self._samples, None)

    def streams_of(self, sample_id: str) -> dict[str, Stream]:
        """Of the next sample of the shard; nothing where it gave none of this stream."""
        if self._next is None or self._next.id != sample_id:
            return {}
        streams, self._next = self._next.streams, next(self._samples, None)
        return streams

    def check_end(self) -> None:
        if self._next is not None:
            raise ShardError(f"{self.path}: {self._next.id!r} is not among its shard's samples")


def _samples(
    tar_path: Path, manifest: ShardManifest, passport: Passport, verify: bool
) -> Iterator[ClipSample]:
    """The samples of one tar, compared with its manifest."""
    data = _checked_bytes(tar_path, manifest, verify)
    expected = iter(manifest.samples)
    count = 0
    for sample_id, fields in grouped(data, tar_path, passport):
        if sample_id != next(expected, None):
            raise ShardError(f"{tar_path}: {sample_id!r} is not where the manifest has it")
        where = f"{tar_path}: {sample_id}"
        about = {} if manifest.beside else decode_about(sample_id, fields, where)
        sample = ClipSample(id=sample_id, **about, streams=decode_streams(fields, passport, where))
        sample.check(passport)
        count += 1
        yield sample
    if count != manifest.num_samples:
        raise ShardError(f"{tar_path}: {count} samples, its manifest says {manifest.num_samples}")


def _open_manifest(tar_path: Path) -> ShardManifest:
    try:
        return read_manifest(tar_path.with_suffix(".json"))
    except FileNotFoundError:
        raise ShardError(f"{tar_path} has no manifest, so it is not done; {AGAIN}") from None


def check_size(tar_path: Path, manifest: ShardManifest) -> None:
    """Raise ShardError for a tar that is gone, or not as long as its manifest says."""
    try:
        _check_length(tar_path, tar_path.stat().st_size, manifest)
    except FileNotFoundError:
        raise ShardError(f"{tar_path} is gone, its manifest is there; {AGAIN}") from None


def _check_length(tar_path: Path, num_bytes: int, manifest: ShardManifest) -> None:
    if num_bytes != manifest.num_bytes:
        raise ShardError(
            f"{tar_path} has {num_bytes} bytes, its manifest says {manifest.num_bytes}: cut or "
            f"altered. Remove it and {AGAIN}"
        )


def _checked_bytes(tar_path: Path, manifest: ShardManifest, verify: bool) -> bytes:
    """All of the tar, read once: what is hashed is what is given out."""
    try:
        with open(tar_path, "rb") as file:
            stat, data = os.fstat(file.fileno()), file.read()
    except FileNotFoundError:
        raise ShardError(f"{tar_path} is gone, its manifest is there; {AGAIN}") from None
    _check_length(tar_path, len(data), manifest)
    if verify or _key(tar_path, stat) not in _verified:
        _check_digest(tar_path, stat, hashlib.sha256(data).hexdigest(), manifest)
    return data


def _check_digest(
    tar_path: Path, stat: os.stat_result, sha256: str, manifest: ShardManifest
) -> None:
    if sha256 != manifest.sha256:
        raise ShardError(
            f"{tar_path} has sha256 {sha256[:12]}..., its manifest says "
            f"{manifest.sha256[:12]}...: altered. Remove it and {AGAIN}"
        )
    _verified.add(_key(tar_path, stat))


def _key(tar_path: Path, stat: os.stat_result) -> tuple[str, int, int]:
    return str(tar_path.resolve()), stat.st_size, stat.st_mtime_ns
