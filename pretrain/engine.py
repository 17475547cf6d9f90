"""Forward, backward, step, state: by DeepSpeed, or by plain torch. The same five methods.

    predictions = engine(batch)               # under autocast where the precision says so
    engine.backward(loss, last=...)           # once a micro-batch; losses add up over ranks
    norm = engine.step(learning_rate)         # once a step: reduce, clip, update, zero
    engine.save_state(folder); engine.load_state(folder)

`loss` is this micro-batch's part of the step's loss, its sums divided by the counts of all ranks
and micro-batches, so gradients are *summed* over ranks. DeepSpeed takes means instead, and is given
`loss` times the number of ranks. `norm` is that of the step's gradient over all ranks before it is
clipped, a 0-dim tensor on the device; infinite, or nan, where the gradient is.

Both run torch.optim.AdamW on fp32 weights: DeepSpeed's fused one does not resume exactly.
"""

import contextlib
import datetime
import enum
import functools
import logging
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from data_pipeline.errors import UserError
from pretrain.config import EngineSettings
from pretrain.integrity import way_back
from pretrain.model.memobert import MEmoBert
from pretrain.runtime import Runtime, open_group_of_one


class EngineError(UserError):
    """A training state that does not fit this run."""


class Engine(Protocol):
    model: MEmoBert
    name: str
    """Of the kind of state it saves."""
    elastic: bool
    """Whether its state loads at another number of ranks."""
    state_bytes: int
    """What save_state writes, about, all ranks together."""

    def __call__(self, batch: Any) -> dict[str, torch.Tensor]: ...
    def backward(self, loss: torch.Tensor, last: bool = True) -> None: ...
    def step(self, learning_rate: float) -> torch.Tensor: ...
    def save_state(self, folder: Path) -> None: ...
    def load_state(self, folder: Path) -> None: ...


class TorchEngine:
    """Plain torch: one sum of all gradients over the ranks, no wrapper around the model.

    Not DistributedDataParallel: the heads that a step's objective does not touch have no gradient,
    differently on each rank, and one flat sum is both simpler and exact.
    """

    name = "adamw"
    elastic = True

    def __init__(
        self, model: MEmoBert, optimizer: torch.optim.Optimizer, clip_norm: float, runtime: Runtime
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.runtime = runtime
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.state_bytes = 2 * _bytes_of(self.parameters)  # AdamW's two moments
        if runtime.world_size > 1:
            for tensor in [*model.parameters(), *model.buffers()]:
                dist.broadcast(tensor.detach(), src=0)

    def __call__(self, batch: Any) -> dict[str, torch.Tensor]:
        with self.runtime.autocast():
            return self.model(batch)

    def backward(self, loss: torch.Tensor, last: bool = True) -> None:
        """`last`: of the step's micro-batches."""
        loss.backward()

    def step(self, learning_rate: float) -> torch.Tensor:
        # A weight without gradient counts as zero, as under DeepSpeed: its moments decay.
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        if self.runtime.world_size > 1:
            flat = torch.cat([grad.flatten() for grad in grads])
            dist.all_reduce(flat)
            parts = flat.split([grad.numel() for grad in grads])
            grads = [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)]
        for parameter, grad in zip(self.parameters, grads, strict=True):
            parameter.grad = grad
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        _set_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def save_state(self, folder: Path) -> None:
        _save_adamw(folder, self.optimizer, self.runtime)

    def load_state(self, folder: Path) -> None:
        _load_adamw(folder, self.optimizer)


