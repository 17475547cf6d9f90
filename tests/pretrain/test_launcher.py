"""Process trees of small scripts that bear the launchers' names; the real ones: tests/launch."""

import signal
import subprocess
import sys

import psutil
import pytest

from pretrain.launcher import is_launcher

RANK = """
import sys, time
sys.path.insert(0, {root!r})
from pretrain.launcher import follow_launcher
print(len(follow_launcher()), flush=True)
time.sleep(600)
"""
STARTS = """
import subprocess, sys
sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))
"""


@pytest.fixture
def tree(root, tmp_path):
    """Names, outermost first -> a process that starts the next one, and so on to a rank."""

    def tree(*names: str) -> subprocess.Popen[str]:
        scripts = [tmp_path / name for name in names]
        for script in scripts:
            script.write_text(STARTS)
        (tmp_path / "rank.py").write_text(RANK.format(root=str(root)))
        return subprocess.Popen(
            [sys.executable, *map(str, scripts), str(tmp_path / "rank.py")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return tree


def gone(process: psutil.Process, seconds: float) -> bool:
    return not psutil.wait_procs([process], timeout=seconds)[1]


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_a_rank_ends_when_any_of_its_launchers_has_gone(tree, killed):
    outermost = tree("pretrain.sh", "deepspeed", "torchrun")
    assert outermost.stdout.readline() == "3\n"
    chain = [psutil.Process(outermost.pid), *psutil.Process(outermost.pid).children(recursive=True)]
    chain[killed].kill()
    assert gone(chain[-1], 20)
    assert outermost.wait(timeout=20) != 0
    assert outermost.stderr.read().count("the launcher has gone, so its ranks end") == 1


def test_a_shell_that_is_left_is_no_launcher(tree):
    """As in a login shell that starts a run in the background and goes."""
    shell = tree("zsh")
    assert shell.stdout.readline() == "0\n"
    (rank,) = psutil.Process(shell.pid).children()
    shell.send_signal(signal.SIGKILL)
    shell.wait()
    assert not gone(rank, 3)
    assert rank.ppid() != shell.pid
    rank.kill()


def test_launchers_that_had_gone_before_are_not_missed_by_those_that_stay(tree):
    """`nohup torchrun ... &` and the shell goes: the launcher's own parent is another, no more."""
    shell = tree("zsh", "torchrun")
    assert shell.stdout.readline() == "1\n"
    launcher, rank = psutil.Process(shell.pid).children(recursive=True)
    shell.kill()
    shell.wait()
    assert not gone(rank, 3)
    launcher.kill()
    assert gone(rank, 20)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/venv/bin/python /venv/bin/deepspeed --num_gpus 2 launch/pretrain.sh", True),
        ("/venv/bin/python -u -m deepspeed.launcher.launch --world_info=x run.py", True),
        ("python -m torch.distributed.run --nproc_per_node 2 launch/pretrain.sh", True),
        ("/venv/bin/python3 /venv/bin/accelerate launch finetune/run.py", True),
        ("bash launch/pretrain.sh --config x.yaml", True),
        ("-bash", False),
        ("/sbin/init", False),
        ("slurmstepd: [123.0]", False),
        ("python -m pytest -q tests/launch tests/pretrain -k deepspeed", False),
        ("", False),
    ],
)
def test_launchers_are_known_by_name(command, expected):
    assert is_launcher(command.split()) is expected


def test_one_process_without_a_launcher_follows_nobody(root):
    """Its parent may be process 1 of a container from the start, or anything else."""
    rank = subprocess.Popen(
        [sys.executable, "-c", RANK.format(root=str(root))], stdout=subprocess.PIPE, text=True
    )
    assert rank.stdout.readline() == "0\n"
    rank.kill()
    rank.wait()
