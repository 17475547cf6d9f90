"""accelerate launch finetune/run.py --config configs/finetune/prompt.yaml [key=value ...]

MEmoBERT -> emotions: the settings of the config, over the folds of a protocol and some seeds, to
results.csv, tables and pictures in the folder `output`. Run again, it does what is still missing,
a run that was killed after its last evaluation.
"""

import sys
from pathlib import Path

sys.path[0:0] = [str(Path(__file__).resolve().parents[1])]  # as a script it sees its folder alone

from data_pipeline.command_line import (  # noqa: E402
    config_from_command_line,
    leave,
    os_error_text,
    run_command,
)
from data_pipeline.errors import UserError  # noqa: E402
from data_pipeline.paths import check_stage  # noqa: E402
from finetune.config import FinetuneConfig  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 for input that cannot be used, with one message that says why."""
    return run_command(_main, argv, name="finetune", go_on="the same command does what is missing")


def _main(argv: list[str] | None) -> int:
    config = config_from_command_line(
        FinetuneConfig,
        argv,
        command="accelerate launch finetune/run.py",
        about="MEmoBERT -> emotions: settings x folds x seeds, to results.csv, tables and\n"
        "pictures in the folder `output`. Run again, it does what is still missing.\n"
        "`bash launch/finetune.sh` is the same.",
        example="accelerate launch finetune/run.py --config configs/finetune/prompt.yaml \\\n"
        "      data.shards=[runs/mine] model.checkpoint=runs/pretrain \\\n"
        "      output=runs/finetune",
    )
    try:
        run(config)
    except OSError as error:
        raise UserError(
            f"{os_error_text(error, config.output)}; results go to `output`, a folder that may be "
            "written to and has room left"
        ) from error
    return 0


def run(config: FinetuneConfig) -> None:
    """Bring the processes together, cross-validate each target, and report."""
    import torch

    from finetune.launcher import build_accelerator
    from finetune.report import finetune_report
    from finetune.runs.cross_validate import cross_validate
    from pretrain.runtime import RuntimeSettings, start

    configs = config.of_targets()
    for one in configs:
        check_stage(one.output, "finetuning", "output")
    accelerator = build_accelerator(config.optim.precision)
    # On a CPU beside a GPU because accelerate was told so; else auto says why there is none.
    told = accelerator.device.type == "cpu" and torch.cuda.is_available()
    device = "cpu" if told else "auto"
    runtime = start(
        RuntimeSettings(device=device, precision=config.optim.precision, seed=config.seeds[0]),
        name="finetune",
    )
    index, count = config.array.share()
    try:
        for one in configs:
            cross_validate(one, accelerator, runtime.log)
            if count > 1:
                runtime.log.info(
                    f"task {index} of {count} is done; when all are, python -m finetune.collect "
                    f"{one.output} makes their table"
                )
            elif accelerator.is_main_process:
                report = finetune_report(Path(one.output))
                runtime.log.info(f"\n{report.markdown}\n{report.folder / 'table.md'}")
    finally:
        accelerator.end_training()
    runtime.finish()


if __name__ == "__main__":
    leave(main())
