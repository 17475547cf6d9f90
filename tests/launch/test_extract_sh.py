"""launch/extract.sh: the words it passes on, alone and as a task of a Slurm array."""

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


@pytest.mark.parametrize("task", ["1", "5"])
def test_an_array_with_holes_is_refused(root, task):
    array = {
        "SLURM_SUBMIT_DIR": str(root),
        "SLURM_ARRAY_TASK_ID": task,
        "SLURM_ARRAY_TASK_MIN": "1",
        "SLURM_ARRAY_TASK_MAX": "5",
        "SLURM_ARRAY_TASK_STEP": "1",
        "SLURM_ARRAY_TASK_COUNT": "2",
    }
    done = run(root / "launch/extract.sh", **array)
    assert done.returncode == 2 and done.stdout == ""
    assert "use a contiguous range, such as --array=0-7" in done.stderr


def test_paths_are_the_users_wherever_he_stands(root, tmp_path, shows_where):
    done = run(root / "launch/extract.sh", cwd=tmp_path, **shows_where)
    assert done.stdout.split() == [str(tmp_path), str(root)]


def test_slurms_copy_finds_the_project(root, tmp_path, shows_where):
    spool = tmp_path / "spool/job1/slurm_script"
    spool.parent.mkdir(parents=True)
    shutil.copy(root / "launch/extract.sh", spool)
    inside = str(root / "configs")
    done = run(spool, **shows_where, SLURM_SUBMIT_DIR=inside)
    assert done.stdout.split() == [inside, str(root)]
    done = run(spool, **shows_where, SLURM_SUBMIT_DIR=str(tmp_path))
    assert done.returncode == 2 and "submit the job from the project's folder" in done.stderr
    scontrol = tmp_path / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "   Command={root}/launch/extract.sh clips=x"\n')
    scontrol.chmod(0o755)
    path = f"{scontrol.parent}:{os.environ['PATH']}"
    done = run(spool, **shows_where, SLURM_SUBMIT_DIR=str(tmp_path), SLURM_JOB_ID="1", PATH=path)
    assert done.stdout.split() == [str(tmp_path), str(root)]
