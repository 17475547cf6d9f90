"""A clip's sample as members of a tar, and back.

    {id}.json  {id}.face.npy  {id}.face_seconds.npy  {id}.face_probs.npy  {id}.speech.npy  ...

    tar.write({"__key__": sample.id, "json": encode_about(sample), **dict(encode_streams(...))})
    for sample_id, fields in grouped(data, tar_path, passport):
        streams = decode_streams(fields, passport, sample_id)

What a clip lacks is simply not there. Streams of one clock share the times of the stream that the
clock is named after; one without a clock is evenly spaced and keeps none. Arrays are npy of version
1, little-endian, in C's order: whatever else is found is an error, and nothing is unpickled.
"""

import functools
import io
import json
import math
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.files.tars import tar_members
from data_pipeline.schema import ClipSample, Passport, SchemaError, Stream

AGAIN = "run the same extraction again, it makes only the shards that are missing"
_TIMES = "_seconds"


class ShardError(SchemaError):
    """A shard that is cut, altered, or not a shard."""


def encode_about(sample: ClipSample) -> bytes:
    """The member `json`: who the clip is, and its words. Raises SchemaError for what is no JSON."""
    about = {"id": sample.id, "text": sample.text, "words": sample.words, "meta": sample.meta}
    try:
        return json.dumps(about, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise SchemaError(f"{sample.id}: text or meta is not JSON: {error}") from error


def encode_streams(sample: ClipSample, passport: Passport) -> Iterator[tuple[str, bytes]]:
    """Member and npy: the streams in the order of their names, each with its times where it keeps
    them itself."""
    for name, stream in sorted(sample.streams.items()):
        yield f"{name}.npy", _npy(stream.values_ND)
        if passport[name].clock == name:
            yield f"{name}{_TIMES}.npy", _npy(stream.seconds_N)


def _npy(array: np.ndarray) -> bytes:
    npy = io.BytesIO()
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    np.lib.format.write_array(npy, array, version=(1, 0), allow_pickle=False)
    return npy.getvalue()


def grouped(
    data: bytes, where: Path, passport: Passport
) -> Iterator[tuple[str, dict[str, memoryview]]]:
    """Neighbouring members of one id in a tar's bytes, as field name to bytes.

    Raises ShardError for what is no field of a sample of `passport`.
    """
    times = {f"{name}{_TIMES}.npy" for name, spec in passport.items() if spec.clock == name}
    known = {"json", *(f"{name}.npy" for name in passport), *times}
    current, fields = None, {}
    try:
        for member, payload in tar_members(data):
            sample_id, _, name = member.partition(".")
            if payload is None or "/" in member or name not in known:
                raise ShardError(
                    f"{where}: member {member!r} is none of a sample's fields: "
                    + ", ".join(sorted(known))
                )
            if sample_id != current:
                if current is not None:
                    yield current, fields
                current, fields = sample_id, {}
            if name in fields:
                raise ShardError(f"{where}: member {member!r} twice")
            fields[name] = payload
    except tarfile.TarError as error:
        raise ShardError(f"{where} is no whole tar: {error}. Remove it and {AGAIN}") from error
    if current is not None:
        yield current, fields


def decode_about(sample_id: str, fields: dict[str, memoryview], where: str) -> dict[str, Any]:
    """text, words and meta of a sample. Raises ShardError, which names `where`."""
    try:
        about: dict[str, Any] = json.loads(bytes(fields["json"]))
        found = {name: about[name] for name in ("text", "words", "meta")}
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{where}: no readable json member: {error!r}. {AGAIN}") from error
    if about.get("id") != sample_id:
        raise ShardError(f"{where}: its json member says id {about.get('id')!r}")
    return found


def decode_streams(
    fields: dict[str, memoryview], passport: Passport, where: str
) -> dict[str, Stream]:
    """The streams of one sample; those of one clock share their times. Raises ShardError."""
    values = {
        name: _array(fields[f"{name}.npy"], np.dtype(spec.dtype), f"{where}.{name}.npy")
        for name, spec in passport.items()
        if f"{name}.npy" in fields
    }
    streams = {}
    for name, array in values.items():
        clock = passport[name].clock
        if clock is None:
            seconds_N = passport[name].seconds(len(array))
        else:
            member = f"{clock}{_TIMES}.npy"
            if member not in fields:
                raise ShardError(f"{where}: {name} is timed by {member}, which is not there")
            seconds_N = _array(fields[member], np.dtype("<f4"), f"{where}.{member}")
        streams[name] = Stream(values_ND=array, seconds_N=seconds_N)
    return streams


def _array(payload: memoryview, expected: np.dtype, where: str) -> np.ndarray:
    """A writable copy of a version-1 npy. The length is checked before anything is allocated."""
    begin = 10 + int.from_bytes(payload[8:10], "little")
    try:
        shape, fortran, dtype = _npy_header(bytes(payload[:begin]))
    except ValueError as error:
        raise ShardError(f"{where} is no npy array: {error}") from error
    size = math.prod(shape) * dtype.itemsize
    if dtype != expected or fortran or size != len(payload) - begin:
        raise ShardError(
            f"{where}: {dtype} {shape} in {len(payload) - begin} bytes is not as written here"
        )
    return np.frombuffer(payload, dtype, offset=begin).reshape(shape).copy()


@functools.lru_cache(maxsize=4096)  # numpy parses it as Python, 50 us; clips of a length share it
def _npy_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and type."""
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not version 1.0")
    return np.lib.format.read_array_header_1_0(file)
