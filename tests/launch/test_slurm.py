"""launch/slurm on a real scheduler: two nodes of this machine, see tests/slurm_cluster.py."""

import csv
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import toys
from slurm_cluster import Cluster, started_cluster

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
TINY = (
    *("--config", "configs/pretrain/tiny.yaml", "model.text_init=none", "model.width=24"),
    *("model.num_layers=1", "model.num_heads=2", "model.ffn_width=48", "optim.warmup_steps=2"),
    *("run.device=cpu", "run.log_every=1", "run.checkpoint_every=7", "run.validate_every=1000"),
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Cluster:
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
    environment |= {"PATH": tools, "OMP_NUM_THREADS": "1", "MEMOBERT_SITE": "/dev/null"}
    with started_cluster(tmp_path_factory.mktemp("slurm") / "c", environment) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    clips = [toys.numbered(number) for number in range(40)]
    return toys.write_shards(tmp_path_factory.mktemp("toy") / "shards", clips, 4)


@pytest.fixture
def sbatch(root, cluster, tmp_path):
    """Submit a script of launch/slurm from the project; returns the job's number."""

    def sbatch(script: str, *words: str, options: tuple[str, ...] = (), **more: str) -> str:
        command = ("sbatch", "--parsable", f"--output={tmp_path}/%x-%A-%a.log", *options)
        return cluster.call(*command, str(root / "launch/slurm" / script), *words, cwd=root, **more)

    return sbatch


@pytest.fixture
def pretraining(sbatch, shards):
    """Submit a run of two ranks on two nodes, one rank each."""

    def pretraining(output: Path, *words: str) -> str:
        told = (*TINY, f"data.shards=[{shards}]", f"run.output={output}", *words)
        return sbatch("pretrain.sbatch", *told, options=("--nodes=2", "--ntasks-per-node=1"))

    return pretraining


@pytest.fixture(scope="module")
def straight(root, cluster, shards, tmp_path_factory) -> list[list[str]]:
    """metrics.csv of two ranks that nothing stopped, 60 steps."""
    folder = tmp_path_factory.mktemp("straight")
    command = ("sbatch", "--parsable", f"--output={folder}/log", "--nodes=2", "--ntasks-per-node=1")
    words = (*TINY, f"data.shards=[{shards}]", f"run.output={folder}/run", "optim.steps=60")
    job = cluster.call(*command, "launch/slurm/pretrain.sbatch", *words, cwd=root)
    assert cluster.wait(job) == "COMPLETED", cluster.log(job)
    return losses(folder / "run")


def losses(output: Path) -> list[list[str]]:
    """metrics.csv but for what is of the clock and of memory, to the last digit."""
    with open(output / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [n for n in rows[0] if not re.search("per_second|seconds|memory|bytes|gb", n)]
    return [[row[name] for name in kept] for row in rows]


def ranks_of(output: Path) -> list[psutil.Process]:
    """Processes that train into `output`, by rank."""
    found = processes("pretrain.cli", f"run.output={output}")
    return sorted(found, key=lambda process: process.environ().get("SLURM_PROCID", ""))


def processes(*wanted: str, task: str | None = None) -> list[psutil.Process]:
    """Pythons with these words in their command line, of one task of an array."""
    found = []
    for process in psutil.process_iter():
        try:
            words, told = process.cmdline(), process.environ()
        except psutil.Error:
            continue
        if words and "python" in Path(words[0]).name and set(wanted) <= set(words):
            if task is None or told.get("SLURM_ARRAY_TASK_ID") == task:
                found.append(process)
    return found


def tars(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.tar")}


def test_asked_to_stop_a_job_saves_is_requeued_and_goes_on_to_the_bit(
    cluster, pretraining, straight, tmp_path
):
    job = pretraining(tmp_path / "run", "optim.steps=60")
    cluster.wait_for_words(job, "step 9 |")
    cluster.call("scancel", "--batch", "--signal=USR1", job)
    cluster.wait_for_words(job, "start 2, on")
    assert cluster.wait(job) == "COMPLETED", cluster.log(job)
    said = cluster.log(job)
    assert "stopped by SIGUSR1 after step" in said and "which is saved" in said
    assert "start 2, on n[1-2]" in said and "going on after step" in said
    assert losses(tmp_path / "run") == straight


def test_scancel_at_any_moment_loses_nothing(cluster, pretraining, straight, tmp_path):
    draw = random.Random(5)
    job = ""
    for _ in range(5):
        job = pretraining(tmp_path / "run", "optim.steps=60")
        cluster.wait(job, "RUNNING", "COMPLETED")
        time.sleep(draw.uniform(0, 9))
        cluster.call("scancel", job)
        assert cluster.wait(job) in ("CANCELLED", "COMPLETED"), cluster.log(job)
        assert not ranks_of(tmp_path / "run")
    job = pretraining(tmp_path / "run", "optim.steps=60")
    assert cluster.wait(job) == "COMPLETED", cluster.log(job)
    assert losses(tmp_path / "run") == straight


def test_a_dead_rank_ends_the_job_with_its_reason(cluster, pretraining, tmp_path):
    job = pretraining(tmp_path / "run", "optim.steps=100000")
    cluster.wait_for_words(job, "step 9 |")
    ranks_of(tmp_path / "run")[-1].send_signal(signal.SIGKILL)
    assert cluster.wait(job) == "FAILED"
    assert cluster.exit_code(job) != 0 and not ranks_of(tmp_path / "run")
    last = cluster.log(job).splitlines()[-1]
    assert last == "pretrain: exit code 137; srun: error: n2: task 1: Killed", cluster.log(job)


@pytest.mark.parametrize(
    ("script", "words", "reason"),
    [
        ("pretrain.sbatch", ("optim.step=3",), "there is no setting 'optim.step'"),
        ("extract.sbatch", ("clips=/nowhere.csv", "output=x"), "no clip table /nowhere.csv"),
        ("finetune.sbatch", ("seeds=[1,1]",), "expected at least one, none twice"),
    ],
)
def test_a_job_that_must_fail_says_why_on_its_last_line(cluster, sbatch, script, words, reason):
    options = ("--array=0",) if script != "pretrain.sbatch" else ()
    job = sbatch(script, *words, options=options)
    assert cluster.wait(job) == "FAILED"
    assert cluster.exit_code(job) == 2
    last = cluster.log(job).splitlines()[-1]
    assert "exit code 2; " in last and reason in last, cluster.log(job)


def test_slurms_own_words_may_stand_inside_the_reason(root):
    said = """finetune: the command line:
srun: error: n1: task 0: Exited with exit code 2
slurmstepd: error: *** STEP 12.0 ON n1 CANCELLED ***
  seeds [1, 1]; expected at least one, none twice
srun: Terminating StepId=12.0"""
    done = sourced(root, 'said="$SAID"; reason', SAID=said)
    expected = "finetune: the command line: seeds [1, 1]; expected at least one, none twice\n"
    assert done.stdout == expected, done.stderr


def test_slurm_answers_a_job_that_is_asked_to_stop_a_second_time(root):
    done = sourced(root, """ask bash -c 'kill -TERM $$; kill -USR1 $$; echo RUNNING'""")
    assert done.stdout == "RUNNING\n", done.stderr


def sourced(root, script: str, **more: str) -> subprocess.CompletedProcess[str]:
    """What a line of bash says that has sourced what the jobs have in common."""
    return subprocess.run(
        ["bash", "-c", f"source launch/slurm/job.sh; {script}"],
        cwd=root,
        env={**os.environ, "SLURM_SUBMIT_DIR": str(root), **more},
        capture_output=True,
        text=True,
    )


WAITS = """
import os, pathlib, signal, sys, time
def leave(number, frame): print("asked", flush=True); os._exit(75)
signal.signal(signal.SIGUSR1, leave)
signal.signal(signal.SIGTERM, leave)
print("waits", os.environ.get("SLURM_RESTART_COUNT", "0"), flush=True)
{act}
done = pathlib.Path(sys.argv[1])
while not done.exists(): time.sleep(0.05)
"""


@pytest.fixture
def waits(sbatch, tmp_path):
    """Submit a job that waits for the file `done`, and leaves with 75 where it is asked to stop."""

    def waits(*options: str, act: str = "", script: str = "command.sbatch", **more: str) -> str:
        program = tmp_path / "waits.py"
        program.write_text(WAITS.replace("{act}", act))
        command = ("python", str(program), str(tmp_path / "done"))
        return sbatch(script, *command, options=options, **more)

    return waits


def test_one_task_of_an_array_goes_back_into_the_queue_and_no_other(cluster, waits, tmp_path):
    job = waits("--array=0-2")
    for task in range(3):
        cluster.wait_for_words(f"{job}_{task}", "waits 0")
    cluster.call("scancel", "--batch", "--signal=USR1", f"{job}_2")  # has the array's own number
    cluster.wait_for_words(f"{job}_2", "waits 1")
    (tmp_path / "done").touch()
    for task in range(3):
        assert cluster.wait(f"{job}_{task}") == "COMPLETED", cluster.log(f"{job}_{task}")
        assert cluster.log(f"{job}_{task}").count("\nasked\n") == (task == 2)
        assert cluster.facts(f"{job}_{task}")["Restarts"] == str(int(task == 2))


def test_what_is_preempted_goes_on_when_the_urgent_job_has_ended(
    cluster, pretraining, straight, sbatch, waits, tmp_path
):
    """One of two nodes and an array's tasks, each on a core; the urgent job wants all four."""
    job = pretraining(tmp_path / "run", "optim.steps=60")
    cluster.wait(job, "RUNNING")  # on both nodes, which the array could not have filled
    array = waits("--array=0-1")
    cluster.wait_for_words(job, "step 9 |")
    urgent = sbatch("command.sbatch", "true", options=("--partition=urgent", "--ntasks=4"))
    assert cluster.wait(urgent) == "COMPLETED", cluster.log(urgent)
    for task in (f"{array}_0", f"{array}_1"):
        cluster.wait_for_words(task, "waits 1")
        assert cluster.facts(task)["PreemptTime"] == "None"  # of this start
    (tmp_path / "done").touch()
    for preempted in (job, f"{array}_0", f"{array}_1"):
        assert cluster.wait(preempted) == "COMPLETED", cluster.log(preempted)
        assert cluster.facts(preempted)["Restarts"] == "1"
        assert "was preempted; goes back into the queue" in cluster.log(preempted)
    said = cluster.log(job)
    assert "stopped by SIGTERM after step" in said and "going on after step" in said, said
    assert losses(tmp_path / "run") == straight


def test_a_job_does_not_go_back_into_the_queue_for_ever(root, cluster, waits, tmp_path):
    """A task that is killed and a job that is asked to stop, at each of their starts."""
    shutil.copytree(root / "launch/slurm", tmp_path / "slurm")
    script = tmp_path / "slurm/extract.sbatch"
    script.write_text(re.sub("(?m)^run_step .*", 'run_step "$@"', script.read_text()))
    site = tmp_path / "site.sh"
    site.write_text("RESTARTS=1\n")
    act = "os.kill(os.getpid(), signal.SIGKILL) if 'SLURM_ARRAY_TASK_ID' in os.environ else "
    act += "os._exit(75)"
    killed = waits("--array=3", act=act, script=str(script))
    asked = waits(act=act, MEMOBERT_SITE=str(site))
    for job, name, restarts, code, why in (
        (asked, "memobert", 1, 75, "was asked to stop"),
        (f"{killed}_3", "extract", 3, 137, "was killed"),
    ):
        assert cluster.wait(job) == "FAILED", cluster.log(job)
        assert cluster.facts(job)["Restarts"] == str(restarts) and cluster.exit_code(job) == code
        said = cluster.log(job)
        assert said.count(f"{name}: {why}; goes back into the queue") == restarts
        *_, limit, last = said.splitlines()
        assert limit.startswith(f"== {name}: {why} once more, after {restarts} restarts: give"), (
            said
        )
        assert last.startswith(f"{name}: exit code {code}; srun: error: n"), said


def test_a_rank_that_fails_ends_the_job_though_others_would_go_on(cluster, waits):
    broken = "if os.environ['SLURM_PROCID'] == '1': time.sleep(1); raise ImportError('no torch')"
    job = waits("--nodes=2", "--ntasks=2", act=broken)
    assert cluster.wait(job) == "FAILED", cluster.log(job)
    assert cluster.facts(job)["Restarts"] == "0"
    assert cluster.log(job).splitlines()[-1].endswith("ImportError: no torch")


def test_ranks_that_leave_one_after_the_other_go_on_all_the_same(cluster, waits, tmp_path):
    slow = "if os.environ['SLURM_PROCID'] == '1': signal.signal(signal.SIGTERM, signal.SIG_DFL); "
    slow += "signal.signal(signal.SIGUSR1, lambda *_: time.sleep(60))"
    job = waits("--nodes=2", "--ntasks=2", act=slow)
    cluster.wait_for_words(job, "waits 0")
    time.sleep(1)
    cluster.call("scancel", "--signal=USR1", job)
    cluster.wait_for_words(job, "waits 1")
    (tmp_path / "done").touch()
    assert cluster.wait(job) == "COMPLETED", cluster.log(job)


def test_a_job_that_may_not_be_requeued_says_so(cluster, waits):
    job = waits("--no-requeue")
    cluster.wait_for_words(job, "waits 0")
    cluster.call("scancel", "--batch", "--signal=USR1", job)
    assert cluster.wait(job) == "FAILED" and cluster.exit_code(job) == 75
    assert "was asked to stop, and may not be requeued" in cluster.log(job)
    assert "goes back" not in cluster.log(job)


def test_an_array_loses_nothing_to_a_kill_and_a_lost_node(root, cluster, sbatch, tmp_path):
    words = ("--config", "configs/data/demo.yaml", "transcriber=null", "workers=1")
    job = sbatch("extract.sbatch", *words, f"output={tmp_path}/a", options=("--array=0-3",))
    cluster.wait_for_words(f"{job}_0", "ok ")
    (first,) = processes("data_pipeline.extract", task="0")
    first.kill()  # as for want of memory
    cluster.wait_for_words(f"{job}_3", "ok ")
    cluster.call("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    cluster.call("scontrol", "update", "nodename=n2", "state=resume")
    after = (f"--dependency=afterany:{job}", "--kill-on-invalid-dep=yes")
    sums = ("python", "-m", "data_pipeline.summary", f"{tmp_path}/a")
    summary = sbatch("command.sbatch", *sums, options=after)
    assert cluster.wait(summary) == "COMPLETED", cluster.log(summary)
    assert "input clips 12 = samples 12 + rejects 0" in cluster.log(summary)
    told = "".join(path.read_text() for path in tmp_path.glob("extract-*.log"))
    assert "start 2, on" in told, told
    plain = sbatch("extract.sbatch", *words, f"output={tmp_path}/b", options=("--array=0",))
    assert cluster.wait(plain) == "COMPLETED", cluster.log(plain)
    assert tars(tmp_path / "a") == tars(tmp_path / "b")


def test_two_pipelines_at_once_and_again(root, cluster, tmp_path):
    site = tmp_path / "site.sh"
    site.write_text('PRETRAIN="--nodes=2 --ntasks-per-node=1"\n')

    def submit(output: Path, *more: str, fails: bool = False) -> str:
        done = cluster.run(
            *("bash", "launch/slurm/pipeline.sh", "--config", "configs/pipeline/demo.yaml"),
            f"output={output}",
            "extract.settings=[transcriber=null, workers=1]",
            "pretrain.settings=[optim.steps=12, run.device=cpu]",
            'finetune.settings=["settings=[direct]"]',
            *more,
            cwd=root,
            MEMOBERT_SITE=str(site),
        )
        assert done.returncode == 2 * fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    outputs = [tmp_path / "one, with spaces", tmp_path / "two"]
    told = [submit(output) for output in outputs]
    jobs = [dict(re.findall(r"^(\w+) +(\d+)", lines, re.MULTILINE)) for lines in told]
    assert [*jobs[0]] == ["extract", "summary", "pretrain", "finetune", "collect"]
    assert "waits for pretrain" in told[0].splitlines()[3]
    cluster.call("scontrol", "hold", jobs[0]["finetune"])  # whatever comes before it may have ended
    said = submit(outputs[0])
    assert said.count("is queued already") + said.count("is done") == 5
    assert "is queued with other words" in submit(outputs[0], "finetune.settings=[]", fails=True)
    cluster.call("scontrol", "release", jobs[0]["finetune"])
    for output, of_run in zip(outputs, jobs, strict=True):
        state = cluster.wait(of_run["collect"], seconds=600)
        logs = "".join(path.read_text()[-800:] for path in sorted(output.glob("jobs/*.log")))
        assert state == "COMPLETED", logs
        with open(output / "finetune/results.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == 2
    assert submit(outputs[0]).count("is done") == 5
    assert tars(outputs[0] / "shards") == tars(outputs[1] / "shards")
    changed = "pretrain.settings=[optim.steps=12, run.device=cpu, optim.weight_decay=0.5]"
    assert "is done with other settings, now optim.weight_decay" in submit(outputs[0], changed)
    shutil.rmtree(outputs[0] / "finetune/runs/direct")
    again = submit(outputs[0])
    assert again.count("is done") == 3 and "finetune" in again.splitlines()[3]
    job = re.search(r"^collect +(\d+)", again, re.MULTILINE)[1]
    assert cluster.wait(job, seconds=600) == "COMPLETED", cluster.log(job)


def test_a_site_file_that_is_not_there_is_told_before_anything_is_submitted(root, cluster):
    command = ("bash", "launch/slurm/pipeline.sh", "--config", "configs/pipeline/demo.yaml")
    done = cluster.run(*command, cwd=root, MEMOBERT_SITE="/nowhere/site.sh")
    assert done.returncode == 2 and "no site file /nowhere/site.sh" in done.stderr


def test_what_waits_for_a_failed_job_does_not_wait_for_ever(root, cluster, tmp_path):
    told = cluster.call(
        *("bash", "launch/slurm/pipeline.sh", "--config", "configs/pipeline/demo.yaml"),
        f"output={tmp_path}/out",
        "extract.settings=[transcriber=/nowhere]",
        cwd=root,
    )
    jobs = dict(re.findall(r"^(\w+) +(\d+)", told, re.MULTILINE))
    assert cluster.wait(jobs["collect"]) == "CANCELLED"
    assert cluster.state(jobs["summary"]) == "FAILED"


def test_the_doctor_looks_at_both_nodes_before_a_long_job_queues(cluster, sbatch, shards, tmp_path):
    def doctor(*words: str) -> str:
        told = (*TINY, f"run.output={tmp_path / 'run'}", *words)
        return sbatch("doctor.sbatch", *told, options=("--nodes=2", "--ntasks-per-node=1"))

    well, ill = doctor(f"data.shards=[{shards}]"), doctor("data.shards=[/nowhere]")
    assert cluster.wait(well) == "COMPLETED", cluster.log(well)
    assert "2 ranks met" in cluster.log(well) and "0 errors" in cluster.log(well)
    assert cluster.wait(ill) == "FAILED" and cluster.exit_code(ill) == 2
    last = cluster.log(ill).splitlines()[-1]
    assert "/nowhere" in cluster.log(ill) and "doctor: exit code 2; doctor: 1 error" in last, last
