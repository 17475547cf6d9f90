"""Checkpoints: a folder that transformers' users know, and the training state beside it.

    runs/tiny/checkpoints/
        latest                  the name of the newest whole checkpoint: "step-000200"
        step-000200/
            config.json  model.safetensors      MEmoBert.from_pretrained(folder)
            README.md                           its model card, see pretrain.card
            tokenizer.json ...                  AutoTokenizer.from_pretrained(folder)
            passport.json                       the features it was trained on
            clips.safetensors                   the clips it was trained on, as digests
            pretrain.yaml                       the resolved config
            provenance.json                     step, git commit, digest of the clips, sha256 of
                                                the shards of each folder, versions
            state/                              optimizer, progress.json, rng-RRRRR.pt for each rank
            digests.json                        sha256 of all these files

A checkpoint is written under a temporary name, flushed to the disk, renamed, and then pointed to,
so that a process killed at any moment leaves the one before in force. Nothing is unpickled.
"""

import contextlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data_pipeline.config import dump_config, load_config
from data_pipeline.files.atomic import atomic_file, sync_folder
from data_pipeline.files.hub import HubError, local_folder
from data_pipeline.schema import Passport, passport_from_json, passport_to_json
from pretrain.build import num_pieces
from pretrain.card import held_out_losses, model_card
from pretrain.config import PretrainConfig
from pretrain.data.seen import SeenClips
from pretrain.engine.protocol import Engine
from pretrain.engine.state import read_state, write_state
from pretrain.integrity import (
    DIGESTS,
    WEIGHTS,
    CheckpointError,
    check_whole,
    step_of,
    system_error,
    way_back,
    write_digests,
)
from pretrain.model.memobert import MEmoBert, WeightsMismatch
from pretrain.runtime import LaunchError, Runtime, git_commit

CONFIG_FILE = "pretrain.yaml"
LATER = {"meter", "owes_validation"}
"""Of the progress, what older checkpoints lack."""
A_CHECKPOINT = "the folder of a pretraining run or of a checkpoint"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come, the same for every rank."""

    step: int
    """Optimizer steps done."""
    loader: dict[str, Any]
    """The loader's state, of all ranks together."""
    dropped: dict[str, int]
    """Reason to the number of clips passed over so far."""
    drawn: int
    """Clips drawn so far, those passed over included."""
    meter: dict[str, Any] = field(default_factory=dict)
    """Losses and amounts since the last row of metrics.csv; empty of older checkpoints."""
    owes_validation: bool = False
    """The step's validation was put off, since the run was asked to stop."""


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """state/progress.json: the progress, and by how many ranks it was saved."""

    progress: Progress
    world_size: int

    def write(self, path: Path) -> None:
        _write_json(path, asdict(self.progress) | {"world_size": self.world_size})

    @classmethod
    def read(cls, path: Path) -> "_Saved":
        found = _read_json(path)
        found = dict(found) if isinstance(found, dict) else {}
        names = [f.name for f in fields(Progress) if f.name in found or f.name not in LATER]
        if missing := {*names, "world_size"} - found.keys():
            lacks = ", ".join(sorted(missing))
            raise CheckpointError(f"{path} lacks {lacks}, cut or altered; {way_back(path)}")
        progress = Progress(**{name: found[name] for name in names})
        return cls(progress=progress, world_size=found["world_size"])


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    what: ClassVar[str] = "A MEmoBERT checkpoint"
    model: MEmoBert
    tokenizer: PreTrainedTokenizerBase
    passport: Passport
    config: PretrainConfig | None
    """Of the run that made it; None when the folder holds none."""
    provenance: dict[str, Any]
    """What provenance.json says; empty when the folder holds none."""
    folder: Path


