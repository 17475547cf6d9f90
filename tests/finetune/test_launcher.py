"""What accelerate may ask for, and what is refused in one message."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import toys

from finetune.launcher import check_launch
from finetune.runs.results import read_rows
from pretrain.runtime import LaunchError

from .conftest import make_clips

DEEPSPEED = """compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
deepspeed_config: {gradient_accumulation_steps: 4, zero_stage: 2}
num_machines: 1
num_processes: 1
mixed_precision: bf16
"""


@pytest.mark.parametrize(
    ("environment", "precision", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "fp32", "told to use DeepSpeed"),
        ({"ACCELERATE_USE_FSDP": "True"}, "fp32", "told to use FSDP"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "fp32", "optim.precision=fp32, which alone"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "fp32", "mixed_precision bf16"),
        ({"ACCELERATE_MIXED_PRECISION": "fp8"}, "bf16", "optim.precision=bf16, which alone"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "fp32", "set optim.batch_size"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "fp32", "dynamo_backend INDUCTOR"),
    ],
)
def test_what_the_config_does_not_say_is_refused(environment, precision, message):
    with pytest.raises(LaunchError, match=message):
        check_launch(precision, environment)


def test_what_accelerate_says_of_itself_passes():
    plain = {
        "ACCELERATE_USE_CPU": "true",
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
        "ACCELERATE_USE_DEEPSPEED": "false",
    }
    check_launch("fp32", plain)
    check_launch("bf16", plain)
    check_launch("bf16", plain | {"ACCELERATE_MIXED_PRECISION": "bf16"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "finetune: accelerate was told to use DeepSpeed"),
        (["--cpu", "--mixed_precision", "bf16"], "accelerate was told mixed_precision bf16"),
        (["--config_file", "configs/accelerate/one_process.yaml"], None),
    ],
)
def test_a_default_config_for_deepspeed_is_one_message_or_overruled_by_ours(
    root, tmp_path, write_shards, checkpoint, flags, message
):
    home = tmp_path / "home" / "accelerate"
    home.mkdir(parents=True)
    (home / "default_config.yaml").write_text(DEEPSPEED)
    shards = write_shards(make_clips(num_speakers=3, per_speaker=7, signal=2.0))
    tools = Path(sys.executable).parent
    done = subprocess.run(
        [
            *("accelerate", "launch", *flags, "finetune/run.py"),
            *("--config", "configs/finetune/prompt.yaml"),
            f"data.shards=[{shards}]",
            f"model.checkpoint={checkpoint}",
            f"output={tmp_path / 'out'}",
            "folds=[0]",
            *toys.FAST,
        ],
        cwd=root,
        env=os.environ
        | {"PATH": f"{tools}:{os.environ['PATH']}", "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if message is None:
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(read_rows(tmp_path / "out")) == 1
        return
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert message in done.stderr
    assert "configs/accelerate/one_process.yaml" in done.stderr
    ours = done.stderr.partition("finetune: ")[0]
    assert "finetune/run.py" not in ours  # no traceback through the program before the message
