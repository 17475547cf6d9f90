"""What one rank finds on its node, as plain data that can be sent and compared."""

import dataclasses
import hashlib
import json
import os
import platform
import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch

from data_pipeline.errors import UserError
from data_pipeline.files.weights import sha256_of
from data_pipeline.schema import Passport, passport_to_json
from data_pipeline.shards import list_shards, read_shard
from pretrain.config import PretrainConfig
from pretrain.data.manifests import Manifests
from pretrain.runtime import git_commit, gpu_index

Result = TypeVar("Result")
LIBRARIES = ("deepspeed", "transformers", "webdataset")
DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What one rank found. Where a look failed, its value is None and its error is told."""

    rank: int
    local_rank: int
    host: str
    launcher: str
    num_gpus: int
    """That this process sees; 0 on the CPU."""
    gpu: str = ""
    """Name of its own; empty without one."""
    versions: dict[str, str]
    commit: str
    cores: int
    memory_bytes: int
    output: str
    """run.output, absolute."""
    output_free: int | None = None
    """Bytes, at its nearest folder that is there."""
    shards_free: int | None = None
    """Bytes, the least of the folders of shards."""
    shards: dict[str, list[Any]] | None = None
    """Folder to [number of shards, digest of all names, sizes and manifests]."""
    clips: list[int] | None = None
    """[shards, clips] to train on, without those held out."""
    tar: list[Any] | None = None
    """[path, bytes, seconds] of the tar that was read whole."""
    passport: str | None = None
    """Digest of the streams' passport."""
    weights: int | None = None
    """Numbers in the model."""
    checkpoint: list[Any] | None = None
    """[name, digest, bytes, changed settings]; the name is "" where there is none yet."""
    holder: str = ""
    """The run that holds the output now."""
    errors: dict[str, str] = field(default_factory=dict)
    """Name of a field above to what went wrong."""


