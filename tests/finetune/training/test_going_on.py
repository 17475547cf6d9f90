"""A run that is killed while it trains goes on inside, to the bit as if nothing had stopped it."""

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import toys

from finetune.heads.foal_net import FoalNetHead
from finetune.run import main
from finetune.runs.results import read_rows
from finetune.training.state import Pace, TrainingState
from finetune.training.trainer import _generator_states, _set_generator_states

from ..conftest import make_clips
from ..test_run import call, running

KILLED_AT = r"""
import os, signal, sys
import finetune.runs.cross_validate, finetune.report  # once, for all runs
import finetune.systems.memobert
from finetune.run import main

OF_FILES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")


def forked(arguments, kill_at=None):
    child = os.fork()
    if not child:
        if kill_at is not None:
            seen = 0

            def count(event, found):
                nonlocal seen
                if event in OF_FILES and "/runs/" in str(found[0]):
                    seen += 1
                    if seen == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
        os._exit(main(arguments))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


first, every, top, *arguments = sys.argv[1:]
assert forked([*arguments, f"output={top}/clean"]) == 0
kill_at = int(first)
while True:
    killed = [*arguments, f"output={top}/killed-{kill_at}"]
    code = forked(killed, kill_at)
    if code == 0:
        break  # it has fewer
    assert code == -signal.SIGKILL, code
    assert forked(killed) == 0
    kill_at += int(every)
"""
"""Kills a run at each `every`th of its file operations, and lets it go on."""
HEADS = [
    "settings=[direct, pretrain_prompt, foal_net, m3er]",
    "plans.pretrain_prompt.modality_cases=seven",
    "own_settings.foal_net={head: foal_net, options: {num_heads: 2}, plan: {sampler: balanced}}",
    "own_settings.m3er={head: m3er, options: {dimensions: 3}, plan: {freeze_model: true, "
    "sampler: weighted}}",
    *(
        f"own_settings.{name}.plan.{key}"
        for name in ("foal_net", "m3er")
        for key in ("num_steps=16", "learning_rate=1e-2")
    ),
]
"""Every head, three of them with random numbers of their own or of torch."""
ENDS = {
    "the best on dev": [*HEADS, "selection=dev"],
    "the last": ["settings=[foal_net]", *HEADS[2:], "selection=last", "evaluate_cases=seven"],
    "out of patience": [
        *("settings=[foal_net]", *HEADS[2:], "own_settings.foal_net.plan.patience=1"),
        "own_settings.foal_net.plan.num_steps=400",
    ],
    "train and dev": ["settings=[foal_net]", *HEADS[2:], "train_on=train+dev"],
}


class Killed(BaseException):
    """Stands in for a kill in the tests that start no process."""


@pytest.fixture
def arguments(write_shards, checkpoint) -> list[str]:
    shards = write_shards(make_clips(num_speakers=3, per_speaker=8, signal=0.7))
    return [
        *(f"data.shards=[{shards}]", f"model.checkpoint={checkpoint}", "folds=[0]", *toys.FAST),
        *("eval_every_steps=4", "num_resamples=0"),
    ]


@pytest.fixture
def saves(monkeypatch) -> list[TrainingState]:
    """States as they are kept. With `kill_after` set on the class, that many are, and no more."""
    kept = []
    write = TrainingState.write

    def counted(self, content):
        write(self, content)
        kept.append(self)
        if len(kept) == TrainingState.kill_after:
            raise Killed

    monkeypatch.setattr(TrainingState, "write", counted)
    monkeypatch.setattr(TrainingState, "kill_after", None, raising=False)
    return kept


def killed(arguments, saves, after: int) -> None:
    """Run until so many states are kept, and kill it there."""
    saves.clear()
    TrainingState.kill_after = after
    with pytest.raises(Killed):
        main(arguments)
    TrainingState.kill_after = None


def whole(arguments, saves) -> None:
    saves.clear()
    assert main(arguments) == 0


def results(output: Path) -> dict[str, bytes]:
    """All that runs left, but for the path of the output in the config."""
    paths = sorted(path for path in output.glob("runs/**/*") if path.is_file())
    return {
        str(path.relative_to(output)): path.read_bytes().replace(str(output).encode(), b"")
        for path in paths
    }


def check_same(output: Path, clean: Path) -> None:
    found, expected = results(output), results(clean)
    assert found.keys() == expected.keys()
    assert not any("state" in Path(name).parts for name in found)
    assert [name for name in found if found[name] != expected[name]] == []


