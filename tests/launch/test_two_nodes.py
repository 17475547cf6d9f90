"""docs/cluster.md without Slurm: each command on two "nodes" of this machine."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import toys
from ssh_host import started_sshd

from pretrain.objectives import OBJECTIVES

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
SCRIPT = "launch/pretrain.sh"
MARK = "MEMOBERT_TESTS"  # by which conftest.py knows what a test has started
ENTRY = ("python", "-m", "pretrain.cli")


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> list[str]:
    """Of six steps of a tiny model without dropout."""
    clips = [toys.numbered(number) for number in range(40)]
    shards = toys.write_shards(tmp_path_factory.mktemp("toy") / "shards", clips, 4)
    return [
        *("--config", "configs/pretrain/tiny.yaml", "model.text_init=none", "model.width=24"),
        *("model.num_layers=1", "model.num_heads=2", "model.ffn_width=48", "model.dropout=0"),
        *("optim.steps=6", "optim.warmup_steps=2", "run.device=cpu", "run.log_every=1"),
        f"data.shards=[{shards}]",
    ]


@pytest.fixture(scope="module")
def together(root, environment):
    """Start commands at once, each with variables of its own; all must end well. What they say."""

    def together(*commands: tuple[list[str], dict[str, str]]) -> str:
        running = [
            subprocess.Popen(
                command,
                cwd=root,
                env=environment | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for command, variables in commands
        ]
        told = [process.communicate(timeout=500)[0] for process in running]
        assert [process.returncode for process in running] == [0] * len(running), "\n".join(told)
        return "\n".join(told)

    return together


def port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def losses(output: Path) -> list[list[float]]:
    with open(output / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [[float(row[name] or "nan") for name in ("loss", *OBJECTIVES)] for row in rows]


@pytest.fixture(scope="module")
def alone(settings, together, tmp_path_factory) -> list:
    """Losses of one process."""
    output = tmp_path_factory.mktemp("alone")
    together(([*ENTRY, *settings, f"run.output={output}", "engine.kind=torch"], {}))
    return [pytest.approx(row, rel=1e-5, nan_ok=True) for row in losses(output)]


def test_every_way_to_start_two_ranks_has_the_same_losses(settings, together, alone, tmp_path):
    def words(name: str) -> list[str]:
        return [*settings, f"run.output={tmp_path / name}"]

    hosts = tmp_path / "hosts"
    hosts.write_text("localhost slots=1\n127.0.0.1 slots=1\n")
    launcher = ["deepspeed", "--hostfile", str(hosts), "--no_ssh", "--master_addr", "127.0.0.1"]
    launcher += ["--master_port", port()]
    nodes = [[*launcher, "--node_rank", str(n), SCRIPT, *words("deepspeed")] for n in (0, 1)]
    said = together(*((node, {}) for node in nodes))
    assert "2 ranks on CPU" in said
    assert losses(tmp_path / "deepspeed") == alone

    meeting = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"localhost:{port()}"]
    node = ["torchrun", "--nnodes", "2", "--nproc_per_node", "1", *meeting, SCRIPT]
    said = together(*[([*node, *words("torchrun")], {})] * 2)
    assert "2 ranks on CPU" in said
    assert losses(tmp_path / "torchrun") == alone

    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port()}
    ranks = [common | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in (0, 1)]
    said = together(*(([*ENTRY, *words("by_hand")], variables) for variables in ranks))
    assert "2 ranks on CPU" in said
    assert losses(tmp_path / "by_hand") == alone


@pytest.fixture(scope="module")
def by_ssh(environment, tmp_path_factory) -> dict[str, str]:
    """Variables of a user whose ssh reaches node1 and node2; what comes there has one thread, by
    the file that DeepSpeed's launcher reads such variables from."""
    folder = tmp_path_factory.mktemp("ssh")
    (folder / "deepspeed_env").write_text("OMP_NUM_THREADS=1\n")
    (folder / "hosts").write_text("node1 slots=1\nnode2 slots=1\n")
    with started_sshd(folder / "d", ("node1", "node2"), **{MARK: os.environ[MARK]}) as tools:
        yield {
            "PATH": os.pathsep.join((str(tools), environment["PATH"])),
            "DS_ENV_FILE": str(folder / "deepspeed_env"),
            "DEEPSPEED_ARGS": f"--hostfile {folder / 'hosts'} --master_port {port()}",
        }


def test_deepspeed_by_ssh_has_the_losses_of_one_process(
    settings, together, by_ssh, alone, tmp_path
):
    command = ["deepspeed", *by_ssh["DEEPSPEED_ARGS"].split(), SCRIPT, *settings]
    said = together(([*command, f"run.output={tmp_path}"], by_ssh))
    assert "2 ranks on CPU, 1 CPU threads each" in said
    assert losses(tmp_path) == alone


