"""accelerate launch finetune/run.py --config configs/finetune/prompt.yaml [key=value ...]

MEmoBERT -> emotions: the settings of the config, over the folds of a protocol and some seeds, to
results.csv, tables and pictures in the folder `output`. Run again, it does what is still missing.
"""

import sys
from pathlib import Path

# As a script this file's own folder leads sys.path, where `datasets` would mean finetune/datasets.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p or ".").resolve() != HERE)]

from data_pipeline.command_line import config_from_command_line  # noqa: E402
from data_pipeline.config import ConfigError  # noqa: E402
from data_pipeline.paths import check_stage  # noqa: E402
from finetune.config import FinetuneConfig  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 for input that cannot be used, with one message that says why."""
    try:
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
    except ConfigError as error:
        return _fail(str(error))
    bad_input = _bad_input()
    try:
        run(config)
    except bad_input as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(
            f"cannot read or write {error.filename or config.output}: {error.strerror or error}; "
            "results go to `output`, a folder that may be written to and has room left"
        )
    except KeyboardInterrupt:
        print("finetune: interrupted; the same command does what is missing", file=sys.stderr)
        return 130
    return 0


def _fail(message: str) -> int:
    print(f"finetune: {message}", file=sys.stderr)
    return 2


def _bad_input() -> tuple[type[Exception], ...]:
    """What a user can mend. Torch takes seconds, so help and a slip in the config come before."""
    from data_pipeline.schema import SchemaError
    from data_pipeline.weights import WeightsError
    from finetune.datasets import DatasetError
    from finetune.fit import FitError
    from finetune.prompt import PromptError
    from finetune.protocols import ProtocolError
    from finetune.results import ResultsError
    from pretrain.checkpoint import CheckpointError
    from pretrain.model.bert_init import BertError
    from pretrain.runtime import LaunchError

    return (
        BertError,
        CheckpointError,
        ConfigError,
        DatasetError,
        FitError,
        LaunchError,
        PromptError,
        ProtocolError,
        ResultsError,
        SchemaError,
        WeightsError,
    )


def run(config: FinetuneConfig) -> None:
    """Bring the processes together, cross-validate, and report."""
    from finetune.cross_validate import cross_validate
    from finetune.launcher import build_accelerator
    from finetune.report import finetune_report
    from pretrain.runtime import RuntimeSettings, start

    check_stage(config.output, "finetuning", "output")
    accelerator = build_accelerator(config.optim.precision)
    device = "cpu" if accelerator.device.type == "cpu" else "auto"
    runtime = start(
        RuntimeSettings(device=device, precision=config.optim.precision, seed=config.seeds[0]),
        name="finetune",
    )
    try:
        cross_validate(config, accelerator, runtime.log)
        if accelerator.is_main_process:
            report = finetune_report(Path(config.output))
            runtime.log.info(f"\n{report.markdown}\n{report.folder / 'table.md'}")
    finally:
        accelerator.end_training()
    runtime.finish()


if __name__ == "__main__":
    sys.exit(main())
