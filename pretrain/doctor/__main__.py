"""Says on one page whether nodes, network, disk, shards and checkpoints will bear a pretraining.

    srun python -m pretrain.doctor --config configs/pretrain/reference.yaml run.output=runs/x
    deepspeed --module pretrain.doctor --config configs/pretrain/tiny.yaml
    python -m pretrain.doctor --config configs/pretrain/tiny.yaml

It is started as the training will be, with the same settings, one process a rank. It trains
nothing, and leaves nothing on the disk: the page is printed alone, since run.output may not be
there yet, or be another run's.
"""

import os
import signal

from data_pipeline.command_line import USER_EXIT, config_from_command_line, run_command
from data_pipeline.slurm import num_step_tasks, take_ranks_of_step
from pretrain.cli import leave, tell
from pretrain.config import PretrainConfig
from pretrain.launcher import follow_launcher

COMMAND = "python -m pretrain.doctor"


def main(argv: list[str] | None = None) -> int:
    """0 where a training can start, 2 where something must be mended first, on every rank."""
    return run_command(_main, argv, name="doctor", tell=tell)


def _main(argv: list[str] | None) -> int:
    launcher = _launcher()
    take_ranks_of_step()
    follow_launcher()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was written is removed
    config = config_from_command_line(
        PretrainConfig,
        argv,
        command=COMMAND,
        about="Checks what a pretraining needs on all nodes, before it starts. Settings and "
        "launcher as for it: srun, torchrun, deepspeed --module, or none.",
        example="srun python -m pretrain.doctor --config configs/pretrain/reference.yaml \\\n"
        "      data.shards=[runs/mine] run.output=runs/pretrain",
    )
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # what it would say is a finding
    from pretrain.doctor.visit import visit  # torch takes seconds

    return USER_EXIT if visit(config, launcher) else 0


def _launcher() -> str:
    """Who started this rank, by what it left in the environment."""
    told = os.environ
    if "RANK" not in told:
        return f"srun (job {told['SLURM_JOB_ID']})" if num_step_tasks() > 1 else "hand"
    if "TORCHELASTIC_RUN_ID" in told:
        return "torchrun"
    return "deepspeed" if "CROSS_SIZE" in told else "RANK in the environment"


if __name__ == "__main__":
    leave(main())
