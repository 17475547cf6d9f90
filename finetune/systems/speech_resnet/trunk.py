"""A trunk that learned to tell speakers, in a folder of its own.

runs/speakers/
    speakers.yaml  metrics.csv          resolved config; loss, held-out accuracy
    checkpoints/latest                  the name of the newest whole checkpoint
    checkpoints/step-NNNNNN/
        config.json  model.safetensors  shape and speakers; trunk and segment-level layers
        passport.json                   of the stream that it hears
        clips.safetensors               the clips that it learned from, as digests
        provenance.json                 step, git commit, corpora, sha256 of the shards
        README.md                       its model card
        state/                          optimizer
        digests.json                    sha256 of all these files
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file

from data_pipeline.files.atomic import atomic_file, sync_folder
from data_pipeline.schema import Passport, passport_from_json
from finetune.systems.speech_resnet.network import SpeechResNet
from pretrain.checkpoint.folder import find_checkpoint, read_latest
from pretrain.checkpoint.integrity import (
    WEIGHTS,
    CheckpointError,
    check_whole,
    step_of,
    system_error,
    weights_sha256,
    write_digests,
)

KIND = "speech_resnet"
HOW = "python -m finetune.systems.speech_resnet pretrain"
KEPT = 2
"""Checkpoints of a run."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trunk:
    """What the overlap guard and the model card ask of a start (`System.checkpoint`), and the
    weights."""

    what: ClassVar[str] = "The trunk of a speaker identification"
    config: ClassVar[None] = None
    shape: dict[str, Any]
    """Of `SpeechResNet`."""
    weights: dict[str, torch.Tensor]
    passport: Passport
    """Of the one stream that it hears."""
    speakers: tuple[str, ...]
    """Those that it learned to tell, as CORPUS/SPEAKER."""
    provenance: dict[str, Any]
    sha256: str
    """Of the weights."""
    folder: Path

    @classmethod
    def load(cls, name: str | Path) -> "Trunk":
        """The newest checkpoint of a run, or one. Raises CheckpointError."""
        folder = find_checkpoint(name)
        check_whole(folder)
        told = read_json(folder / "config.json")
        if told.get("system") != KIND:
            raise CheckpointError(
                f"{folder} holds no trunk of {KIND} but something else; make one with {HOW}"
            )
        try:
            state = load_file(folder / WEIGHTS)
            weights = {
                name.removeprefix("trunk."): tensor
                for name, tensor in state.items()
                if name.startswith("trunk.")
            }
            trunk = cls(
                shape=told["shape"],
                weights=weights,
                passport=passport_from_json(read_json(folder / "passport.json")),
                speakers=tuple(told["speakers"]),
                provenance=read_json(folder / "provenance.json"),
                sha256=weights_sha256(folder),
                folder=folder,
            )
            trunk.build()
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"{folder} is of another version of the code: {error}") from error
        return trunk

    def build(self) -> SpeechResNet:
        """A network with these weights."""
        network = SpeechResNet(**self.shape)
        network.load_state_dict(self.weights)
        return network


def write_checkpoint(root: Path, step: int, write: Callable[[Path], None]) -> None:
    """Make `root`/step-NNNNNN of the files that `write(folder)` leaves, whole or not at all, point
    `latest` to it, and remove the oldest beyond KEPT. Raises CheckpointError for a full disk."""
    final = root / f"step-{step:06d}"
    temporary = root / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        write_digests(temporary)
    except Exception as error:  # libraries in Rust have no OSError for a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        why = system_error(error)
        if why is None:
            raise
        raise CheckpointError(
            f"cannot save {final}: {why}; make room: the same command then goes on from the "
            "checkpoint before"
        ) from error
    shutil.rmtree(final, ignore_errors=True)
    os.rename(temporary, final)
    sync_folder(root)
    with atomic_file(root / "latest") as file:
        file.write(f"{final.name}\n".encode())
    others = [path for path in root.glob("step-*") if path != final]
    others.sort(key=lambda path: (step_of(path) < step, step_of(path)))
    for path in others[: max(0, len(others) - (KEPT - 1))]:
        shutil.rmtree(path)


def newest_checkpoint(root: Path) -> Path | None:
    """The one to go on from, compared with its digests; None for a new run."""
    folder = read_latest(root)
    if folder is not None:
        check_whole(folder, resuming=True)
    return folder


def read_json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; make it again with {HOW}") from error
    if not isinstance(told, dict):
        raise CheckpointError(f"{path} holds no table of names; make it again with {HOW}")
    return told


def write_json(path: Path, told: dict[str, Any]) -> None:
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
