"""The files of a training state: written whole or not at all, read without unpickling."""

import pickle
from pathlib import Path
from typing import Any

import torch

from data_pipeline.errors import UserError
from pretrain.checkpoint.integrity import way_back

ADAMW = "adamw.pt"
"""As torch.optim.AdamW.state_dict() has it: {"state": {number of a weight: {"step", "exp_avg",
"exp_avg_sq"}}, ...}, weights counted through the optimizer's groups."""


class EngineError(UserError):
    """A training state that does not fit this run."""


def load_adamw(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """The moments and the number of steps. Betas, eps and weight decay stay those of this run, and
    so does the kernel: a changed setting holds from the next step on."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": read_moments(folder), "param_groups": groups})


def read_moments(folder: Path) -> dict[int, dict[str, torch.Tensor]]:
    """Number of a weight to its step, exp_avg and exp_avg_sq."""
    path = folder / ADAMW
    if not path.is_file():
        raise EngineError(
            f"no {path}: a training state of a former version of the code, saved at a ZeRO stage "
            "above 0; go on with the code of the commit that provenance.json names, or use another "
            "run.output"
        )
    return read_state(path)["state"]


def write_state(state: Any, path: Path) -> None:
    """torch.save, whose own error for a full disk speaks of the positions of a stream.

    Raises OSError with the system's words and the path.
    """
    try:
        with open(path, "wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


def read_state(path: Path) -> Any:
    """What write_state wrote to `path` below a checkpoint's state/, on the CPU, nothing unpickled.

    Raises EngineError when it is cut or altered.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        why = (str(error).splitlines() or [""])[0]
        raise EngineError(
            f"cannot read {path}, cut or altered: {type(error).__name__} {why}; {way_back(path)}"
        ) from error
