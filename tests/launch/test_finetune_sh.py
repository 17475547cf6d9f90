"""launch/finetune.sh: from any folder, with the user's own paths."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_users_folder_stays_and_the_words_are_passed_on(root, tmp_path):
    tools, stands = tmp_path / "tools", tmp_path / "user's folder"
    tools.mkdir()
    stands.mkdir()
    (tools / "accelerate").write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    (tools / "accelerate").chmod(0o755)
    done = subprocess.run(
        ["bash", str(root / "launch/finetune.sh"), "--config", "mine.yaml", "output=my results"],
        env=os.environ
        | {"PATH": f"{tools}:{os.environ['PATH']}", "ACCELERATE_ARGS": "--num_processes 2"},
        cwd=stands,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        str(stands),
        *("launch", "--quiet", "--num_processes", "2", str(root / "finetune/run.py")),
        *("--config", "mine.yaml", "output=my results"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["bash launch/finetune.sh", "accelerate launch --quiet finetune/run.py"]
)
def test_a_mistake_is_one_message_without_the_launchers_traceback(root, command):
    done = subprocess.run(
        [*command.split(), "--config", "configs/finetune/demo.yaml", "data.foldz=3"],
        cwd=root,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1  # the launcher makes 1 of our 2
    assert done.stderr.count("there is no setting 'data.foldz'") == 1
    assert "Traceback" not in done.stderr
