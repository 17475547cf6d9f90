"""Files that appear whole or not at all."""

import contextlib
import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_pipeline.schema import slug

_MAX_NAME = 40
"""Characters kept of the name: file systems stop at 255 bytes, and a letter may take four."""


def _short_host(name: str) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{slug(name)[:8] or 'host'}-{digest}"


_HOST = _short_host(socket.gethostname())
_TEMPORARY = re.compile(r"\..+\.(?P<host>[^.]+)\.(?P<pid>\d+)\.[0-9a-f]+\.tmp")


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file that appears under `path` whole or not at all.

    It is written under a temporary name in the same folder (leading dot, `.tmp`), flushed to the
    disk, renamed, and the folder is flushed too, so that the name survives a power cut.
    """
    path = Path(path)
    token = f"{_HOST}.{os.getpid()}.{secrets.token_hex(4)}"
    temporary = path.with_name(f".{path.name[:_MAX_NAME]}.{token}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush the names in `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | Path) -> list[Path]:
    """Delete the temporary files that killed processes left in `folder`; return what went.

    One whose process still runs on this machine stays, and so does another machine's for a day:
    that process may be alive.
    """
    removed = []
    for path in Path(folder).glob(".*.tmp"):
        ours = _TEMPORARY.fullmatch(path.name)
        if ours is None:
            continue
        with contextlib.suppress(FileNotFoundError):  # another run here may be quicker
            dead = ours["host"] == _HOST and not _is_running(int(ours["pid"]))
            if dead or time.time() - path.stat().st_mtime > 24 * 3600:
                path.unlink()
                removed.append(path)
    return removed


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
