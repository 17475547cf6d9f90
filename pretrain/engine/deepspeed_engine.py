"""DeepSpeed at ZeRO stages 0 to 3: what each rank keeps of the optimizer (1), the gradients (2) and
the weights (3) is its share alone."""

import contextlib
import datetime
import functools
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pretrain.engine.passes import alike
from pretrain.engine.state import ADAMW, load_adamw, read_moments, write_state
from pretrain.model.batch import AnyBatch
from pretrain.model.memobert import MEmoBert
from pretrain.optim import set_learning_rate
from pretrain.runtime import Runtime, open_group_of_one

BUCKET = 2**25
"""Numbers that are sent at once, 134 MB: a third of BERT's base size, its word embeddings whole."""


class DeepSpeedEngine:
    """DeepSpeed's engine around the model and AdamW.

    At stage 0 no step waits for the device. Above it DeepSpeed does by itself: for the gradient's
    norm, to pass over a step where it is not finite; and at the end of a backward pass, for the
    sums that overlap it.
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
        from pretrain.engine import zero  # which imports DeepSpeed, too

        self.zero = zero
        self.model = model
        self.clip_norm = clip_norm
        self.runtime = runtime
        self.zero_stage = zero_stage
        # Before DeepSpeed puts its own in the place of the optimizer's.
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.checkpoint_bytes = 3 * sum(p.nbytes for p in self.parameters)
        with _new_groups_wait(runtime.timeout):
            self.engine, self.optimizer, _, _ = deepspeed.initialize(
                model=model,
                optimizer=optimizer,
                dist_init_required=False,
                config=deepspeed_config(zero_stage, clip_norm, runtime),
            )

    def passes(self, batches: Sequence[AnyBatch], objectives: Iterable[str]) -> list[AnyBatch]:
        if self.zero_stage == 0:
            return list(batches)
        most = torch.tensor(len(batches))
        if self.zero_stage > 1:  # which send something in every pass
            self.runtime.max_over_ranks(most)
        return alike(batches, int(most), self.model, objectives)

    def __call__(self, batch: AnyBatch) -> dict[str, torch.Tensor]:
        return self.engine(batch)

    def backward(self, loss: torch.Tensor, last: bool = True) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss * self.runtime.world_size, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> torch.Tensor:
        if not self.engine.is_gradient_accumulation_boundary():
            raise RuntimeError("step() before the backward() of the step's last micro-batch")
        set_learning_rate(self.optimizer, learning_rate)
        if self.zero_stage == 0:
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
            self.engine.step()
            return norm
        self.engine.step()
        # A plain float("inf") where it passed the step over.
        norm = self.engine.get_global_grad_norm()
        return torch.as_tensor(norm, dtype=torch.float32, device=self.runtime.device)

    def whole_model(self) -> MEmoBert:
        if self.zero_stage < 3:
            return self.model
        return self.zero.whole_copy(self.model)

    def load_weights(self, tensors: dict[str, torch.Tensor], where: str) -> None:
        if self.zero_stage == 0:
            self.model.load_weights(tensors, where)
        else:
            self.zero.set_weights(self.model, tensors, where)

    def save_state(self, folder: Path) -> None:
        if self.zero_stage == 0:
            state = self.optimizer.state_dict()
        else:
            keep = self.runtime.is_main
            state = {"state": self.zero.gather_moments(self.optimizer, self.parameters, keep)}
        if self.runtime.is_main:
            write_state(state, folder / ADAMW)

    def load_state(self, folder: Path) -> None:
        if self.zero_stage == 0:
            load_adamw(folder, self.optimizer)
        else:
            self.zero.set_moments(self.optimizer, self.parameters, read_moments(folder))


def deepspeed_config(zero_stage: int, clip_norm: float, runtime: Runtime) -> dict[str, Any]:
    """What DeepSpeed is told."""
    return {
        # Asked for, and used for its own log alone: a step has as many micro-batches as its
        # clips need, and `backward` says which is the last.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # At stage 0 `step` does it: DeepSpeed's waits for the device, and keeps no norm.
        "gradient_clipping": clip_norm if zero_stage else 0.0,
        "zero_optimization": {
            "stage": zero_stage,
            # Sums while backward goes on, on a stream of its own, which a CPU has not; by pieces
            # of the model, for which it keeps one buffer, or two (its default would take 4 GB).
            "overlap_comm": zero_stage > 0 and runtime.device.type == "cuda",
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
        },
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
    # Of names that torch is about to change, which DeepSpeed calls.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.", FutureWarning)
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
