"""The checkpoints of a run: folders that transformers' users know, each with its training state.

    runs/tiny/checkpoints/
        latest                  the name of the newest whole checkpoint: "step-000200"
        step-000200/
            config.json  model.safetensors      MEmoBert.from_pretrained(folder)
            README.md                           its model card, see pretrain.checkpoint.card
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

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from data_pipeline.files.atomic import atomic_file, sync_folder
from data_pipeline.schema import Passport
from pretrain.checkpoint.card import held_out_losses
from pretrain.checkpoint.folder import read_json, read_latest, save_checkpoint, write_json
from pretrain.checkpoint.generators import random_state, set_random_state
from pretrain.checkpoint.integrity import (
    WEIGHTS,
    CheckpointError,
    check_whole,
    step_of,
    system_error,
    way_back,
    write_digests,
)
from pretrain.config import PretrainConfig
from pretrain.data.seen import SeenClips
from pretrain.engine.protocol import Engine
from pretrain.engine.state import read_state, write_state
from pretrain.model.memobert import WeightsMismatch
from pretrain.runtime import LaunchError, Runtime

LATER = {"meter", "owes_validation"}
"""Of the progress, what older checkpoints lack."""


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
        write_json(path, asdict(self.progress) | {"world_size": self.world_size})

    @classmethod
    def read(cls, path: Path) -> "_Saved":
        found = read_json(path)
        found = dict(found) if isinstance(found, dict) else {}
        names = [f.name for f in fields(Progress) if f.name in found or f.name not in LATER]
        if missing := {*names, "world_size"} - found.keys():
            lacks = ", ".join(sorted(missing))
            raise CheckpointError(f"{path} lacks {lacks}, cut or altered; {way_back(path)}")
        progress = Progress(**{name: found[name] for name in names})
        return cls(progress=progress, world_size=found["world_size"])


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


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
