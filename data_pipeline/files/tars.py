"""The members of a tar that is in memory.

    for name, payload in tar_members(data): ...

tarfile makes an object of each member and reads every field of its header, 23 us a member; a shard
has five a clip. Where all headers are the plain ones of small files with short names, name and size
alone are looked at, 2 us. A tar with any other header is left to tarfile, so that links, long names
and cut ends are what they are there. Checksums of headers are not compared: a shard is held against
its sha256.
"""

import io
import tarfile
from collections.abc import Iterator

BLOCK = 512


def tar_members(data: bytes) -> Iterator[tuple[str, memoryview | None]]:
    """Name and bytes of each member, in order; None for what is no regular file.

    Raises tarfile.TarError.
    """
    places = plain_places(data)
    if places is None:
        yield from by_tarfile(data)
        return
    view = memoryview(data)
    for name, start, size in places:
        yield name, view[start : start + size]


def by_tarfile(data: bytes) -> Iterator[tuple[str, memoryview | None]]:
    """The plain twin."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            payload = tar.extractfile(member).read() if member.isreg() else None
            yield member.name, None if payload is None else memoryview(payload)


def plain_places(data: bytes) -> list[tuple[str, int, int]] | None:
    """Name, first byte and size of each member; None where a header is not a plain one."""
    places, at, end = [], 0, len(data) - BLOCK
    while at <= end and data[at]:
        # POSIX.1-1988: name 0:100, size 124:136 in octal, type 156, magic 257:263, prefix 345:500.
        if data[at + 156] != ord("0") or data[at + 345] or data[at + 257 : at + 262] != b"ustar":
            return None
        name_end = data.find(b"\0", at, at + 101)
        try:
            size = int(data[at + 124 : at + 135], 8)
            name = data[at:name_end].decode("ascii")
        except ValueError:
            return None
        start = at + BLOCK
        at = start + size + -size % BLOCK
        if name_end < 0 or at > len(data):
            return None
        places.append((name, start, size))
    whole = at <= end and not any(data[at : at + BLOCK])  # a tar ends in empty blocks
    return places if whole else None
