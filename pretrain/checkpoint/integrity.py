"""Whether a checkpoint still holds what was saved, and the way back when it does not."""

import hashlib
import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from data_pipeline.errors import UserError
from data_pipeline.files.weights import sha256_of

DIGESTS = "digests.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""Where the weights lie in several files: which tensor is in which, as transformers writes it."""

OWN_TO_WRITE = {"README.md", DIGESTS}
"""Not compared: a model card is there to be edited."""


class CheckpointError(UserError):
    """A checkpoint that is not whole, not there, or of another run."""


def write_digests(folder: Path) -> None:
    """Write the sha256 of every file below `folder` into its digests.json."""
    digests = {name: sha256_of(folder / name) for name in _names(folder)}
    text = json.dumps(digests, indent=1, sort_keys=True) + "\n"
    (folder / DIGESTS).write_text(text, encoding="utf-8")


def check_whole(folder: Path, *, resuming: bool = False) -> bool:
    """The one check of a checkpoint's files, on every way in; False where no digests can be had.

    A byte that flipped on the disk is a number like any other to who reads it, so only digests
    tell. Without them this finds what is gone or cut.

    resuming: read the training state too. Without it a checkpoint may have left that behind.

    Raises CheckpointError, which names the first file that is gone, cut or altered.
    """
    advice = way_back(folder) if resuming else _another_copy(folder)
    compared = _compare(folder, resuming, advice)
    _read_json(folder / "config.json", advice)
    for path in weight_files(folder, advice):
        try:
            with safe_open(path, framework="pt"):  # compares the file's length with its header
                pass
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"cannot read {path}, cut or altered: {error}; {advice}"
            ) from error
    return compared


def weight_files(folder: Path, advice: str | None = None) -> list[Path]:
    """model.safetensors, or the files that model.safetensors.index.json names.

    Raises CheckpointError when there is neither, or one of them is gone.
    """
    advice = advice or _another_copy(folder)
    index = folder / INDEX
    names = {WEIGHTS}
    if not (folder / WEIGHTS).is_file() and index.is_file():
        weight_map = _read_json(index, advice).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index} has no weight_map, cut or altered; {advice}")
        names = set(map(str, weight_map.values()))
    for name in sorted(names):
        if not (folder / name).is_file():
            raise _missing(folder / name, advice)
    return [folder / name for name in sorted(names)]


def weights_sha256(folder: Path) -> str:
    """Digest of the weights: of their file, or of the digests of their files."""
    digests = [sha256_of(path) for path in weight_files(folder)]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def _compare(folder: Path, resuming: bool, advice: str) -> bool:
    path = folder / DIGESTS
    if not path.is_file():
        return False
    present = _names(folder)
    for name, expected in _read_json(path, advice).items():
        if name in OWN_TO_WRITE or (name.startswith("state/") and not resuming):
            continue
        if name not in present:
            raise CheckpointError(f"{folder / name} is gone; {advice}")
        found = sha256_of(folder / name)
        if found != expected:
            raise CheckpointError(
                f"{folder / name} was cut or altered since it was saved (sha256 {found[:12]}, "
                f"expected {str(expected)[:12]}); {advice}"
            )
    return True


def _read_json(path: Path, advice: str) -> dict[str, object]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _missing(path, advice) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}, cut or altered: {error}; {advice}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds no table of names, cut or altered; {advice}")
    return data


def _missing(path: Path, advice: str) -> CheckpointError:
    return CheckpointError(
        f"no {path.name} in {path.parent}; expected the folder of a whole checkpoint, such as "
        f"runs/NAME/checkpoints/step-000200; {advice}"
    )


def _another_copy(folder: Path) -> str:
    """What to do about a checkpoint that is read but not gone on from."""
    older = _older(folder)
    return "copy the checkpoint again from where it was made" + (
        f", or name the older one, {folder.parent / older}" if older else ""
    )


def way_back(path: Path) -> str:
    """What to do about a checkpoint, `path` or a file in it, that cannot be gone on from."""
    folder = next((p for p in (path, *path.parents) if step_of(p) is not None), path)
    latest, older = folder.parent / "latest", _older(folder)
    if older is None:
        return f"there is no older checkpoint: remove {latest} to start anew"
    return (
        f"write the name of an older checkpoint ({older}) into {latest}, or remove that file to "
        "start anew"
    )


def _older(folder: Path) -> str | None:
    """Name of the checkpoint before `folder`, beside it."""
    steps = {step_of(p): p.name for p in folder.parent.glob("step-*") if step_of(p) is not None}
    older = [step for step in steps if step < (step_of(folder) or 0)]
    return steps[max(older)] if older else None


def system_error(error: BaseException) -> str | None:
    """The system's words ("No space left on device") where it refused to read or write; else None.

    Libraries in Rust (safetensors, tokenizers) have an exception of their own for it.
    """
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}"
    found = re.search(r"([^:]+?) \(os error \d+\)", str(error))
    return found[1].strip() if found else None


def step_of(path: Path) -> int | None:
    """2000 of .../step-002000; None for another name."""
    found = re.fullmatch(r"step-(\d+)", path.name)
    return int(found[1]) if found else None


def _names(folder: Path) -> set[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in files} - OWN_TO_WRITE
