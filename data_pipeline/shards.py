"""Shards: WebDataset tars of ClipSamples, each with a manifest beside it.

Why tars: training reads thousands of small arrays in order, and one sequential file of 10-100 MB
is what disks, network file systems and `webdataset` like best. On disk, for shard 3:

    000003.tar     {id}.json  {id}.face.npy  {id}.face_probs.npy  {id}.face_seconds.npy
                   {id}.speech.npy  ...      (what a clip lacks is simply not there)
    000003.json    ShardManifest: ids, bytes, sha256, feature passport, rejects

    manifest = write_shard("runs/shards", 3, samples, rejects, passport, versions, task)
    for tar in list_shards("runs/shards"):
        for sample in read_shard(tar): ...

The bytes of a tar depend on its samples alone. The manifest is written last and marks the shard
as done, so a tar that a killed process left behind is never taken for a whole one.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_pipeline.atomic import atomic_file, sync_folder
from data_pipeline.schema import (
    ClipSample,
    Passport,
    Reject,
    SchemaError,
    ShardManifest,
    check_passport,
    passport_from_json,
    passport_to_json,
)
from data_pipeline.weights import sha256_of

ARRAYS = {
    "face": np.dtype("<f2"),
    "face_probs": np.dtype("<f2"),
    "face_seconds": np.dtype("<f4"),
    "speech": np.dtype("<f2"),
}
"""Array fields of a sample and how they lie in the tar, in the order of its members."""

_verified: set[tuple[str, int, int]] = set()
"""Tars this process has hashed: (path, bytes, mtime in ns)."""


class ShardError(SchemaError):
    """A shard that is cut, altered, or not a shard."""


def shard_name(index: int) -> str:
    """Stem of a shard's two files."""
    return f"{index:06d}"


