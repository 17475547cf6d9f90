"""Pretraining from the command line: parse, then build and run.

deepspeed launch/pretrain.sh --config configs/pretrain/tiny.yaml optim.steps=200
python -m pretrain.cli --config configs/pretrain/tiny.yaml engine.kind=torch
"""

import os
import sys
import time

from data_pipeline.command_line import config_from_command_line
from data_pipeline.config import ConfigError
from pretrain.config import PretrainConfig

OTHER_RANKS_SECONDS = 5.0
"""The launcher looks once a second whether a rank has ended."""


def main(argv: list[str] | None = None) -> int:
    """Run one pretraining; 0 when it came to its end, 2 when the user has to change something."""
    try:
        config = config_from_command_line(
            PretrainConfig,
            argv,
            command="deepspeed launch/pretrain.sh",
            about="Pretrain MEmoBERT on feature shards. `bash` in place of `deepspeed` works too;\n"
            "without a launcher: python -m pretrain.cli.",
            example="deepspeed launch/pretrain.sh --config configs/pretrain/tiny.yaml \\\n"
            "      data.shards=[runs/mine] run.output=runs/pretrain optim.steps=200",
        )
    except ConfigError as error:
        return _fail(error)
    # Torch takes seconds: help, and a slip in the config, are told before.
    from pretrain.run import USER_ERRORS, pretrain
    from pretrain.runtime import start

    try:
        runtime = start(config.run)
        pretrain(config, runtime)
        runtime.finish()
    except USER_ERRORS as error:
        return _fail(error)
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # Ctrl-C reaches all of them
            _tell("interrupted; the same command goes on from the last checkpoint")
        return 130
    return 0


def _fail(error: Exception) -> int:
    _tell(f"error: {error}")
    return 2


def _tell(message: str) -> None:
    """Rank 0 tells it. What only another rank has met is told a little later: when rank 0 has met
    it too, the launcher ends the others before that."""
    rank, who = os.environ.get("RANK", "0"), ""
    if rank != "0":
        time.sleep(OTHER_RANKS_SECONDS)
        who = f"[rank {rank}] "
    sys.stderr.write(f"{who}{message}\n")  # in one piece, whatever other ranks write
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
