"""Settings of the components, free of torch: a slip in a config is told before anything loads."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """Of a process."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1234
    """Fixes initialisation, order of clips, masks and dropout."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a GPU."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the matrix products; weights and optimizer are fp32 always. auto: bf16 on CUDA."""
    deterministic: bool = False
    """True: on a GPU too, kernels that add up in one order, so that two runs, or one that goes on
    from a checkpoint, can agree to the bit; slower. An operation without such a kernel ends the
    run. CPU runs do so anyway."""
    num_threads: NonNegativeInt = 0
    """CPU threads of a process; 0 leaves it to OMP_NUM_THREADS, or to torch."""
    timeout_minutes: Annotated[float, Field(gt=0, lt=1e6)] = 30.0
    """A rank that waits longer than this for another one gives up, and the run ends. It holds for
    every sum over the ranks, DeepSpeed's too."""