def look(config: PretrainConfig, *, rank: int, local_rank: int, host: str, launcher: str) -> Facts:
    """Everything above, as this rank sees it; nothing is written."""
    errors: dict[str, str] = {}

    def told(name: str, work: Callable[[], Result]) -> Result | None:
        try:
            return work()
        except UserError as error:
            errors[name] = str(error)
        except Exception as error:  # whatever keeps a node from training is the finding
            errors[name] = f"{type(error).__name__}: {error}"
        return None

    folders = [*config.data.shards, *config.data.validation_shards]
    output = Path(config.run.output).absolute()
    found: dict[str, Any] = {"shards": told("shards", lambda: shards_seen(folders))}
    if found["shards"] is not None:
        found["shards_free"] = told("shards_free", lambda: min(map(_free, folders)))
        manifests = told("passport", lambda: _manifests(config))
        passport = None
        if manifests is not None:
            passport = told("passport", lambda: _passport(config, manifests))
            found["clips"] = told("clips", lambda: _clips(config, manifests))
            found["tar"] = told("tar", lambda: read_one_tar(folders, set(passport or {})))
        found["checkpoint"] = told("checkpoint", lambda: checkpoint_seen(config, passport))
        if passport is not None:
            found["passport"] = _digest(passport_to_json(passport))
            found["weights"] = told("weights", lambda: num_weights(config, passport))
    found["output_free"] = told("output_free", lambda: _free(nearest(output)))
    found["holder"] = told("output", lambda: _holder(output)) or ""
    num_gpus = torch.cuda.device_count() if config.run.device != "cpu" else 0
    index = gpu_index(local_rank, num_gpus)
    if index < num_gpus:
        found["gpu"] = told("gpu", lambda: torch.cuda.get_device_name(index)) or ""
    return Facts(
        rank=rank,
        local_rank=local_rank,
        host=host,
        launcher=launcher,
        num_gpus=num_gpus,
        versions=versions(),
        commit=git_commit(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        output=str(output),
        **found,
        errors=errors,
    )


def to_json(facts: Facts) -> dict[str, Any]:
    return dataclasses.asdict(facts)


def nearest(folder: Path) -> Path:
    """`folder`, or the folder above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def versions() -> dict[str, str]:
    """Library to its version; `absent` of those that are not installed."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if torch.cuda.is_available():
        kernel = re.search(r"\s(\d+\.[\d.]+)\s", DRIVER.read_text()) if DRIVER.is_file() else None
        found["driver"] = kernel[1] if kernel else "unknown"
        found["CUDA"] = torch.version.cuda or "none"
        found["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def shards_seen(folders: list[str]) -> dict[str, list[Any]]:
    """{folder: [shards, digest over name, size and manifest of each tar, added streams' too]}."""
    seen = {}
    for folder in folders:
        tars = list_shards(folder)
        rows = []
        for manifest in sorted(Path(folder).glob("[0-9]" * 6 + "*.json")):
            tar = manifest.with_suffix(".tar")
            rows.append([tar.name, tar.stat().st_size, sha256_of(manifest)])
        seen[folder] = [len(tars), _digest(rows)]
    return seen


def read_one_tar(folders: list[str], streams: set[str]) -> list[Any]:
    """[path, bytes, seconds] of a shard drawn at random, read as training reads it, every byte of
    it compared with its manifest. Raises ShardError."""
    tar = random.SystemRandom().choice([t for folder in folders for t in list_shards(folder)])
    begin = time.perf_counter()
    for _ in read_shard(tar, streams=streams, verify=True):
        pass
    return [str(tar), tar.stat().st_size, time.perf_counter() - begin]


def num_weights(config: PretrainConfig, passport: Passport) -> int:
    """Numbers in the model, which is built without memory; the tokenizer must be there too."""
    from pretrain.build import build_model, build_tokenizer

    build_tokenizer(config.model.text_checkpoint)
    shape = dataclasses.replace(config.model, text_init="none")
    with torch.device("meta"):
        model, _ = build_model(shape, passport)
    return sum(weight.numel() for weight in model.parameters())


def checkpoint_bytes(weights: int) -> int:
    """Of a checkpoint with its training state, about: the weights and AdamW's two moments, all of
    it float32."""
    return 3 * 4 * weights


def checkpoint_seen(config: PretrainConfig, passport: Passport | None) -> list[Any]:
    """[name, digest, bytes, changed settings] of the newest one of run.output, which is whole and
    which this config would go on from; ["", "", 0, []] where there is none.

    Raises CheckpointError, or what tells another passport, model or length.
    """
    from pretrain.checkpoint.folder import read_latest
    from pretrain.checkpoint.integrity import DIGESTS, check_whole, step_of
    from pretrain.run import check_length, check_same_run

    newest = read_latest(Path(config.run.output) / "checkpoints")
    if newest is None:
        return ["", "", 0, []]
    compared = check_whole(newest, resuming=True)
    check_length(config, step_of(newest) or 0, newest)
    changes = check_same_run(config, passport, newest) if passport is not None else []
    size = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    return [newest.name, sha256_of(newest / DIGESTS) if compared else "", size, changes]


def _free(folder: str | Path) -> int:
    return shutil.disk_usage(folder).free


def _manifests(config: PretrainConfig) -> Manifests:
    """As this rank sees them: in a run rank 0 alone reads them, and tells the others."""
    from pretrain.run import shards_manifests

    return shards_manifests(config)


def _passport(config: PretrainConfig, manifests: Manifests) -> Passport:
    from pretrain.build import check_objectives

    check_objectives(config, manifests.passport)
    return manifests.passport


def _clips(config: PretrainConfig, manifests: Manifests) -> list[int]:
    from pretrain.data.survey import survey_manifests

    train = survey_manifests(config.data, manifests).clips.train
    return [len(train), train.num_clips]


def _holder(output: Path) -> str:
    from data_pipeline.paths import check_stage
    from pretrain.output import holder_of

    check_stage(output, "pretraining", "run.output")
    return holder_of(output)


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]