@pytest.mark.parametrize("end", ENDS)
def test_killed_at_every_state_it_comes_to_the_same_bits(tmp_path, arguments, saves, capsys, end):
    arguments = [*arguments, *ENDS[end]]
    whole([*arguments, f"output={tmp_path / 'clean'}"], saves)
    num_saves = len(saves)
    assert num_saves >= 3
    broken = [*arguments, f"output={tmp_path / 'broken'}"]
    for _ in range(num_saves):
        killed(broken, saves, 1)
    capsys.readouterr()
    whole(broken, saves)
    assert saves == []  # the last kill came after the last step
    assert re.search(r"goes on after step (\d+) of \d+", capsys.readouterr().out)
    check_same(tmp_path / "broken", tmp_path / "clean")


def test_a_state_tells_where_it_stands_and_goes_with_its_run(tmp_path, arguments, saves, capsys):
    arguments = [*arguments, *HEADS, "settings=[m3er]", f"output={tmp_path / 'out'}"]
    killed(arguments, saves, 2)
    (path,) = tmp_path.glob("out/runs/m3er/*/*/*")
    assert path.relative_to(path.parents[1]) == Path("state/training.pt")
    kept = torch.load(path, weights_only=True)
    assert kept["step"] == 8 and [row["step"] for row in kept["curve"]] == [4, 8]
    # The model is frozen: only the head's weights, and what it found in the training clips.
    assert all(name.startswith("head.") for name in kept["weights"])
    assert any(name.endswith("_bases") for name in kept["weights"])
    capsys.readouterr()
    whole(arguments, saves)
    assert len(saves) == 2 and "goes on after step 8 of 16" in capsys.readouterr().out
    assert not path.parent.exists() and (path.parents[1] / "row.json").exists()
    # Killed between row and removal: the next start removes it.
    path.parent.mkdir()
    path.write_bytes(b"")
    whole(arguments, saves)
    assert not path.parent.exists()


def test_the_state_of_another_recipe_is_not_used_and_told(tmp_path, arguments, saves, capsys):
    arguments = [*arguments, "settings=[direct]", f"output={tmp_path / 'out'}"]
    killed(arguments, saves, 2)
    (state,) = tmp_path.glob("out/runs/*/*/state")
    capsys.readouterr()
    whole([*arguments, "plans.direct.learning_rate=2e-2"], saves)
    said = capsys.readouterr().out
    assert len(saves) == 4 and "goes on after" not in said
    assert f"{state}: a training by another recipe, not ended and not gone on with here" in said
    assert state.exists()  # it is the other one's still
    whole(arguments, saves)
    assert len(saves) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("num_processes", 2), "kept with num_processes 2, now 1"),
        (("git_commit", "0123"), "kept with git_commit 0123, now "),
        (("recipe", "f" * 16), f"kept with recipe {'f' * 16}, now "),
        (("judge_oracle", False), "kept with judge_oracle False, now True"),
        (("format", 0), "kept with format 0, now 1"),
    ],
)
def test_a_state_of_another_launch_is_told_and_not_used(
    tmp_path, arguments, saves, capsys, monkeypatch, change, says
):
    arguments = [*arguments, "settings=[direct]", f"output={tmp_path / 'out'}"]
    telling = TrainingState.telling
    with monkeypatch.context() as other:
        other.setattr(
            TrainingState, "telling", lambda self, **f: telling(self, **f | dict([change]))
        )
        killed(arguments, saves, 2)
    capsys.readouterr()
    whole(arguments, saves)
    said = capsys.readouterr().out
    assert len(saves) == 4
    assert said.count("this training starts from its beginning") == 1 and says in said


