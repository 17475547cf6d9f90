"""Settings of the components, free of torch: a slip in a config is told before anything loads."""

from dataclasses import dataclass
from typing import Literal

from data_pipeline.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """Of a process."""

    seed: int = 1234
    """Fixes initialisation, order of clips, masks and dropout."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a GPU."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the matrix products; weights and optimizer are fp32 always. auto: bf16 on CUDA."""
    num_threads: int = 0
    """CPU threads of a process; 0 leaves it to OMP_NUM_THREADS, or to torch."""
    timeout_minutes: float = 30.0
    """A rank that waits longer than this for another one gives up, and the run ends. It holds for
    every sum over the ranks, DeepSpeed's too."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}, expected 0 up to 2**63")
        if self.num_threads < 0:
            raise ConfigError(f"num_threads is {self.num_threads}, expected >= 0; 0 sets none")
        if not 0 < self.timeout_minutes < 1e6:
            raise ConfigError(
                f"timeout_minutes is {self.timeout_minutes}, expected above 0, up to a million"
            )
