"""Ranks of a Slurm step: `srun python -m pretrain.cli ...` needs no launcher of its own.

One task is one rank. What `deepspeed` and `torchrun` would set is made of what srun sets; whoever
started this process and set RANK himself is left alone.
"""

import os
import re

FIRST_PORT, NUM_PORTS = 20_000, 12_000
"""Below the ports that Linux gives to connections (32,768 and up)."""


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
        raise ValueError(f"SLURM_STEP_NODELIST is {nodes!r}; expected nodes, such as n[1-2]")
    return "".join(filter(None, match.groups()))
