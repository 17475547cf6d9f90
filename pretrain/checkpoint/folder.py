"""A checkpoint as its users know it: a folder that transformers reads, and what was trained on.

    save_checkpoint(folder, model, tokenizer, passport, config)
    checkpoint = load_checkpoint(folder)       # or a run's folder, or OWNER/NAME on the hub

What else a run keeps in it to go on from is pretrain.checkpoint.store's, which has the list of all
files. Nothing is unpickled.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data_pipeline.config import dump_config, load_config
from data_pipeline.files.hub import HubError, local_folder
from data_pipeline.schema import Passport, passport_from_json, passport_to_json
from pretrain.build import num_pieces
from pretrain.checkpoint.card import model_card
from pretrain.checkpoint.integrity import DIGESTS, CheckpointError, step_of, way_back
from pretrain.config import PretrainConfig
from pretrain.data.seen import SeenClips
from pretrain.model.memobert import MEmoBert
from pretrain.runtime import git_commit

CONFIG_FILE = "pretrain.yaml"
A_CHECKPOINT = "the folder of a pretraining run or of a checkpoint"


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

    losses: for the model card, see pretrain.checkpoint.card.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DIGESTS).unlink(missing_ok=True)  # of what is written over
    provenance = {**(provenance or {}), **_origin()}
    card = model_card(model._hub_mixin_config or {}, passport, config, provenance, losses)
    with _own_storage(model):
        model.save_pretrained(folder, model_card_kwargs={"card": card})
    tokenizer.save_pretrained(str(folder))
    write_json(folder / "passport.json", passport_to_json(passport))
    (folder / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")
    write_json(folder / "provenance.json", provenance)
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
        provenance=read_json(provenance_path) if provenance_path.is_file() else {},
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
    return passport_from_json(read_json(folder / "passport.json"))


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


def _origin() -> dict[str, Any]:
    """Where the code is from."""
    names = filter(find_spec, ("torch", "transformers", "deepspeed"))  # the last may be absent
    libraries = {name: version(name) for name in names}
    return {"git_commit": git_commit(), "versions": libraries}


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        hint = f"; {way_back(path)}" if any(map(step_of, path.parents)) else ""
        raise CheckpointError(f"cannot read {path}: {error}{hint}") from error
