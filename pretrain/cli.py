"""Pretraining from the command line: parse, then build and run.

deepspeed launch/pretrain.sh --config configs/pretrain/tiny.yaml optim.steps=200
python -m pretrain.cli --config configs/pretrain/tiny.yaml engine.kind=torch
"""

import os
import sys
import time
from typing import NoReturn

from data_pipeline.command_line import config_from_command_line
from data_pipeline.config import ConfigError
from pretrain.config import PretrainConfig
from pretrain.interrupt import GO_ON, answer_signals

OTHER_RANKS_SECONDS = 5.0
"""The launcher looks once a second whether a rank has ended."""


def main(argv: list[str] | None = None) -> int:
    """Run one pretraining; 0 when it came to its end, 2 when the user has to change something."""
    answer_signals()
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
    from pretrain.runtime import RankLost, ToldByRankZero, start

    try:
        runtime = start(config.run)
        pretrain(config, runtime)
        runtime.finish()
    except ToldByRankZero:
        time.sleep(OTHER_RANKS_SECONDS)  # the launcher ends rank 0 once another one has ended
        return 2
    except USER_ERRORS as error:
        return _fail(error, late=isinstance(error, RankLost))
    except OSError as error:
        where = error.filename or config.run.output
        _tell(
            f"error: cannot read or write {where}: {error.strerror or error}; run.output must be a "
            "folder with room left. The same command goes on from the last checkpoint"
        )
        return 2
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # Ctrl-C reaches all of them
            _tell(GO_ON)
        return 130
    return 0


def _fail(error: Exception, late: bool = False) -> int:
    _tell(f"error: {error}", late)
    return 2


def _tell(message: str, late: bool = False) -> None:
    """Rank 0 tells it. What only another rank has met is told a little later, one rank after the
    other: when a lower rank has met it too, the launcher ends the others before that. So it does
    with those that merely lost a rank (`late`), which has more to tell."""
    rank = os.environ.get("RANK", "0")
    turn = min(int(rank), 12) if rank.isdigit() else 1
    if turn or late:
        time.sleep(OTHER_RANKS_SECONDS * (turn + late))
    who = f"[rank {rank}] " if rank != "0" else ""
    sys.stderr.write(f"{who}{message}\n")  # in one piece, whatever other ranks write
    sys.stderr.flush()


def leave(code: int) -> NoReturn:
    """End this process with `code`.

    A rank that fails ends at once: its process group's native threads still wait for the other
    ranks, and torn down in the middle of that they abort, which is another exit code.
    """
    if code and "RANK" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
