"""launch/finetune.sh: from any folder, with the user's own paths."""

import os
import subprocess


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
        *("launch", "--num_processes", "2", str(root / "finetune/run.py")),
        *("--config", "mine.yaml", "output=my results"),
    ]