@pytest.mark.parametrize(
    ("launcher", "number", "code"),
    [
        ("deepspeed", signal.SIGTERM, 1),
        ("bash", signal.SIGHUP, 129),
        ("a lost connection", signal.SIGKILL, 75),
    ],
)
def test_what_ends_a_launcher_ends_the_ranks_that_it_has_by_ssh(
    root, environment, settings, by_ssh, tmp_path, launcher, number, code
):
    """On TERM DeepSpeed ends whatever its python has launched on the nodes, so here that python
    has a name of its own: other tests are on the same machine."""
    (tmp_path / "venv").symlink_to(Path(sys.executable).parents[1])
    tools = tmp_path / "venv/bin"
    words = [SCRIPT, *settings, "optim.steps=100000", "run.checkpoint_every=20"]
    if launcher == "bash":
        command = ["bash", *words]
    else:
        python = str(tools / Path(sys.executable).name)
        command = [python, str(tools / "deepspeed"), *by_ssh["DEEPSPEED_ARGS"].split(), *words]
    output = tmp_path / "run"
    with open(tmp_path / "told", "w") as told:
        process = subprocess.Popen(
            [*command, f"run.output={output}"],
            cwd=root,
            env=environment | by_ssh,
            stdout=told,
            stderr=subprocess.STDOUT,
            # Where the tests run under nohup, HUP would be ignored from the start.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )
    latest, deadline = output / "checkpoints/latest", time.monotonic() + 300
    while not latest.exists() and time.monotonic() < deadline:
        assert process.poll() is None, (tmp_path / "told").read_text()
        time.sleep(0.05)
    ranks = ranks_of(output)
    assert len(ranks) == 2, (tmp_path / "told").read_text()
    target = process
    if launcher == "a lost connection":
        below = psutil.Process(process.pid).children(recursive=True)
        (target,) = [p for p in below if p.name() == "ssh" and "node2" in p.cmdline()]
    target.send_signal(number)
    assert process.wait(timeout=60) == code, (tmp_path / "told").read_text()
    assert not psutil.wait_procs(ranks, timeout=60)[1]
    last = (output / "metrics.csv").read_text().splitlines()[-1].partition(",")[0]
    assert latest.read_text().strip() == f"step-{int(last):06}"


def ranks_of(output: Path) -> list[psutil.Process]:
    """Processes that train into `output`."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if f"run.output={output}" in words and "--local_rank=0" in words:
            found.append(process)
    return found


def test_shares_of_extraction_and_finetuning_on_two_machines(root, together, tmp_path):
    shards, results = tmp_path / "shards", tmp_path / "results"
    extract = ["python", "-m", "data_pipeline.extract", "--config", "configs/data/demo.yaml"]
    extract += ["transcriber=null", "workers=1", f"output={shards}"]
    shares = [[f"array.index={index}", "array.count=2"] for index in (0, 1)]
    together(*(([*extract, *share], {}) for share in shares))
    said = together((["python", "-m", "data_pipeline.summary", str(shards)], {}))
    assert "input clips 12 = samples 12 + rejects 0" in said

    checkpoint = tmp_path / "pretrain"
    train = [*ENTRY, "--config", "configs/pretrain/tiny.yaml", "model.text_init=none"]
    train += ["optim.steps=2", "optim.warmup_steps=1", "run.device=cpu"]
    together(([*train, f"data.shards=[{shards}]", f"run.output={checkpoint}"], {}))
    tune = ["accelerate", "launch", "--quiet", "finetune/run.py"]
    tune += ["--config", "configs/finetune/demo.yaml", f"data.shards=[{shards}]"]
    tune += ["settings=[direct]", "plans.direct.num_steps=2"]
    tune += [f"model.checkpoint={checkpoint}", f"output={results}"]
    said = together(*(([*tune, *share], {}) for share in shares))
    assert "task 0 of 2 is done" in said and "task 1 of 2 is done" in said
    assert not (results / "results.csv").exists()
    collect = (["python", "-m", "finetune.collect", str(results)], {})
    assert "2 rows in" in together(collect)

    (lost, _) = sorted((results / "runs/direct").iterdir())
    (lost / "row.json").unlink()
    done = subprocess.run(
        [sys.executable, "-m", *collect[0][2:]], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 1 and "1 runs that were asked for have no row" in done.stderr

    (shards / "000002.json").unlink()
    summary = [sys.executable, "-m", "data_pipeline.summary", str(shards)]
    done = subprocess.run(summary, cwd=root, capture_output=True, text=True)
    assert done.returncode == 1 and "3 of 4 shards are there" in done.stdout
    assert "the same extraction does what is missing" in done.stderr
