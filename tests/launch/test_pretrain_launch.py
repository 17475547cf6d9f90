"""The commands that users type, with real launchers and two ranks on this machine."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest
import toys

from pretrain.objectives import OBJECTIVES

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
LOSSES = ("loss", *OBJECTIVES, "word_accuracy", "grad_norm", "clipped_share", "packing")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    clips = [toys.numbered(number) for number in range(40)]
    return toys.write_shards(tmp_path_factory.mktemp("toy") / "shards", clips, 4)


@pytest.fixture(scope="module")
def overrides(shards):
    """(output, more) -> settings of a run of 12 steps without dropout on a tiny model."""

    def overrides(output: Path, *more: str) -> list[str]:
        return [
            "model.text_init=none",
            "model.width=24",
            "model.num_layers=2",
            "model.num_heads=2",
            "model.ffn_width=48",
            "model.dropout=0",
            f"data.shards=[{shards}]",
            "optim.steps=12",
            "optim.warmup_steps=2",
            "optim.clip_norm=0.5",  # below the gradients' norms, so that every step is clipped
            f"run.output={output}",
            "run.device=cpu",
            "run.log_every=1",
            "run.checkpoint_every=4",
            *more,
        ]

    return overrides


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """As after `source .venv/bin/activate`, one thread a rank."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def master_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def launch(root, environment):
    """Run a command from the project's root; it must not take longer than ten minutes."""

    def launch(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=root, env=environment | more, capture_output=True, text=True, timeout=600
        )

    return launch


@pytest.fixture
def start(root, environment, overrides):
    """Start a run of two ranks, by bash or another command; it comes back once there is a
    checkpoint. Signals are as in a terminal, whatever the tests were started with."""

    def start(
        output: Path,
        port: str,
        *more: str,
        command: tuple[str, ...] = ("bash",),
        ignored: tuple[signal.Signals, ...] = (),
    ) -> subprocess.Popen[str]:
        def set_signals() -> None:
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

        process = subprocess.Popen(
            [*command, *TINY, *overrides(output, *more)],
            cwd=root,
            env=environment | {"DEEPSPEED_ARGS": f"--num_gpus 2 --master_port {port}"},
            stdout=subprocess.DEVNULL,
            stderr=open(output.with_suffix(".err"), "w"),  # noqa: SIM115  the process's
            start_new_session=True,
            preexec_fn=set_signals,
        )
        latest, deadline = output / "checkpoints/latest", time.monotonic() + 600
        while not latest.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return process

    return start


TINY = ("launch/pretrain.sh", "--config", "configs/pretrain/tiny.yaml")


