"""Whether a checkpoint still holds what was saved, and the way back when it does not."""

import json
import re
from pathlib import Path

from data_pipeline.weights import sha256_of

DIGESTS = "digests.json"


class CheckpointError(ValueError):
    """A checkpoint that is not whole, not there, or of another run."""


def write_digests(folder: Path) -> None:
    """Write the sha256 of every file below `folder` into its digests.json."""
    digests = {name: sha256_of(folder / name) for name in _names(folder)}
    text = json.dumps(digests, indent=1, sort_keys=True) + "\n"
    (folder / DIGESTS).write_text(text, encoding="utf-8")


def check_digests(folder: Path) -> bool:
    """Compare the files of `folder` with its digests.json; False where it has none.

    A byte that flipped on the disk is a number like any other to who reads it, so only this tells.
    Raises CheckpointError, which names the first file that is gone, cut or altered.
    """
    path = folder / DIGESTS
    if not path.is_file():
        return False
    try:
        digests = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; {way_back(path)}") from error
    present = _names(folder)
    for name, expected in digests.items():
        if name not in present:
            raise CheckpointError(f"{folder / name} is gone; {way_back(path)}")
        found = sha256_of(folder / name)
        if found != expected:
            raise CheckpointError(
                f"{folder / name} was cut or altered since it was saved (sha256 {found[:12]}, "
                f"expected {str(expected)[:12]}); {way_back(path)}"
            )
    return True


def way_back(path: Path) -> str:
    """What to do about a checkpoint, `path` or a file in it, that cannot be gone on from."""
    folder = next((p for p in (path, *path.parents) if step_of(p) is not None), path)
    latest = folder.parent / "latest"
    steps = {step_of(p): p.name for p in folder.parent.glob("step-*") if step_of(p) is not None}
    older = [step for step in steps if step < (step_of(folder) or 0)]
    if not older:
        return f"there is no older checkpoint: remove {latest} to start anew"
    return (
        f"write the name of an older checkpoint ({steps[max(older)]}) into {latest}, or remove "
        "that file to start anew"
    )


def step_of(path: Path) -> int | None:
    """2000 of .../step-002000; None for another name."""
    found = re.fullmatch(r"step-(\d+)", path.name)
    return int(found[1]) if found else None


def _names(folder: Path) -> set[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in files} - {DIGESTS}