class DeepSpeedEngine:
    """DeepSpeed at ZeRO stage 0 or 1.

    At stage 0 the state is AdamW's own, in TorchEngine's format, and loads at any number of ranks
    and in either engine. At 1 DeepSpeed writes one file a rank.

    Stages 2 and 3 sum gradients in the order in which backward makes them, and that order differs
    between ranks whose clips ask for other objectives: sums of unequal rows. So they are not here.
    """

    def __init__(
        self,
        model: MEmoBert,
        optimizer: torch.optim.Optimizer,
        clip_norm: float,
        runtime: Runtime,
        *,
        zero_stage: int,
    ) -> None:
        deepspeed = _import_deepspeed(runtime)
        self.model = model
        self.clip_norm = clip_norm
        self.runtime = runtime
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.elastic = zero_stage == 0
        # At stage 1 its files repeat the model, and hold a copy of the weights beside the moments.
        self.state_bytes = (2 if self.elastic else 4) * _bytes_of(self.parameters)
        self.name = "adamw" if self.elastic else f"deepspeed-zero{zero_stage}"
        config = {
            # Asked for, and used for its own log alone: a step has as many micro-batches as its
            # clips need, and `backward` says which is the last.
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            # At stage 0 `step` does it: DeepSpeed's waits for the device, and keeps no norm.
            "gradient_clipping": 0.0 if self.elastic else clip_norm,
            "zero_optimization": {"stage": zero_stage},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 2**31,  # the log is ours
            # Its timer would wait for the device in every micro-batch.
            "timers": {"throughput": {"enabled": False, "synchronized": False}},
            # Autocast as in TorchEngine; with no "safe" module gradients stay fp32 on the wire.
            "torch_autocast": {
                "enabled": runtime.dtype != torch.float32,
                "dtype": str(runtime.dtype).removeprefix("torch."),
                "lower_precision_safe_modules": [],
            },
        }
        with _new_groups_wait(runtime.timeout):
            self.engine, self.optimizer, _, _ = deepspeed.initialize(
                model=model, optimizer=optimizer, dist_init_required=False, config=config
            )

    def __call__(self, batch: Any) -> dict[str, torch.Tensor]:
        return self.engine(batch)

    def backward(self, loss: torch.Tensor, last: bool = True) -> None:
        """`last`: of the step's micro-batches, at which the ranks sum."""
        self.engine.set_gradient_accumulation_boundary(last)
        if not self.elastic:
            # Stage 1 sums whatever gradients a rank has, one after another: let all have all.
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        self.engine.backward(loss * self.runtime.world_size, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> torch.Tensor:
        if not self.engine.is_gradient_accumulation_boundary():
            raise RuntimeError("step() before the backward() of the step's last micro-batch")
        _set_rate(self.optimizer, learning_rate)
        if self.elastic:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
            self.engine.step()
            return norm
        self.engine.step()
        # A plain float("inf") where it passed the step over.
        norm = self.engine.get_global_grad_norm()
        return torch.as_tensor(norm, device=self.runtime.device)

    def save_state(self, folder: Path) -> None:
        if self.elastic:
            _save_adamw(folder, self.optimizer, self.runtime)
            return
        failed: list[OSError] = []

        def save(state_dict: Any, path: str) -> None:
            # Ranks wait for each other inside save_checkpoint: one that fails goes through it all.
            try:
                write_state(_without_enums(state_dict), Path(path))
            except OSError as error:
                failed.append(error)

        self.engine.checkpoint_engine.save = save
        self.engine.save_checkpoint(str(folder), tag=self.name, save_latest=False)
        if failed:
            raise failed[0]

    def load_state(self, folder: Path) -> None:
        if self.elastic:
            _load_adamw(folder, self.optimizer)
        else:
            self.engine.checkpoint_engine.load = _load_tensors_only
            with _own_settings(self.optimizer):
                path, _ = self.engine.load_checkpoint(str(folder), tag=self.name)
            if path is None:
                raise EngineError(f"no training state {self.name} in {folder}")


def build_engine(
    settings: EngineSettings,
    model: MEmoBert,
    optimizer: torch.optim.Optimizer,
    runtime: Runtime,
    *,
    clip_norm: float,
) -> Engine:
    """The engine that the config asks for; `model` is on its device already."""
    if settings.kind == "torch":
        return TorchEngine(model, optimizer, clip_norm, runtime)
    return DeepSpeedEngine(
        model,
        optimizer,
        clip_norm,
        runtime,
        zero_stage=settings.zero_stage,
    )


def _bytes_of(parameters: list[torch.nn.Parameter]) -> int:
    return sum(parameter.nbytes for parameter in parameters)


def _set_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


@contextlib.contextmanager
def _own_settings(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Keeps betas, eps and weight decay of this run while a state is loaded, which brings those of
    the run before: a changed setting holds from the next step on."""
    own = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    yield
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.update(settings)


def _save_adamw(folder: Path, optimizer: torch.optim.Optimizer, runtime: Runtime) -> None:
    if runtime.is_main:
        write_state(optimizer.state_dict(), folder / "adamw.pt")


def _load_adamw(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    path = folder / "adamw.pt"
    if not path.is_file():
        raise EngineError(
            f"no {path}: this training state was saved at a ZeRO stage above 0; set "
            "engine.kind=deepspeed and engine.zero_stage as they were"
        )
    with _own_settings(optimizer):
        optimizer.load_state_dict(read_state(path))


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


def _without_enums(state: Any) -> Any:
    """Members of enumerations as their values: Python up to 3.11.3 pickles one as a call of
    getattr, which nobody should allow a file to make."""
    if isinstance(state, enum.Enum):
        return state.value
    if isinstance(state, dict):
        return {key: _without_enums(value) for key, value in state.items()}
    if type(state) in (list, tuple):
        return type(state)(map(_without_enums, state))
    return state


def _load_tensors_only(path: str, map_location: Any = None) -> Any:
    """In place of DeepSpeed's own torch.load, which unpickles anything: tensors, plain values and
    the three small classes that its files hold."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
        return read_state(Path(path))


@contextlib.contextmanager
def _new_groups_wait(timeout: datetime.timedelta) -> Iterator[None]:
    """For its duration a process group waits no longer than `timeout`, unless told otherwise.

    DeepSpeed sums gradients in a group of its own and can be told no timeout for it; torch then
    takes 10 minutes for NCCL and 30 for gloo, whatever the group of all ranks was given.
    """
    new_group = dist.new_group
    dist.new_group = functools.partial(new_group, timeout=timeout)
    try:
        yield
    finally:
        dist.new_group = new_group


def _import_deepspeed(runtime: Runtime) -> Any:
    """deepspeed, set up for this device and this kind of start."""
    if not dist.is_initialized():
        open_group_of_one(runtime.device)
    os.environ["LOCAL_RANK"] = str(runtime.local_rank)  # it asks, even for one process
    if runtime.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed
    from deepspeed import ops

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if runtime.device.type == "cpu":
        # Its shared-memory collective is compiled at first use (35 s) and gains nothing here. The
        # table is private, so look before touching it.
        table = getattr(ops, "__compatible_ops__", None)
        if isinstance(table, dict) and "deepspeed_shm_comm" in table:
            table["deepspeed_shm_comm"] = False
            runtime.log.info("DeepSpeed: gloo collectives, its shared-memory op is not compiled")
        else:
            runtime.log.info("DeepSpeed may now compile its shared-memory op, once")
    return deepspeed