def losses(output: Path) -> list[list[float]]:
    """Rows of metrics.csv; an objective that a step did not ask is nan."""
    with open(output / "metrics.csv", newline="") as file:
        return [[float(row[name] or "nan") for name in LOSSES] for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def plain(overrides, launch, tmp_path_factory) -> list[list[float]]:
    """Losses of the plain-torch twin on one rank."""
    output = tmp_path_factory.mktemp("plain")
    command = overrides(output, "engine.kind=torch")
    done = launch(sys.executable, "-m", "pretrain.cli", *TINY[1:], *command)
    assert done.returncode == 0, done.stderr
    return losses(output)


def close(rows: list[list[float]]) -> list:
    return [pytest.approx(row, rel=1e-5, nan_ok=True) for row in rows]


def test_deepspeed_on_one_and_two_ranks_has_the_losses_of_the_plain_twin(
    overrides, launch, plain, tmp_path, master_port
):
    one = launch("deepspeed", *TINY, *overrides(tmp_path / "one"))
    assert one.returncode == 0, one.stdout + one.stderr
    assert losses(tmp_path / "one") == close(plain)
    assert "1 rank on CPU" in one.stdout

    ranks = ("--num_gpus", "2", "--master_port", master_port)
    cut = overrides(tmp_path / "two", "data.micro_batch_clips=3", "engine.zero_stage=1")
    two = launch("deepspeed", *ranks, *TINY, *cut)
    assert two.returncode == 0, two.stdout + two.stderr
    straight = losses(tmp_path / "two")
    assert straight == close(plain)
    assert "2 ranks on CPU" in two.stdout
    assert "passes of at most 3 clips and 8192 tokens, joined" in two.stdout

    (tmp_path / "two/checkpoints/latest").write_text("step-000008")
    again = launch("deepspeed", *ranks, *TINY, *cut)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "going on after step 8" in again.stdout
    assert losses(tmp_path / "two") == [pytest.approx(r, rel=0, nan_ok=True) for r in straight]


def test_a_run_goes_from_stage_2_to_3_to_one_rank_with_the_losses_of_the_plain_twin(
    overrides, launch, plain, tmp_path, master_port
):
    """Held-out losses and checkpoints among them, which stage 3 gathers the weights for."""
    two = ("deepspeed", "--num_gpus", "2", "--master_port", master_port, TINY[0])
    one = (sys.executable, "-m", "pretrain.cli")
    few = ("data.micro_batch_clips=3", "run.keep_checkpoints=3")
    for command, begin, engine in [
        (two, 0, ["engine.zero_stage=2"]),
        (two, 4, ["engine.zero_stage=3", "engine.activation_checkpointing=true"]),
        (one, 8, ["engine.kind=torch"]),
    ]:
        if begin:
            (tmp_path / "checkpoints/latest").write_text(f"step-{begin:06d}")
        done = launch(*command, *TINY[1:], *overrides(tmp_path, *few, *engine))
        assert done.returncode == 0, done.stdout + done.stderr
        assert not begin or f"going on after step {begin}" in done.stdout
        assert losses(tmp_path) == close(plain)


def test_a_clip_whose_loss_is_no_number_ends_every_rank_with_its_name(
    overrides, launch, tmp_path, master_port
):
    """DeepSpeed passes over the step of such a gradient, and would go on."""
    clips = [toys.numbered(number) for number in range(32)]
    clips[7].streams["face_probs"].values_ND[:] = 0  # no posterior at all
    folder = toys.write_shards(tmp_path / "shards", clips, 4)
    alone = "objectives.weights={wwmlm: 0, span_mvfr: 0, span_mafr: 0}"
    more = (f"data.shards=[{folder}]", "data.validation_share=0", alone, "run.log_every=6")
    ranks = ("--num_gpus", "2", "--master_port", master_port)
    command = overrides(tmp_path / "run", *more, "data.micro_batch_clips=2", "engine.zero_stage=2")
    done = launch("deepspeed", *ranks, *TINY, *command)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("the loss is nan at step") == 1
    assert clips[7].id in done.stderr.split("has the clips ")[1].split(";")[0]


def test_the_plain_twin_on_two_ranks_has_the_losses_of_one(
    overrides, launch, plain, tmp_path, master_port
):
    command = overrides(tmp_path, "engine.kind=torch", "data.micro_batch_clips=3")
    ranks = ("--num_gpus", "2", "--master_port", master_port)
    two = launch("deepspeed", *ranks, *TINY, *command)
    assert two.returncode == 0, two.stdout + two.stderr
    assert "2 ranks on CPU" in two.stdout and "torch engine" in two.stdout
    assert losses(tmp_path) == close(plain)

    past = launch("deepspeed", *ranks, *TINY, *command, "optim.steps=4")
    assert past.returncode == 2
    assert (past.stdout + past.stderr).count("past optim.steps=4") == 1  # not once a rank
    assert "Traceback" not in past.stdout + past.stderr


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
)
def test_a_signal_to_bash_ends_every_rank(overrides, start, tmp_path, master_port, number, code):
    long = ("optim.steps=100000", "run.checkpoint_every=20")
    process = start(tmp_path / "run", master_port, *long)
    ranks = _ranks_of(process.pid)
    assert len(ranks) == 2, ranks
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert not _alive(ranks)
    told = (tmp_path / "run.err").read_text()
    assert told.count("the same command goes on from the last checkpoint") == 1
    assert "User defined signal" not in told
    assert _saved_step(tmp_path / "run") == _last_step(tmp_path / "run")


def test_bash_ignores_what_it_was_started_to_ignore_and_term_ends_every_rank(
    start, tmp_path, master_port
):
    """HUP is ignored under nohup, INT in the background of a script and by some CI runners."""
    ignored = (signal.SIGHUP, signal.SIGINT)
    process = start(tmp_path / "run", master_port, "optim.steps=100000", ignored=ignored)
    ranks = _ranks_of(process.pid)
    assert len(ranks) == 2, ranks
    for number in ignored:
        process.send_signal(number)
    time.sleep(3)
    assert process.poll() is None and _alive(ranks) == ranks
    process.terminate()
    assert process.wait(timeout=60) == 75
    assert not _alive(ranks)


@pytest.mark.parametrize("engine", ["deepspeed", "torch"])
def test_a_run_that_was_asked_to_stop_goes_on_as_if_it_had_not(
    launch, overrides, start, tmp_path, master_port, engine
):
    more = ("optim.steps=150", "run.checkpoint_every=30", f"engine.kind={engine}")
    process = start(tmp_path / "run", master_port, *more)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=120) == 75
    step = _saved_step(tmp_path / "run")
    assert 30 <= step < 150
    options = {"DEEPSPEED_ARGS": f"--num_gpus 2 --master_port {master_port}"}
    again = launch("bash", *TINY, *overrides(tmp_path / "run", *more), **options)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"going on after step {step} of 150" in again.stdout
    straight = launch("bash", *TINY, *overrides(tmp_path / "straight", *more), **options)
    assert straight.returncode == 0, straight.stdout + straight.stderr
    expected = [pytest.approx(r, rel=0, nan_ok=True) for r in losses(tmp_path / "straight")]
    assert losses(tmp_path / "run") == expected


