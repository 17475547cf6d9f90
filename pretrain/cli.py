"""Pretraining from the command line: parse, then build and run.

deepspeed launch/pretrain.sh --config configs/pretrain/tiny.yaml optim.steps=200
python -m pretrain.cli --config configs/pretrain/tiny.yaml engine.kind=torch
srun python -m pretrain.cli --config configs/pretrain/tiny.yaml     # a task is a rank
"""

import os
import sys
import time

from data_pipeline.command_line import (
    GO_ON_EXIT,
    config_from_command_line,
    leave,
    os_error_text,
    run_command,
)
from data_pipeline.errors import UserError
from data_pipeline.slurm import take_ranks_of_step
from pretrain.config import PretrainConfig
from pretrain.interrupt import GO_ON, answer_signals
from pretrain.launcher import RankLost, ToldByRankZero

OTHER_RANKS_SECONDS = 5.0
"""The launcher looks once a second whether a rank has ended."""


def main(argv: list[str] | None = None) -> int:
    """Run one pretraining; 0 when it came to its end, 75 when it was asked to stop and
    saved, 2 when the user has to change something."""
    return run_command(_main, argv, name="pretrain", go_on=GO_ON, tell=tell)


def _main(argv: list[str] | None) -> int:
    take_ranks_of_step()
    answer_signals()
    config = config_from_command_line(
        PretrainConfig,
        argv,
        command="deepspeed launch/pretrain.sh",
        about="Pretrain MEmoBERT on feature shards. `bash` in place of `deepspeed` works too;\n"
        "without a launcher: python -m pretrain.cli.",
        example="deepspeed launch/pretrain.sh --config configs/pretrain/tiny.yaml \\\n"
        "      data.shards=[runs/mine] run.output=runs/pretrain optim.steps=200",
    )
    # Torch takes seconds: help, and a slip in the config, are told before.
    import torch

    from pretrain.run import pretrain
    from pretrain.runtime import start

    try:
        runtime = start(config.run)
        done = pretrain(config, runtime)
        runtime.finish()
    except OSError as error:
        raise UserError(
            f"{os_error_text(error, config.run.output)}; run.output must be a folder with room "
            "left. The same command goes on from the last checkpoint"
        ) from error
    except torch.OutOfMemoryError as error:
        data, told = config.data, str(error).partition(". ")[0]
        raise UserError(
            f"{told}, in passes of at most {data.micro_batch_clips} clips and "
            f"{data.micro_batch_tokens} tokens: halve data.micro_batch_tokens (data.packing=none: "
            "data.micro_batch_clips), or set engine.activation_checkpointing=true; a step keeps "
            "its clips and its loss. The same command goes on from the last checkpoint"
        ) from error
    return 0 if done else GO_ON_EXIT


def tell(message: str, error: BaseException) -> None:
    """Rank 0 tells it. What only another rank has met is told a little later, one rank after the
    other: when a lower rank has met it too, the launcher ends the others before that. So it does
    with those that merely lost a rank, which has more to tell."""
    rank = os.environ.get("RANK", "0")
    if isinstance(error, KeyboardInterrupt) and rank != "0":
        return  # Ctrl-C reaches all of them
    if isinstance(error, ToldByRankZero):
        time.sleep(OTHER_RANKS_SECONDS)  # the launcher ends rank 0 once another one has ended
        return
    turn = min(int(rank), 12) if rank.isdigit() else 1
    late = isinstance(error, RankLost)
    if turn or late:
        time.sleep(OTHER_RANKS_SECONDS * (turn + late))
    who = f"[rank {rank}] " if rank != "0" else ""
    sys.stderr.write(f"{who}{message}\n")  # in one piece, whatever other ranks write
    sys.stderr.flush()


if __name__ == "__main__":
    leave(main())
