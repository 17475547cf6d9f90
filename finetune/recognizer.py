"""Recognizers: what finetuning learned, in a folder that can be moved and used anywhere.

    recognizer = load_recognizer("runs/mine/finetune/runs/pretrain_prompt/fold0-.../recognizer")
    probabilities_NC = recognizer.predict(samples)      # in the order of recognizer.classes

    recognizer/
        recognizer.json       system, head, classes, prompt, modalities, limits, feature passport,
                              shape of the model, sha256 of the other files and of itself
        model.safetensors     weights of model and head
        tokenizer.json ...    as transformers keeps it
        README.md             its model card

load_recognizer("OWNER/NAME") is one on the Hugging Face hub; python -m finetune.export makes the
folder for it. Nothing is unpickled.
"""

import dataclasses
import hashlib
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from data_pipeline.errors import UserError
from data_pipeline.files.atomic import sync_folder
from data_pipeline.files.hub import HubError, local_folder
from data_pipeline.files.weights import sha256_of
from data_pipeline.schema import ClipSample, Passport, SchemaError, check_passport
from data_pipeline.shards import list_shards, load_passport, read_shard
from finetune.card import Origin, recognizer_card
from finetune.runs.results import write_text
from pretrain.checkpoint.integrity import system_error
from pretrain.runtime import git_commit

if TYPE_CHECKING:
    from finetune.timeline.utterance import Timeline

FORMAT_VERSION = 1
SHIPPED = Path(__file__).parent / "assets/recognizer"
FILE, CARD = "recognizer.json", "README.md"
A_RECOGNIZER = (
    "the folder `recognizer` that finetuning leaves beside each results row, "
    "runs/NAME/runs/SETTING/foldF-seedS-RECIPE/recognizer"
)


class RecognizerError(UserError):
    """A folder that holds no whole recognizer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recognizer(ABC):
    """Clips in, a probability for each class out. N clips, C classes."""

    classes: tuple[str, ...]
    """In the order of the probabilities."""
    passport: Passport
    """Of the streams that it reads."""
    modalities: tuple[str, ...] = ()
    """What it reads: text, and names of streams."""
    folder: Path | None = None
    """Where it was loaded from."""

    @abstractmethod
    def predict(
        self, samples: Sequence[ClipSample], *, passport: Passport | None = None
    ) -> np.ndarray:
        """Probabilities [N, C]; `passport`: by which the samples were made, where it is known."""

    def check(self, samples: Sequence[ClipSample], passport: Passport | None) -> None:
        """Raise SchemaError for clips of other features than it reads: by their passport, where it
        is known, and by what shows in a clip itself, its widths, types and times."""
        if passport is not None:
            mine = {name: spec for name, spec in passport.items() if name in self.passport}
            check_passport(mine, self.passport, "what is to be recognized")
        for sample in samples:
            seen = sample.only(("text", *self.passport))
            if not seen.streams:
                continue
            try:
                seen.check(self.passport)
            except SchemaError as error:
                raise SchemaError(
                    f"{error}; the clip was made by another feature passport than the "
                    "recognizer's: extract it with the settings that recognizer.json names"
                ) from error

    def recognize(self, video: str | Path, **settings: Any) -> "Timeline":
        """Who speaks in `video` from when to when, the words, and an emotion or why none is named.

        settings: those of finetune.timeline.config.PredictConfig but `output`, such as
        `min_confidence=0.5`. Raises UserError for a file that cannot be read.
        """
        from finetune.timeline.run import recognize  # which knows this file

        return recognize(self, video, **settings)

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


def load_recognizer(name: str | Path | None = None, **settings: Any) -> Recognizer:
    """The recognizer in the folder `name`, or of that name on the hub (OWNER/NAME), on the CPU;
    without a name that which ships.

    settings: for the hub, such as revision or token; see `data_pipeline.files.hub.local_folder`.
    Raises RecognizerError where there is none, or a file of it is gone, cut or altered.
    """
    from finetune.systems import system_named  # which know this file

    try:
        folder = SHIPPED if name is None else local_folder(name, A_RECOGNIZER, **settings)
    except HubError as error:
        raise RecognizerError(str(error)) from error
    told = _read(folder)
    for file, expected in told["digests"].items():
        if not (folder / file).is_file():
            raise RecognizerError(f"{folder / file} is gone; {_ANOTHER_COPY}")
        found = sha256_of(folder / file)
        if found != expected:
            raise RecognizerError(
                f"{folder / file} was cut or altered since it was saved (sha256 {found[:12]}, "
                f"expected {expected[:12]}); {_ANOTHER_COPY}"
            )
    try:
        recognizer = system_named(told["system"]).load(folder, told)
    except (LookupError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        raise RecognizerError(
            f"{folder} holds a recognizer of another version of the code: {error}; finetune again, "
            f"or use the code of commit {told.get('git_commit', '')[:12]}"
        ) from error
    modalities = tuple(told.get("modalities", recognizer.passport))
    return dataclasses.replace(recognizer, modalities=modalities, folder=folder)


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
        raise RecognizerError(f"no {FILE} in {folder}; expected {A_RECOGNIZER}") from None
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
