"""What `accelerate launch` may ask for. It tells its children by environment variables, from its
flags and from its default config, which `accelerate config` once wrote for something else."""

import os
from collections.abc import Mapping

from accelerate import Accelerator, DistributedDataParallelKwargs

from pretrain.runtime import LaunchError

ONE_PROCESS = "configs/accelerate/one_process.yaml"
PLAIN = (
    f"start with accelerate launch --config_file {ONE_PROCESS} finetune/run.py ..., or, for "
    "several GPUs, configs/accelerate/multi_gpu.yaml"
)
OTHER_TRAINERS = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker",
}
OFF = ("", "no", "0", "false")


def build_accelerator(precision: str) -> Accelerator:
    """The processes of this launch. Raises LaunchError, before they meet, for a launch that asks
    for what finetuning does not do or what its own config says already."""
    check_launch(precision, os.environ)
    return Accelerator(
        mixed_precision="bf16" if precision == "bf16" else "no",
        # A head leaves some of the model's own heads without gradients.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def check_launch(precision: str, environment: Mapping[str, str]) -> None:
    """Raise LaunchError for a trainer, precision or accumulation that the config does not say."""

    def asked(name: str) -> str | None:
        value = environment.get(name, "")
        return None if value.lower() in OFF else value

    for name, trainer in OTHER_TRAINERS.items():
        if asked(name):
            raise LaunchError(
                f"accelerate was told to use {trainer} (by a flag, or by its default config, see "
                f"accelerate env), which finetuning does not: a model of BERT's size fits one GPU; "
                f"{PLAIN}"
            )
    mixed = asked("ACCELERATE_MIXED_PRECISION")
    if mixed and mixed != precision:
        raise LaunchError(
            f"accelerate was told mixed_precision {mixed} (by a flag, or by its default config), "
            f"and this config says optim.precision={precision}, which alone decides: set "
            f"optim.precision (fp32 or bf16) and leave --mixed_precision out, or {PLAIN}"
        )
    steps = asked("ACCELERATE_GRADIENT_ACCUMULATION_STEPS")
    if steps and steps != "1":
        raise LaunchError(
            f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS is {steps}, and a step here is one batch of "
            "optim.batch_size clips over all processes; unset it, or leave "
            "--gradient_accumulation_steps out, and set optim.batch_size"
        )
    compiler = asked("ACCELERATE_DYNAMO_BACKEND")
    if compiler:
        raise LaunchError(
            f"accelerate was told to compile the model (dynamo_backend {compiler}), which "
            f"finetuning was never tried with; leave --dynamo_backend out, or {PLAIN}"
        )