def save_checkpoint(
    folder: str | Path,
    model: MEmoBert,
    tokenizer: PreTrainedTokenizerBase,
    passport: Passport,
    config: Any,
    *,
    provenance: dict[str, Any] | None = None,
    losses: list[tuple[str, float, float]] | None = None,
    seen: SeenClips | None = None,
) -> None:
    """Write what a user needs of a trained model into `folder`; one process calls it.

    losses: for the model card, see pretrain.card.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DIGESTS).unlink(missing_ok=True)  # of what is written over
    provenance = {**(provenance or {}), **_origin()}
    card = model_card(model._hub_mixin_config or {}, passport, config, provenance, losses)
    with _own_storage(model):
        model.save_pretrained(folder, model_card_kwargs={"card": card})
    tokenizer.save_pretrained(str(folder))
    _write_json(folder / "passport.json", passport_to_json(passport))
    (folder / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")
    _write_json(folder / "provenance.json", provenance)
    if seen is not None:
        seen.save(folder)


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """A trained model from its folder, the newest of a run's folder, or by its name on the hub
    (OWNER/NAME); in eval mode, on the CPU.

    Raises CheckpointError when a file is gone, cut or altered, or the weights are not of
    config.json's sizes.
    """
    folder = find_checkpoint(folder)
    try:
        model = MEmoBert.from_pretrained(str(folder))  # checks the files of the folder, all of them
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:  # of other sizes, or settings that there are not
        raise CheckpointError(f"cannot read the model in {folder}: {error}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"cannot read the tokenizer in {folder}: {error}") from error
    pieces, rows = num_pieces(tokenizer), len(model.embeddings.word_embeddings.weight)
    if pieces > rows or pieces <= len(tokenizer.all_special_ids):
        raise CheckpointError(
            f"the tokenizer in {folder} knows {pieces} pieces, the model {rows}; copy the "
            "tokenizer's files again from where the checkpoint was made"
        )
    provenance_path = folder / "provenance.json"
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        passport=read_passport(folder),
        config=read_config(folder) if (folder / CONFIG_FILE).is_file() else None,
        provenance=_read_json(provenance_path) if provenance_path.is_file() else {},
        folder=folder,
    )


def read_config(folder: Path) -> PretrainConfig:
    """The settings of the run that made a checkpoint; of one made when run.trackers was a switch,
    run.tensorboard, too."""

    def with_trackers(saved: dict[str, Any]) -> dict[str, Any]:
        run = dict(saved.get("run") or {})
        if "tensorboard" in run:
            run["trackers"] = ["tensorboard"] if run.pop("tensorboard") else []
        return saved | {"run": run}

    return load_config(PretrainConfig, folder / CONFIG_FILE, [], with_trackers)


def read_passport(folder: Path) -> Passport:
    """The features that a checkpoint was trained on."""
    return passport_from_json(_read_json(folder / "passport.json"))


def find_checkpoint(name: str | Path, **settings: Any) -> Path:
    """`name` itself, or where the `latest` in it or in its checkpoints/ points; one that is no
    folder here is fetched from the hub. settings: see `local_folder`."""
    try:
        folder = local_folder(name, A_CHECKPOINT, **settings)
    except HubError as error:
        raise CheckpointError(str(error)) from error
    for root in (folder, folder / "checkpoints"):
        newest = read_latest(root)
        if newest is not None:
            return newest
    return folder


def read_latest(root: Path) -> Path | None:
    """The checkpoint that `root`/latest names; None when there is no such file."""
    try:
        name = (root / "latest").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    others = sorted(path.name for path in root.glob("step-*"))
    if not re.fullmatch(r"step-\d+", name) or not (root / name).is_dir():
        raise CheckpointError(
            f"{root}/latest names {name!r}, which is not there (there is: "
            f"{', '.join(others) or 'no checkpoint'}); write the name of a whole one into it, or "
            "remove it to start anew"
        )
    return root / name


class CheckpointStore:
    """The checkpoints of one run, with their training state. Every rank calls every method.

    shards_sha256: shard folder -> digests of what it held when the run started; and
    seen: the clips trained on. Both are kept beside each checkpoint, so that its clips are known
    again wherever they are moved to, and under other labels.
    """

    def __init__(
        self,
        root: str | Path,
        keep: int,
        runtime: Runtime,
        shards_sha256: dict[str, list[str]] | None = None,
        seen: SeenClips | None = None,
    ) -> None:
        self.root = Path(root)
        self.keep = keep
        self.runtime = runtime
        self.shards_sha256 = shards_sha256 or {}
        self.seen = seen
        self._checked: Path | None = None

    def save(
        self,
        engine: Engine,
        progress: Progress,
        tokenizer: PreTrainedTokenizerBase,
        passport: Passport,
        config: PretrainConfig,
    ) -> Path:
        """Write step-NNNNNN, point `latest` to it, remove the oldest beyond `keep`.

        Raises CheckpointError when the disk takes no more; `latest` then names the one before.
        """
        step = progress.step
        final = self.root / f"step-{step:06d}"
        temporary = self.root / f".{final.name}.tmp"
        state = temporary / "state"
        is_main, on_every_rank = self.runtime.is_main, self.runtime.on_every_rank

        def write_model() -> None:
            model = engine.whole_model()  # every rank has a part of it
            if is_main:
                shutil.rmtree(temporary, ignore_errors=True)  # left by a run that was killed
                state.mkdir(parents=True)
                provenance = {
                    "step": step,
                    "clips_sha256": progress.loader["clips"],
                    "shards_sha256": self.shards_sha256,
                }
                save_checkpoint(
                    temporary,
                    model,
                    tokenizer,
                    passport,
                    config,
                    provenance=provenance,
                    losses=held_out_losses(self.root.parent / "metrics.csv", step),
                    seen=self.seen,
                )
                saved = _Saved(progress=progress, world_size=self.runtime.world_size)
                saved.write(state / "progress.json")

        def write_training_state() -> None:
            engine.save_state(state)  # ranks may wait for each other in it: all are here, or none
            rng = state / f"rng-{self.runtime.rank:05d}.pt"
            write_state(random_state(self.runtime.device), rng)

        def finish() -> None:
            if is_main:
                write_digests(temporary)
                _sync_tree(temporary)
                shutil.rmtree(final, ignore_errors=True)
                os.rename(temporary, final)
                sync_folder(self.root)
                with atomic_file(self.root / "latest") as file:
                    file.write(f"{final.name}\n".encode())
                self._prune(final)

        try:
            for part in (write_model, write_training_state, finish):
                on_every_rank(lambda part=part: self._written(part, final, engine))
        except (CheckpointError, LaunchError):
            if is_main:
                shutil.rmtree(temporary, ignore_errors=True)  # room for whoever needs it
            raise
        return final

    def _written(self, part: Callable[[], None], final: Path, engine: Engine) -> None:
        """`part()`, with one message for every way in which a library says that a disk is full."""
        try:
            part()
        except Exception as error:
            why = system_error(error)
            if why is None:
                raise
            before = read_latest(self.root)
            on = f"on from {before.name}, which is whole" if before else "from the start"
            raise CheckpointError(
                f"cannot save {final.name} in {self.root}: {why}; a checkpoint takes about "
                f"{_size(engine.checkpoint_bytes)}, and {_size(self._free_bytes())} are free "
                f"there. Make room, or lower run.keep_checkpoints={self.keep}; then the same "
                f"command goes {on}"
            ) from error

    def _free_bytes(self) -> int:
        """Room for a checkpoint: what is free, and what was written of one."""
        folder = next(p for p in (self.root, *self.root.parents, Path()) if p.exists())
        part = sum(p.stat().st_size for p in folder.glob(".step-*.tmp/**/*") if p.is_file())
        return shutil.disk_usage(folder).free + part

    def newest(self) -> Path | None:
        """The checkpoint to go on from, whole as it was saved; None for a new run.

        Raises CheckpointError when a file of it is gone, cut or altered.
        """
        self.runtime.on_main(self._check_newest)
        return read_latest(self.root)

    def _check_newest(self) -> None:
        folder = read_latest(self.root)
        if folder is None or folder == self._checked:
            return
        if not (folder / "state/progress.json").is_file():
            raise CheckpointError(f"{folder} has no training state; {way_back(folder)}")
        if not check_whole(folder, resuming=True):
            self.runtime.log.info(f"{folder} has no digests.json: its files are not compared")
        self._checked = folder

    def load(self, engine: Engine) -> Progress | None:
        """Put the newest checkpoint's state into `engine` and the generators; its progress.

        None when the run has no checkpoint yet. Engine, ZeRO stage and number of ranks may be other
        ones than those that saved it. Raises CheckpointError when it is altered, or of a model of
        another size.
        """
        folder = self.newest()
        if folder is None:
            return None
        state = folder / "state"
        saved = _Saved.read(state / "progress.json")
        try:
            engine.load_weights(load_file(folder / WEIGHTS), WEIGHTS)
        except WeightsMismatch as error:
            raise CheckpointError(f"cannot go on from {folder}: {error}") from error
        engine.load_state(state)
        rng = state / f"rng-{self.runtime.rank:05d}.pt"
        if saved.world_size == self.runtime.world_size:
            set_random_state(read_state(rng), self.runtime.device)
        else:
            self.runtime.log.info(
                f"{folder} was saved by {saved.world_size} ranks, now there are "
                f"{self.runtime.world_size}: same clips, masks and optimizer, dropout drawn anew"
            )
        return saved.progress

    def _prune(self, newest: Path) -> None:
        """Remove the oldest beyond `keep`. Those that lie after `newest` go first: `latest` was
        set back, and they belong to the way that was given up."""
        others = [path for path in self.root.glob("step-*") if path != newest]
        others.sort(key=lambda path: (step_of(path) < step_of(newest), step_of(path)))
        for path in others[: max(0, len(others) - (self.keep - 1))]:
            shutil.rmtree(path)


@contextlib.contextmanager
def _own_storage(model: MEmoBert) -> Iterator[None]:
    """For its duration no two weights share memory: ZeRO keeps them all in one buffer, of which
    safetensors refuses to write a part."""
    parameters = list(model.parameters())
    views = [parameter.data for parameter in parameters]
    try:
        for parameter, view in zip(parameters, views, strict=True):
            if view.untyped_storage().nbytes() != view.nbytes:
                parameter.data = view.clone()
        yield
    finally:
        for parameter, view in zip(parameters, views, strict=True):
            parameter.data = view


def random_state(device: torch.device) -> dict[str, Any]:
    """All generators that this process draws from, as plain values and tensors on the CPU."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on drawing where `random_state` was asked."""
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])


def _origin() -> dict[str, Any]:
    """Where the code is from."""
    names = filter(find_spec, ("torch", "transformers", "deepspeed"))  # the last may be absent
    libraries = {name: version(name) for name in names}
    return {"git_commit": git_commit(), "versions": libraries}


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = f"; {way_back(path)}" if any(map(step_of, path.parents)) else ""
        raise CheckpointError(f"cannot read {path}: {error}{hint}") from error
