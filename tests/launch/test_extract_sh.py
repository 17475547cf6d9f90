"""launch/extract.sh: the words it passes on, alone and as a task of a Slurm array."""

import os
import subprocess


def words(root, *arguments, **variables) -> list[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    done = subprocess.run(
        ["bash", str(root / "launch/extract.sh"), *arguments],
        env=environment | {"PYTHON": "echo"} | variables,
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_words_are_passed_on(root):
    assert words(root, "--config", "x.yaml") == "-m data_pipeline.extract --config x.yaml".split()


def test_a_slurm_array_becomes_shares_of_the_tasks(root):
    array = {
        "SLURM_SUBMIT_DIR": str(root),
        "SLURM_ARRAY_TASK_ID": "9",
        "SLURM_ARRAY_TASK_MIN": "3",
        "SLURM_ARRAY_TASK_STEP": "2",
        "SLURM_ARRAY_TASK_COUNT": "4",
    }
    found = words(root, "array.count=8", **array)
    assert found[2:] == ["array.index=3", "array.count=4", "array.count=8"]  # the last word counts
