"""accelerate launch finetune/run.py --config configs/finetune/prompt.yaml [key=value ...]

MEmoBERT -> emotions: the settings of the config, over the folds of a protocol and some seeds, to
results.csv, tables and pictures in the folder `output`. Run again, it does what is still missing.
"""

import sys
from pathlib import Path

# As a script this file's own folder leads sys.path, where `datasets` would mean finetune/datasets.
HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(p for p in sys.path if Path(p or ".").resolve() != HERE)]

from accelerate import Accelerator, DistributedDataParallelKwargs  # noqa: E402

from data_pipeline.config import ConfigError, load_config, parse_command_line  # noqa: E402
from data_pipeline.schema import SchemaError  # noqa: E402
from data_pipeline.weights import WeightsError  # noqa: E402
from finetune.config import FinetuneConfig  # noqa: E402
from finetune.cross_validate import cross_validate  # noqa: E402
from finetune.datasets import DatasetError  # noqa: E402
from finetune.fit import FitError  # noqa: E402
from finetune.prompt import PromptError  # noqa: E402
from finetune.protocols import ProtocolError  # noqa: E402
from finetune.report import finetune_report  # noqa: E402
from finetune.results import ResultsError  # noqa: E402
from pretrain.checkpoint import CheckpointError  # noqa: E402
from pretrain.model.bert_init import BertError  # noqa: E402
from pretrain.runtime import LaunchError, RuntimeSettings, start  # noqa: E402

BAD_INPUT = (
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


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 for input that cannot be used, with one message that says why."""
    try:
        path, overrides = parse_command_line(__doc__ or "", argv)
        config = load_config(FinetuneConfig, path, overrides)
        run(config)
    except BAD_INPUT as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(
            f"cannot read or write {error.filename or config.output}: {error.strerror or error}; "
            "results go to `output`, a folder that may be written to and has room left"
        )
    return 0


def _fail(message: str) -> int:
    print(f"finetune: {message}", file=sys.stderr)
    return 2


def run(config: FinetuneConfig) -> None:
    """Bring the processes together, cross-validate, and report."""
    accelerator = Accelerator(
        mixed_precision="bf16" if config.optim.precision == "bf16" else "no",
        # A head leaves some of the model's own heads without gradients.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
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