BARE = {
    "deepspeed": ("deepspeed", "--num_gpus", "2", "--master_port"),
    "torchrun": ("torchrun", "--nproc_per_node", "2", "--master_port"),
}


@pytest.mark.parametrize(
    ("launcher", "number"),
    [(name, number) for name in BARE for number in (signal.SIGTERM, signal.SIGKILL)],
)
def test_the_end_of_a_bare_launcher_ends_every_rank(start, tmp_path, master_port, launcher, number):
    command = (*BARE[launcher], master_port)
    process = start(tmp_path / "run", master_port, "optim.steps=100000", command=command)
    ranks = _processes_below(process.pid)
    assert len(ranks) >= 2, ranks
    process.send_signal(number)
    process.wait(timeout=60)
    deadline = time.monotonic() + 60
    while _alive(ranks) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(ranks)
    if number == signal.SIGTERM:
        assert _saved_step(tmp_path / "run") == _last_step(tmp_path / "run")
    if (launcher, number) == ("torchrun", signal.SIGTERM):
        return  # it hands the signal on: the ranks leave as if they alone had got it
    told = (tmp_path / "run.err").read_text()
    # The inner launcher may still pass a TERM on before the ranks see that the outer one is gone.
    words = ("the launcher has gone, so its ranks end", "interrupted")
    assert sum(told.count(f"{word}; the same command goes on") for word in words) == 1


def test_a_rank_that_is_stopped_ends_the_run_with_one_message(start, tmp_path, master_port):
    """Within the limit, 5 s until rank 1 may speak, and the 30 s of grace that a launcher gives.

    Two runs wait at the same time, since each takes a minute.
    """
    running = []
    for number, (engine, stopped) in enumerate((("deepspeed", 1), ("torch", 0))):
        more = ("optim.steps=100000", f"engine.kind={engine}", "run.timeout_minutes=0.2")
        process = start(tmp_path / engine, str(int(master_port) + number), *more)
        ranks = _ranks_of(process.pid)
        assert len(ranks) == 2, ranks
        os.kill(ranks[stopped], signal.SIGSTOP)
        running.append((process, ranks, engine, stopped))
    for process, ranks, engine, stopped in running:
        assert process.wait(timeout=240) == 2
        assert not _alive(ranks)
        told = (tmp_path / f"{engine}.err").read_text()
        assert told.count("waited run.timeout_minutes=0.2 for another rank") == 1
        assert f"rank {1 - stopped} waited" in told
        assert "Traceback" not in told.split("pretrain: ")[0]


def test_a_local_rank_of_somebody_else_is_no_rank(overrides, launch, tmp_path, master_port):
    launcher = {"LOCAL_RANK": "1", "DEEPSPEED_ARGS": f"--num_gpus 2 --master_port {master_port}"}
    done = launch("bash", *TINY, *overrides(tmp_path), "optim.steps=4", **launcher)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 ranks on CPU" in done.stdout