def write_shard(
    folder: str | Path,
    index: int,
    samples: Iterable[ClipSample],
    rejects: Iterable[Reject],
    passport: Passport,
    versions: dict[str, str],
    task: str,
) -> ShardManifest:
    """Write one shard: the tar, then its manifest. Samples are streamed, checked, not kept.

    task: digest of the clips and settings that this shard answers for.
    Raises SchemaError for a sample that breaks its contract; nothing is left behind then.
    """
    folder = Path(folder)
    tar_path, json_path = (folder / f"{shard_name(index)}.{end}" for end in ("tar", "json"))
    ids: list[str] = []
    digests: list[str] = []
    with atomic_file(tar_path) as file:
        hashing = _HashingWriter(file)
        with tarfile.open(fileobj=hashing, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for sample in samples:
                if sample.id in ids:
                    raise SchemaError(f"clip id {sample.id!r} twice in shard {index}")
                _check(sample, passport)
                for name, payload in _members(sample):
                    info = tarfile.TarInfo(name)  # mtime 0, owner 0, mode 0644
                    info.size = len(payload)
                    tar.addfile(info, io.BytesIO(payload))
                ids.append(sample.id)
                digests.append(features_digest(sample))
        # A manifest of other bytes must not stand beside the new tar, even for a moment.
        with contextlib.suppress(FileNotFoundError, SchemaError):
            if read_manifest(json_path).sha256 != hashing.digest.hexdigest():
                json_path.unlink()
                sync_folder(folder)
    manifest = ShardManifest(
        num_samples=len(ids),
        num_bytes=hashing.num_bytes,
        sha256=hashing.digest.hexdigest(),
        task=task,
        passport=passport_to_json(passport),
        versions=dict(sorted(versions.items())),
        samples=ids,
        rejects=[dataclasses.asdict(reject) for reject in rejects],
        digests=digests,
    )
    with atomic_file(json_path) as file:
        file.write(manifest.to_json().encode())
    return manifest


def read_manifest(json_path: str | Path) -> ShardManifest:
    """The manifest at `json_path`. Raises SchemaError, or FileNotFoundError."""
    try:
        text = Path(json_path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ShardError(f"{json_path} is no shard manifest: {error}; {_AGAIN}") from error
    return ShardManifest.from_json(text, str(json_path))


def list_shards(folder: str | Path) -> list[Path]:
    """Tars in `folder` that are done (have a manifest), in order of their names."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ShardError(f"no folder {folder}; make it with python -m data_pipeline.extract")
    tars = [path.with_suffix(".tar") for path in folder.glob("[0-9]" * 6 + ".json")]
    for tar in tars:
        if not tar.is_file():
            raise ShardError(f"{tar} is gone, its manifest is there; {_AGAIN}")
    return sorted(tars)


def load_passport(folders: str | Path | Iterable[str | Path]) -> Passport:
    """The one feature passport of all shards in `folders`; an error when two differ."""
    folders = [folders] if isinstance(folders, str | Path) else list(folders)
    first, passport = None, None
    for tar in [tar for folder in folders for tar in list_shards(folder)]:
        found = passport_from_json(read_manifest(tar.with_suffix(".json")).passport)
        if passport is None:
            first, passport = tar, found
        check_passport(found, passport, f"{tar} (compared with {first})")
    if passport is None:
        names = ", ".join(map(str, folders))
        raise ShardError(f"no finished shard in {names}; run python -m data_pipeline.extract")
    return passport


def read_shard(tar_path: str | Path, *, verify: bool = False) -> Iterator[ClipSample]:
    """The samples of one shard, in order.

    Before the first sample is given out, the tar's size and sha256 are compared with the
    manifest, so a cut or altered tar gives none rather than some. A process hashes a file once
    (1.5 s a GB) and again only when its size or time changed, or with `verify`.
    Raises ShardError. Nothing is unpickled.
    """
    tar_path = Path(tar_path)
    manifest = _open_manifest(tar_path)
    _check_bytes(tar_path, manifest, verify)
    passport = passport_from_json(manifest.passport)
    expected = iter(manifest.samples)
    count = 0
    with tarfile.open(tar_path, mode="r:") as tar:
        for sample_id, fields in _grouped(tar, tar_path):
            if sample_id != next(expected, None):
                raise ShardError(f"{tar_path}: {sample_id!r} is not where the manifest has it")
            sample = _sample(sample_id, fields, f"{tar_path}: {sample_id}")
            _check(sample, passport)
            count += 1
            yield sample
    if count != manifest.num_samples:
        raise ShardError(f"{tar_path}: {count} samples, its manifest says {manifest.num_samples}")


def features_digest(sample: ClipSample) -> str:
    """16 hex digits of the arrays of `sample`, whatever its id, text and label; "" without any."""
    digest = hashlib.blake2b(digest_size=8)
    found = {name: getattr(sample, name) for name in ARRAYS}
    if all(array is None for array in found.values()):
        return ""
    for name, array in found.items():
        if array is not None:
            digest.update(f"{name}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array, dtype=ARRAYS[name]))
    return digest.hexdigest()


_AGAIN = "run the same extraction again, it makes only the shards that are missing"


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


def _check(sample: ClipSample, passport: Passport) -> None:
    for name in ("face", "speech"):
        if getattr(sample, name) is not None and name not in passport:
            raise SchemaError(f"{sample.id} has {name}, the passport has only {sorted(passport)}")
    sample.check(passport)


def _members(sample: ClipSample) -> Iterator[tuple[str, bytes]]:
    about = {"id": sample.id, "text": sample.text, "words": sample.words, "meta": sample.meta}
    try:
        text = json.dumps(about, sort_keys=True, ensure_ascii=False, allow_nan=False)
        payload = text.encode()
    except (TypeError, ValueError) as error:
        raise SchemaError(f"{sample.id}: text or meta is not JSON: {error}") from error
    yield f"{sample.id}.json", payload
    for name, dtype in ARRAYS.items():
        array = getattr(sample, name)
        if array is not None:
            npy = io.BytesIO()
            array = np.ascontiguousarray(array, dtype=dtype)
            np.lib.format.write_array(npy, array, version=(1, 0), allow_pickle=False)
            yield f"{sample.id}.{name}.npy", npy.getvalue()


def _open_manifest(tar_path: Path) -> ShardManifest:
    try:
        return read_manifest(tar_path.with_suffix(".json"))
    except FileNotFoundError:
        raise ShardError(f"{tar_path} has no manifest, so it is not done; {_AGAIN}") from None


def _check_bytes(tar_path: Path, manifest: ShardManifest, verify: bool) -> None:
    try:
        stat = tar_path.stat()
    except FileNotFoundError:
        raise ShardError(f"{tar_path} is gone, its manifest is there; {_AGAIN}") from None
    if stat.st_size != manifest.num_bytes:
        raise ShardError(
            f"{tar_path} has {stat.st_size} bytes, its manifest says {manifest.num_bytes}: cut or "
            f"altered. Remove it and {_AGAIN}"
        )
    key = (str(tar_path.resolve()), stat.st_size, stat.st_mtime_ns)
    if verify or key not in _verified:
        found = sha256_of(tar_path)
        if found != manifest.sha256:
            raise ShardError(
                f"{tar_path} has sha256 {found[:12]}..., its manifest says "
                f"{manifest.sha256[:12]}...: altered. Remove it and {_AGAIN}"
            )
        _verified.add(key)


def _grouped(tar: tarfile.TarFile, where: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Neighbouring members of one id, as field name to bytes."""
    current, fields = None, {}
    try:
        for member in tar:
            sample_id, _, name = member.name.partition(".")
            if (
                not member.isreg()
                or "/" in member.name
                or not (
                    name == "json" or name.removesuffix(".npy") in ARRAYS and name.endswith(".npy")
                )
            ):
                raise ShardError(
                    f"{where}: member {member.name!r} is none of a sample's fields: json, "
                    + ", ".join(f"{array}.npy" for array in ARRAYS)
                )
            if sample_id != current:
                if current is not None:
                    yield current, fields
                current, fields = sample_id, {}
            if name in fields:
                raise ShardError(f"{where}: member {member.name!r} twice")
            fields[name] = tar.extractfile(member).read()
    except tarfile.TarError as error:
        raise ShardError(f"{where} is no whole tar: {error}. Remove it and {_AGAIN}") from error
    if current is not None:
        yield current, fields


def _sample(sample_id: str, fields: dict[str, bytes], where: str) -> ClipSample:
    try:
        about: dict[str, Any] = json.loads(fields.pop("json"))
        text, words, meta = about["text"], about["words"], about["meta"]
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{where}: no readable json member: {error!r}. {_AGAIN}") from error
    if about.get("id") != sample_id:
        raise ShardError(f"{where}: its json member says id {about.get('id')!r}")
    arrays = {
        name.removesuffix(".npy"): _array(payload, f"{where}.{name}")
        for name, payload in fields.items()
    }
    return ClipSample(id=sample_id, text=text, words=words, meta=meta, **arrays)


def _array(payload: bytes, where: str) -> np.ndarray:
    """A writable copy of a version-1 npy. The length is checked before anything is allocated."""
    file = io.BytesIO(payload)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("not version 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError as error:
        raise ShardError(f"{where} is no npy array: {error}") from error
    size = math.prod(shape) * dtype.itemsize
    if dtype not in ARRAYS.values() or fortran or size != len(payload) - file.tell():
        raise ShardError(
            f"{where}: {dtype} {shape} in {len(payload) - file.tell()} bytes is not as written here"
        )
    return np.frombuffer(payload, dtype, offset=file.tell()).reshape(shape).copy()
