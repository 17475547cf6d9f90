"""What Slurm says of a job, for all three stages: its share of an array, its ranks in a step.

`sbatch --array=0-7` starts eight tasks that know their number; `srun` in a job of several nodes
starts one process a task, and of those a task is a rank. Whoever set RANK himself is left alone.
"""

import os
import re
from dataclasses import dataclass

from data_pipeline.errors import UserError

FIRST_PORT, NUM_PORTS = 20_000, 12_000
"""Below the ports that Linux gives to connections (32,768 and up)."""


class SlurmError(UserError):
    """A Slurm job that is not what the command was told it is in."""


@dataclass(frozen=True, kw_only=True)
class ArraySettings:
    """Which share of the work this process does, as one of an array of jobs."""

    index: int = 0
    """Which of the jobs this is."""
    count: int = 1
    """How many jobs there are."""
    slurm: bool = False
    """True: take both from the Slurm array that this process is a task of."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"array.index={self.index} of array.count={self.count}: the index runs from 0 to "
                "count - 1"
            )
        if self.slurm and (self.index, self.count) != (0, 1):
            raise ValueError("array.slurm=true takes the place of array.index and array.count")

    def share(self) -> tuple[int, int]:
        """(index, count). Raises SlurmError with `slurm` outside of an array that can be shared."""
        return share_of_array() if self.slurm else (self.index, self.count)


def share_of_array() -> tuple[int, int]:
    """Which of how many tasks of a Slurm array this is, counted from 0. Raises SlurmError.

    Shares are counted from the first task to the last: a hole among them would be left undone.
    """
    told = os.environ
    if "SLURM_ARRAY_TASK_ID" not in told:
        raise SlurmError(
            "array.slurm=true outside of a Slurm array; submit with sbatch --array=0-7, or give "
            "array.index and array.count"
        )
    count = int(told["SLURM_ARRAY_TASK_COUNT"])
    task, first, last, step = (
        int(told.get(f"SLURM_ARRAY_TASK_{name}", default))
        for name, default in (("ID", "0"), ("MIN", "0"), ("MAX", count - 1), ("STEP", "1"))
    )
    if (last - first) // step + 1 != count or (task - first) % step:
        raise SlurmError(
            f"the {count} tasks of this array have holes between them; use a contiguous range, "
            "such as --array=0-7. What is done already is not done again"
        )
    return (task - first) // step, count


def take_ranks_of_step() -> None:
    """Put RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT into the environment, inside a
    step of several tasks that has no RANK yet."""
    told = os.environ
    if "RANK" in told or num_step_tasks() < 2:
        return
    step = int(told["SLURM_JOB_ID"]) + int(told["SLURM_STEP_ID"])  # as good as unique on a node
    told.setdefault("MASTER_ADDR", first_host(told["SLURM_STEP_NODELIST"]))
    told.setdefault("MASTER_PORT", str(FIRST_PORT + step % NUM_PORTS))
    told["LOCAL_RANK"] = told["SLURM_LOCALID"]
    told["WORLD_SIZE"] = told["SLURM_STEP_NUM_TASKS"]
    told["RANK"] = told["SLURM_PROCID"]


def num_step_tasks() -> int:
    """Tasks of the step that this process is one of; 0 outside of steps, as in a batch script."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 0)) if "SLURM_STEP_ID" in os.environ else 0


def first_host(nodes: str) -> str:
    """Of a list as Slurm writes it: `gpu[07-09,12].lab,cpu1` begins with gpu07.lab."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", nodes)
    if match is None:
        raise SlurmError(f"SLURM_STEP_NODELIST is {nodes!r}; expected nodes, such as n[1-2]")
    return "".join(filter(None, match.groups()))