def test_a_full_disk_under_the_state_of_two_ranks_is_one_message(
    overrides, launch, tmp_path, master_port
):
    """No file may grow beyond 4 MB: the weights have 3, AdamW's moments 6."""
    ranks = f"deepspeed --num_gpus 2 --master_port {master_port}"
    limited = ("bash", "-c", f'ulimit -f 3900; exec {ranks} "$@"', "bash", *TINY)
    done = launch(*limited, *overrides(tmp_path, "engine.zero_stage=1"))
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("cannot save step-000004") == 1
    assert f"cannot save step-000004 in {tmp_path}/checkpoints: File too large" in done.stderr
    assert "state/adamw.pt" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "checkpoints/latest").exists()
    assert not list((tmp_path / "checkpoints").glob("*step*"))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("few", "1 shards for 2 ranks; extract again with fewer clips a shard"),
        ("cut", "000001.tar has 1000 bytes, its manifest says"),
        ("flipped", "000001.tar has sha256"),
        ("foreign", "(read by "),
    ],
)
def test_shards_that_two_ranks_cannot_use_are_refused_by_one_message(
    overrides, launch, tmp_path, harm, words
):
    """Before a model is built. A flipped bit is found by the rank that verifies the shard."""
    mine, output = tmp_path / "shards", tmp_path / "run"
    clips = [toys.numbered(number) for number in range(40)]
    toys.write_shards(mine, clips, 1 if harm == "few" else 2)
    again = [f"data.shards=[{mine}]", "data.validation_share=0", "run.checkpoint_every=12"]
    torchrun = ("torchrun", "--standalone", "--nproc_per_node", "2", *TINY)
    command = [*torchrun, *overrides(output, *again, "engine.kind=torch")]
    if harm == "foreign":
        assert launch(*command).returncode == 0
        for path in mine.glob("*.json"):
            path.write_text(path.read_text().replace("f" * 64, "e" * 64))
    elif harm != "few":
        tar = mine / "000001.tar"
        if harm == "flipped":
            toys.flip_bit(tar)
        else:
            tar.write_bytes(tar.read_bytes()[:1000])
    metrics = output / "metrics.csv"
    before = metrics.read_text() if harm == "foreign" else ""
    done = launch(*command)
    assert done.returncode == 1  # torchrun's, of ranks that left with 2
    told = done.stdout + done.stderr
    assert told.count("pretrain: ") == 1, told
    assert words in told
    assert metrics.exists() == (harm == "foreign")
    if harm == "foreign":
        assert metrics.read_text() == before


def test_two_ranks_find_another_run_in_their_folder(
    overrides, start, launch, tmp_path, master_port
):
    """As after a launcher that was killed and left its ranks training."""
    output = tmp_path / "run"
    process = start(output, master_port, "optim.steps=100000")
    command = ("deepspeed", "--num_gpus", "2", "--master_port", str(int(master_port) + 1), *TINY)
    second = launch(*command, *overrides(output))
    process.terminate()
    process.wait(timeout=60)
    assert second.returncode == 2
    told = second.stdout + second.stderr
    assert told.count("another run (pid ") == 1 and f"is writing to {output};" in told
    assert "Traceback" not in told


def test_bash_with_two_ranks_killed_and_rerun(
    overrides, start, launch, plain, tmp_path, master_port
):
    """A rank that dies ends the others, with an exit code; the same command goes on, and so does
    the plain twin on one rank."""
    launcher = {"DEEPSPEED_ARGS": f"--num_gpus 2 --master_port {master_port}"}
    output = tmp_path / "bash"
    command = ["bash", *TINY, *overrides(output, "data.micro_batch_clips=3")]
    process = start(output, master_port, "data.micro_batch_clips=3")
    latest = output / "checkpoints/latest"
    ranks = _ranks_of(process.pid)
    assert len(ranks) == 2, ranks
    os.kill(ranks[-1], signal.SIGKILL)
    assert process.wait(timeout=600) != 0
    assert not _alive(ranks)
    assert latest.read_text().strip() in ("step-000004", "step-000008")

    again = launch(*command, **launcher)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "going on after step" in again.stdout
    assert losses(output) == close(plain)

    latest.write_text("step-000008")
    alone = launch(sys.executable, *TINY, *overrides(output, "engine.kind=torch"))
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert "was saved by 2 ranks, now there are 1" in alone.stdout
    assert losses(output) == close(plain)


def test_a_user_error_is_one_message_and_a_failing_exit_code(overrides, launch, tmp_path):
    done = launch(sys.executable, *TINY, *overrides(tmp_path), "optim.stepz=3")
    assert done.returncode == 2
    assert done.stderr.startswith("pretrain: optim.stepz=3: there is no setting 'optim.stepz'")
    assert "Traceback" not in done.stderr


def test_bash_finds_no_fault_in_the_script(launch):
    assert launch("bash", "-n", "launch/pretrain.sh").returncode == 0


def _saved_step(output: Path) -> int:
    """Of the newest checkpoint."""
    return int((output / "checkpoints/latest").read_text().strip().removeprefix("step-"))


def _last_step(output: Path) -> int:
    """Of those in metrics.csv, where every step has a row."""
    return int((output / "metrics.csv").read_text().splitlines()[-1].partition(",")[0])


def _ranks_of(launcher: int) -> list[int]:
    """Processes below `launcher` that train: they were given --local_rank."""
    return [
        pid
        for pid, words in _processes_below(launcher).items()
        if any(word.startswith("--local_rank=") for word in words)
    ]


def _processes_below(pid: int) -> dict[int, list[str]]:
    """Every process below `pid` and its words, by number."""
    below = {process.pid: process.cmdline() for process in psutil.Process(pid).children(True)}
    return dict(sorted(below.items()))


def _alive(pids: Iterable[int]) -> list[int]:
    """Those that run, or could: what has ended and is still in the table has not."""
    return [
        pid
        for pid in pids
        if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ]