@pytest.mark.parametrize("harm", ["empty", "cut", "altered", "other", "folder"])
def test_a_corrupt_state_costs_one_line(tmp_path, arguments, saves, capsys, harm):
    arguments = [*arguments, "settings=[direct]"]
    whole([*arguments, f"output={tmp_path / 'clean'}"], saves)
    killed([*arguments, f"output={tmp_path / 'out'}"], saves, 2)
    (path,) = tmp_path.glob("out/runs/*/*/state/training.pt")
    content = bytearray(path.read_bytes())
    if harm == "altered":  # in the numbers of a tensor, where torch.load sees nothing
        content[len(content) // 2] ^= 1
        torch.load(path, weights_only=True)
    if harm == "folder":
        path.unlink()
        path.mkdir()
    else:
        half = len(content) // 2
        path.write_bytes(
            {"empty": b"", "cut": content[:half], "other": b"x" * 99}.get(harm, content)
        )
    capsys.readouterr()
    assert main([*arguments, f"output={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr()
    lines = [line for line in said.out.splitlines() if "starts from its beginning" in line]
    why = "Is a directory" if harm == "folder" else "cut or altered"
    assert len(lines) == 1 and f"{path}: {why}" in lines[0]
    assert "Traceback" not in said.out + said.err
    check_same(tmp_path / "out", tmp_path / "clean")


def test_a_half_written_state_is_never_read_and_goes(tmp_path, arguments, saves):
    arguments = [*arguments, "settings=[direct]", f"output={tmp_path / 'out'}"]
    killed(arguments, saves, 2)
    (path,) = tmp_path.glob("out/runs/*/*/state/training.pt")
    half = path.with_name(f".{path.name}.host-0.{2**22 + 1}.00.tmp")
    os.rename(path, half)
    os.utime(half, (0, 0))  # of a process that nobody knows any more
    killed(arguments, saves, 1)
    assert [kept.name for kept in path.parent.iterdir()] == [path.name]
    assert torch.load(path, weights_only=True)["step"] == 4  # from the beginning


def test_a_disk_that_takes_no_more_costs_a_warning_and_not_the_run(
    tmp_path, arguments, saves, capsys, monkeypatch
):
    write = TrainingState.write

    def on_a_small_disk(self, content):
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, most))
        try:
            write(self, content)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    arguments = [*arguments, "settings=[direct]", f"output={tmp_path / 'out'}"]
    killed(arguments, saves, 1)
    (path,) = tmp_path.glob("out/runs/*/*/state/training.pt")
    before = path.read_bytes()
    with monkeypatch.context() as small:
        small.setattr(TrainingState, "write", on_a_small_disk)
        killed(arguments, saves, 2)
    said = capsys.readouterr().out
    assert said.count("cannot keep the state of this training: File too large") == 2
    assert [kept.name for kept in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before
    whole(arguments, saves)


def test_generators_of_torch_and_numpy_come_back():
    head = torch.nn.ModuleDict({"inner": torch.nn.Linear(1, 1)})
    head["inner"].draws = torch.Generator().manual_seed(3)
    head.numbers = np.random.default_rng(3)
    states = _generator_states(head)
    assert states.keys() == {"inner.draws", ".numbers"}

    def drawn():
        one = torch.rand(3, generator=head["inner"].draws)
        return one.tolist(), head.numbers.random(3).tolist()

    before = drawn()
    assert drawn() != before
    _set_generator_states(head, states)
    assert drawn() == before
    assert "draws" in vars(FoalNetHead((4, 4), 2, FoalNetHead.Settings()))


@pytest.mark.slow
def test_killed_at_its_file_operations_it_comes_to_the_same_bits(root, tmp_path, arguments):
    arguments = [*arguments, *ENDS["train and dev"], "eval_every_steps=8"]
    done = call(root, [sys.executable, "-c", KILLED_AT, "2", "13", str(tmp_path), *arguments])
    assert done.returncode == 0, done.stdout + done.stderr
    broken = sorted(tmp_path.glob("killed-*"))
    assert len(broken) > 3 and re.search(r"goes on after step \d+ of 16", done.stdout)
    for output in broken:
        check_same(output, tmp_path / "clean")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_processes_come_to_the_same_bits(root, tmp_path, arguments, processes):
    command = [*LAUNCH[processes], str(root / "finetune/run.py"), *arguments, *HEADS]
    clean = call(root, [*command, f"output={tmp_path / 'clean'}"], **ON_CPU)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    command += [f"output={tmp_path / 'broken'}"]
    for setting in ("foal_net", "m3er"):
        kill_at(root, command, tmp_path, f"(?s): {setting}, fold 0.*step 12 ")
    done = call(root, command, **ON_CPU)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"(?s)m3er, fold 0.*goes on after step \d+ of 16", done.stdout)
    assert [row.num_processes for row in read_rows(tmp_path / "broken")] == [processes] * 4
    check_same(tmp_path / "broken", tmp_path / "clean")


LAUNCH = {
    1: [sys.executable],
    2: [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node", "2"],
}
ON_CPU = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def kill_at(root: Path, command: list[str], folder: Path, said: str) -> None:
    """Start a finetuning, and kill all its processes once its log says so."""
    told = folder / "told"
    with open(told, "w") as file:
        process = subprocess.Popen(
            command, cwd=root, stdout=file, stderr=subprocess.STDOUT, env=os.environ | ON_CPU
        )
    deadline = time.monotonic() + 300
    while not re.search(said, told.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None, told.read_text()
        time.sleep(0.005)
    for number in running(command[-1]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait(timeout=60)
    while running(command[-1]):
        time.sleep(0.05)


def test_a_state_that_takes_long_to_write_is_written_for_a_tenth_of_the_time_at_most():
    pace = Pace()
    assert pace.is_due(0.0), "the first"
    pace.wrote(10.0, 10.5)
    assert pace.is_due(10.6), "half a second is nothing"
    pace.wrote(20.0, 26.0)
    assert not pace.is_due(85.9)
    assert pace.is_due(86.0)
