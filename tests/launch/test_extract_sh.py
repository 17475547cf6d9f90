"""launch/extract.sh: the words it passes on, from any folder."""

import os
import shutil
import subprocess

import pytest


def run(script, *arguments, cwd="/", **variables) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    return subprocess.run(
        ["bash", str(script), *arguments],
        env=environment | {"PYTHON": "echo"} | variables,
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def words(root, *arguments, **variables) -> list[str]:
    done = run(root / "launch/extract.sh", *arguments, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def shows_where(tmp_path):
    """In python's place: prints the folder it runs in, and the first of PYTHONPATH."""
    script = tmp_path / "where"
    script.write_text('#!/bin/sh\necho "$PWD ${PYTHONPATH%%:*}"\n')
    script.chmod(0o755)
    return {"PYTHON": str(script)}


def test_words_are_passed_on(root):
    assert words(root, "--config", "x.yaml") == "-m data_pipeline.extract --config x.yaml".split()


def test_paths_are_the_users_wherever_he_stands(root, tmp_path, shows_where):
    done = run(root / "launch/extract.sh", cwd=tmp_path, **shows_where)
    assert done.stdout.split() == [str(tmp_path), str(root)]


@pytest.mark.parametrize("stage", ["extract", "pretrain", "finetune"])
def test_slurms_copy_names_the_script_to_submit(root, tmp_path, stage):
    spool = tmp_path / "spool/job1/slurm_script"
    spool.parent.mkdir(parents=True)
    shutil.copy(root / f"launch/{stage}.sh", spool)
    done = run(spool)
    assert done.returncode == 2 and f"submit launch/slurm/{stage}.sbatch" in done.stderr
