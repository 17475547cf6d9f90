"""Shares and ranks from what Slurm sets; tests/launch has the real scheduler."""

import pytest

from data_pipeline.slurm import ArraySettings, SlurmError, first_host, take_ranks_of_step
from pretrain.launcher import LaunchError
from pretrain.runtime import RuntimeSettings, start

STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def environment(monkeypatch):
    """Only these of what launchers and schedulers set."""
    found = {}
    monkeypatch.setattr("os.environ", found)
    return found


def test_a_task_of_a_step_is_a_rank(environment):
    environment |= STEP
    take_ranks_of_step()
    assert [environment[name] for name in RANKS] == ["3", "1", "4", "gpu07", "24711"]


def test_what_a_launcher_or_the_user_set_wins(environment):
    environment |= STEP | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "8"}
    before = dict(environment)
    take_ranks_of_step()
    assert environment == before
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        del environment[name]
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    take_ranks_of_step()
    assert [environment[name] for name in RANKS] == ["3", "1", "4", "127.0.0.1", "29500"]


def test_a_batch_script_and_a_step_of_one_are_no_ranks(environment):
    environment |= {name: value for name, value in STEP.items() if "STEP" not in name}
    take_ranks_of_step()
    assert "RANK" not in environment
    environment |= STEP | {"SLURM_STEP_NUM_TASKS": "1"}
    take_ranks_of_step()
    assert "RANK" not in environment


def test_a_run_of_its_own_in_each_task_is_refused(monkeypatch):
    for name, value in (STEP | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match="one rank alone, in a Slurm step of 4 tasks"):
        start(RuntimeSettings(device="cpu"))


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n[1-2]", "n1"),
        ("gpu[07,09-12].lab,cpu1", "gpu07.lab"),
        ("a.lab,b[1-2]", "a.lab"),
    ],
)
def test_the_first_host_of_a_list(nodes, first):
    assert first_host(nodes) == first


def array(task: int, first: int, last: int, step: int, count: int) -> dict[str, str]:
    told = {"ID": task, "MIN": first, "MAX": last, "STEP": step, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in told.items()}


def test_a_task_of_an_array_has_its_share(environment):
    assert ArraySettings().share() == (0, 1)
    assert ArraySettings(index=2, count=5).share() == (2, 5)
    environment |= array(9, 3, 9, 2, 4)
    assert ArraySettings(slurm=True).share() == (3, 4)
    assert ArraySettings().share() == (0, 1)  # asked for alone


@pytest.mark.parametrize("told", [array(1, 1, 5, 1, 2), array(5, 1, 5, 1, 2), array(4, 0, 8, 2, 4)])
def test_an_array_with_holes_is_refused(environment, told):
    environment |= told
    with pytest.raises(SlurmError, match="contiguous range, such as --array=0-7"):
        ArraySettings(slurm=True).share()


def test_outside_of_an_array_there_is_no_share(environment):
    with pytest.raises(SlurmError, match="submit with sbatch --array"):
        ArraySettings(slurm=True).share()
    with pytest.raises(ValueError, match="takes the place of"):
        ArraySettings(slurm=True, index=1, count=2)
