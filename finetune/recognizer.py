"""Recognizers: what finetuning learned, in a folder that can be moved and used anywhere.

    recognizer = load_recognizer("runs/mine/finetune/runs/pretrain_prompt/fold0-.../recognizer")
    probabilities_NC = recognizer.predict(samples)      # in the order of recognizer.classes

    recognizer/
        recognizer.json       system, head, classes, prompt, modalities, limits, feature passport,
                              shape of the model, sha256 of the other files and of itself
        model.safetensors     weights of model and head
        tokenizer.json ...    as transformers keeps it
        README.md             its model card

Nothing is unpickled.
"""

import hashlib
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from data_pipeline.errors import UserError
from data_pipeline.files.atomic import sync_folder
from data_pipeline.files.weights import sha256_of
from data_pipeline.schema import ClipSample, Passport, check_passport
from data_pipeline.shards import list_shards, load_passport, read_shard
from finetune.card import Origin, recognizer_card
from finetune.results import write_text
from pretrain.integrity import system_error
from pretrain.runtime import git_commit

FORMAT_VERSION = 1
FILE, CARD = "recognizer.json", "README.md"


class RecognizerError(UserError):
    """A folder that holds no whole recognizer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recognizer(ABC):
    """Clips in, a probability for each class out. N clips, C classes."""

    classes: tuple[str, ...]
    """In the order of the probabilities."""
    passport: Passport
    """Of the streams that it reads."""

    @abstractmethod
    def predict(
        self, samples: Sequence[ClipSample], *, passport: Passport | None = None
    ) -> np.ndarray:
        """Probabilities [N, C]; `passport`: by which the samples were made, where it is known."""

    def read(self, folder: str | Path) -> Iterator[ClipSample]:
        """The clips of a shard folder with the streams that it reads.

        Raises SchemaError for clips of other features than the model's.
        """
        streams = tuple(self.passport)
        check_passport(load_passport(folder, streams), self.passport, str(folder))
        for tar in list_shards(folder):
            yield from read_shard(tar, streams=streams)


def told_of(folder: str | Path) -> dict[str, Any]:
    """What recognizer.json says: system, head, classes, modalities, passport and what the system
    added. Raises RecognizerError."""
    return _read(Path(folder))


def load_recognizer(folder: str | Path) -> Recognizer:
    """The recognizer in `folder`, on the CPU.

    Raises RecognizerError where there is none, or a file of it is gone, cut or altered.
    """
    from finetune.systems import system_named  # which know this file

    folder = Path(folder)
    told = _read(folder)
    for name, expected in told["digests"].items():
        if not (folder / name).is_file():
            raise RecognizerError(f"{folder / name} is gone; {_ANOTHER_COPY}")
        found = sha256_of(folder / name)
        if found != expected:
            raise RecognizerError(
                f"{folder / name} was cut or altered since it was saved (sha256 {found[:12]}, "
                f"expected {expected[:12]}); {_ANOTHER_COPY}"
            )
    try:
        return system_named(told["system"]).load(folder, told)
    except (LookupError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        raise RecognizerError(
            f"{folder} holds a recognizer of another version of the code: {error}; finetune again, "
            f"or use the code of commit {told.get('git_commit', '')[:12]}"
        ) from error


def write_recognizer(folder: Path, told: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Make `folder`, whole or not at all: the files that `write(folder)` leaves, and what is `told`
    of them, which names the system that can load it."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a run that was killed
    temporary.mkdir(parents=True)
    try:
        write(temporary)
    except Exception as error:  # libraries in Rust have no OSError for a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        why = system_error(error)
        if why is None:
            raise
        raise RecognizerError(
            f"cannot save {folder}: {why}; make room, or use save_recognizers=false: the same "
            "command then does what is missing"
        ) from error
    told = {
        "format_version": FORMAT_VERSION,
        **told,
        "git_commit": git_commit(),
        "digests": {path.name: sha256_of(path) for path in sorted(temporary.iterdir())},
    }
    told = json.loads(json.dumps(told))  # as it will be read: lists, no tuples
    told["sha256"] = _digest(told)
    text = json.dumps(told, indent=1, ensure_ascii=False) + "\n"
    (temporary / FILE).write_text(text, encoding="utf-8")
    (temporary / CARD).write_text(recognizer_card(told), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    sync_folder(folder.parent)


def write_card(folder: Path, origin: Origin) -> None:
    """Tell in the card of the recognizer in `folder` of which run it is."""
    write_text(folder / CARD, recognizer_card(told_of(folder), origin))


_ANOTHER_COPY = "copy the folder again from where it was made"


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RecognizerError(
            f"no {FILE} in {folder}; expected the folder `recognizer` that finetuning leaves "
            "beside each results row, runs/NAME/runs/SETTING/foldF-seedS-RECIPE/recognizer"
        ) from None
    except (OSError, ValueError) as error:
        raise RecognizerError(f"cannot read {path}: {error}; {_ANOTHER_COPY}") from error
    if not isinstance(told, dict) or told.get("sha256") != _digest(told):
        raise RecognizerError(f"{path} was cut or altered since it was saved; {_ANOTHER_COPY}")
    if told["format_version"] != FORMAT_VERSION:
        raise RecognizerError(
            f"{path} has format version {told['format_version']}, this code reads "
            f"{FORMAT_VERSION}; finetune again"
        )
    return told


def _digest(told: dict[str, Any]) -> str:
    text = json.dumps({k: v for k, v in told.items() if k != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
