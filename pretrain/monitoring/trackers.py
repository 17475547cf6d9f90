"""TensorBoard and Weights & Biases, through accelerate's trackers."""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.config import ConfigError
from data_pipeline.files.atomic import atomic_file

WANDB_ID = "wandb.id"
"""In the run's folder: by it a run that goes on is the same one there."""

HELP = {
    "tensorboard": "",
    "wandb": "; run `wandb login`, or set WANDB_MODE=offline and send it later by `wandb sync`",
}


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for one whose package is not installed, or that is named twice."""
    if not names:
        return
    from accelerate.tracking import get_available_trackers  # takes seconds

    if len(set(names)) < len(names):
        raise ConfigError(f"run.trackers={list(names)} names one twice; expected each once")
    there = {str(name) for name in get_available_trackers()}
    if missing := [name for name in names if name not in there]:
        raise ConfigError(
            f"run.trackers={list(names)}, but {' and '.join(missing)} cannot be imported; run "
            f"`python -m pip install {' '.join(missing)}`, or leave it out of run.trackers. "
            "metrics.csv is written always"
        )


def open_trackers(
    names: Sequence[str], folder: Path, last_step: int, config: dict[str, Any]
) -> list[Any]:
    """accelerate's trackers of these names, started; rank 0 alone opens them, and closes each by
    `finish()`. config: what W&B shows beside the run."""
    if not names:
        return []
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS
    from accelerate.utils import patch_environment

    # Its trackers ask accelerate's state who they are, which by itself would join the ranks again
    # and choose a device; told that this process is alone, it opens nothing.
    with patch_environment(local_rank=-1, accelerate_torch_device="cpu"):
        PartialState()
    started = []
    for name in names:
        settings = {"tensorboard": _tensorboard, "wandb": _wandb}[name](folder, last_step, config)
        tracker = LOGGER_TYPE_TO_CLASS[name](**settings)
        try:
            tracker.start()
        except Exception as error:  # each library has its own
            raise ConfigError(f"run.trackers: {name} cannot start: {error}{HELP[name]}") from error
        started.append(tracker)
    return started


def _tensorboard(folder: Path, last_step: int, config: dict[str, Any]) -> dict[str, Any]:
    # What is drawn again is taken back: from a start anew that is step 0 as well.
    purge_step = last_step + 1 if last_step else 0
    return {"run_name": "tensorboard", "logging_dir": str(folder), "purge_step": purge_step}


def _wandb(folder: Path, last_step: int, config: dict[str, Any]) -> dict[str, Any]:
    """Of a run that goes on, W&B passes over the steps that it has already; they are the same."""
    path = folder / WANDB_ID
    if not last_step or not path.exists():
        with atomic_file(path) as file:
            file.write(secrets.token_hex(8).encode())
    return {
        "run_name": os.environ.get("WANDB_PROJECT", "memobert"),  # accelerate's word for a project
        "name": folder.name,
        "id": path.read_text(encoding="utf-8"),
        "resume": "allow",
        "dir": str(folder),
        "config": config,
    }
