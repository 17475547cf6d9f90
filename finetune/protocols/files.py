"""Fold files: read, check, write."""

import difflib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from data_pipeline.errors import UserError
from data_pipeline.shards import atomic_file
from finetune.protocols.shipped import shipped_file, shipped_names

FORMAT_VERSION = 1
SHOWN = 8  # names in a message
SPLITS = ("train", "dev", "test")
Group = Literal["speaker", "recording", "clip"]
ALLOW = (
    "allow it (--allow-shared-speakers, data.deal.allow_shared_speakers=true, or "
    '"allow_shared_speakers": true in the fold file)'
)
_strict = ConfigDict(extra="forbid")


class ProtocolError(UserError):
    """A fold file that cannot be used, or that does not fit the clips."""


@dataclass(frozen=True, kw_only=True, config=_strict)
class Fold:
    """Units of the three splits: `corpus/speaker`, `corpus/recording`, or clip ids."""

    train: tuple[str, ...]
    dev: tuple[str, ...] = ()
    """May be empty: then the last step is the one reported."""
    test: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, config=_strict)
class Protocol:
    """One way of dividing a corpus."""

    format_version: int = FORMAT_VERSION
    name: str
    version: int = 1
    """Raised whenever the folds change."""
    group: Group
    """What a unit of the folds is, and what must never lie in two splits of one fold."""
    allow_shared_speakers: bool = False
    """True: a speaker may be in training and test. Such results show mechanics, not accuracy."""
    note: str = ""
    folds: tuple[Fold, ...]

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ValueError(f"format version {self.format_version}, this code reads 1")
        if not self.folds:
            raise ValueError("no folds")
        if self.group == "clip" and not self.allow_shared_speakers:
            raise ValueError(
                f"folds of single clips put one speaker into training and test; {ALLOW} if that "
                "is meant, or group by speaker"
            )
        for number, fold in enumerate(self.folds):
            for split in SPLITS:
                units = getattr(fold, split)
                twice = sorted({unit for unit in units if units.count(unit) > 1})
                if twice:
                    raise ValueError(f"fold {number}: {split} lists {some(twice)} twice")
            for a, b in (("train", "dev"), ("train", "test"), ("dev", "test")):
                both = sorted(set(getattr(fold, a)) & set(getattr(fold, b)))
                if both:
                    raise ValueError(
                        f"fold {number}: {self.group} {some(both)} in {a} and in {b}; a unit "
                        "belongs to one split of a fold"
                    )
            if not fold.train or not fold.test:
                empty = "train" if not fold.train else "test"
                raise ValueError(f"fold {number}: {empty} is empty")

    def to_json(self) -> str:
        return TypeAdapter(Protocol).dump_json(self, indent=1).decode() + "\n"

    @property
    def sha256(self) -> str:
        """Digest of what the file says, whatever its layout."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def load_protocol(path: str | Path) -> Protocol:
    """Read a fold file, or one that ships, by its bare name; a file of that name is `./NAME`.

    Raises ProtocolError that says what is wrong with it.
    """
    path = shipped_file(str(path)) or Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ProtocolError(f"no fold file {path}{_other_ways(path)}") from None
    except OSError as error:
        raise ProtocolError(
            f"cannot read the fold file {path}: {error.strerror}; expected the JSON file that "
            "python -m finetune.protocols make writes"
        ) from error
    except ValueError as error:
        raise ProtocolError(f"{path} is not JSON: {error}") from error
    try:
        return TypeAdapter(Protocol).validate_python(data)
    except ValidationError as error:
        raise ProtocolError(f"{path} is no protocol:\n{describe(error)}") from error


def _other_ways(path: Path) -> str:
    """How to come by folds, where `path` is no file: another name, or the command."""
    stem = path.stem.lower()
    near = difflib.get_close_matches(stem, shipped_names(), n=1)
    if near or (path.name == str(path) and not path.suffix):
        (nearest,) = near or difflib.get_close_matches(stem, shipped_names(), n=1, cutoff=0.0)
        return (
            f"; the nearest that ships is {nearest} of {', '.join(shipped_names())} "
            "(python -m finetune.protocols list)"
        )
    return (
        "; make one with python -m finetune.protocols make --shards FOLDER --by speaker --folds 5 "
        f"--output {path}, or take one that ships: python -m finetune.protocols list"
    )


def describe(error: ValidationError) -> str:
    """A line for each thing that is wrong with a protocol."""
    lines = []
    for found in error.errors():
        where = ".".join(map(str, found["loc"]))
        message = found["msg"].removeprefix("Value error, ")
        lines.append(f"  {where}: {message}" if where else f"  {message}")
    return "\n".join(lines)


def save_protocol(protocol: Protocol, path: str | Path) -> None:
    """Write a fold file, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(protocol.to_json().encode())


def some(names: Sequence[str]) -> str:
    """The first few of many names, for a message."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
