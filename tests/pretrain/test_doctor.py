"""The doctor of a pretraining. Nodes are made up as facts: what differs is found by plain
functions; two threads that share a store stand in for two ranks."""

import contextlib
import dataclasses
import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import toys

from data_pipeline.config import load_config
from pretrain.build import build_model
from pretrain.checkpoint.folder import save_checkpoint
from pretrain.checkpoint.integrity import write_digests
from pretrain.config import PretrainConfig
from pretrain.doctor import disk, meeting
from pretrain.doctor.disk import Seen, check_disk, check_room, probe
from pretrain.doctor.facts import Facts, checkpoint_bytes, look, num_weights
from pretrain.doctor.findings import (
    check_clocks,
    check_data,
    check_launcher,
    check_output,
    check_versions,
)
from pretrain.doctor.group import check_sums
from pretrain.doctor.meeting import LeaderRefused, Meeting, MeetingError, open_meeting
from pretrain.doctor.page import page
from pretrain.doctor.visit import check_meeting, visit
from pretrain.output import holder_of

VERSIONS = {"python": "3.11.9", "torch": "2.8.0", "driver": "570.1", "deepspeed": "0.19.0"}


def fact(rank: int, host: str, **changes: Any) -> Facts:
    """Of one of four ranks on two nodes with two GPUs each, all well."""
    well = {
        "rank": rank,
        "local_rank": rank % 2,
        "host": host,
        "launcher": "torchrun",
        "num_gpus": 2,
        "gpu": "H100",
        "versions": VERSIONS,
        "commit": "c" * 40,
        "cores": 16,
        "memory_bytes": 128 * 10**9,
        "output": "/data/run",
        "output_free": 10**12,
        "shards_free": 10**12,
        "shards": {"/data/shards": [8, "5d"]},
        "clips": [8, 800],
        "tar": ["/data/shards/000000.tar", 10**8, 1.0],
        "passport": "9a",
        "weights": 110_000_000,
        "checkpoint": ["", "", 0, []],
    }
    return Facts(**well | changes)


def nodes(**changes: Any) -> list[Facts]:
    """Four of them; `changes` are those of the second node."""
    return [fact(0, "n1"), fact(1, "n1"), fact(2, "n2", **changes), fact(3, "n2", **changes)]


def bad(findings: Any) -> list[str]:
    """What is no `ok` among them, as it is printed."""
    return [str(finding) for finding in findings if finding.level != "ok"]


@pytest.fixture(scope="module")
def config(small, toy_folder) -> Callable[..., PretrainConfig]:
    """(output, more) -> the config of a small run on the toy shards."""

    def config(output: Path, *more: str) -> PretrainConfig:
        own = [f"data.shards=[{toy_folder}]", f"run.output={output}", "run.device=cpu"]
        own += ["data.batch_clips=8", "data.num_lanes=4"]
        return load_config(PretrainConfig, None, [*small, *own, *more])

    return config


def seen_by(config: PretrainConfig) -> Facts:
    return look(config, rank=0, local_rank=0, host="n1", launcher="hand")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_nodes_that_agree_are_well(config, tmp_path):
    facts = nodes()
    found = [
        *check_launcher(facts, "auto"),
        *check_versions(facts),
        *check_data(facts, config(tmp_path), 4),
        *check_output(facts),
    ]
    assert bad(found) == []
    told = page(facts, found, 4)
    assert "4 of 4 ranks on 2 nodes" in told and told.endswith(
        "0 errors, 0 warnings; the run can start"
    )
    for line in (
        "| n1 ",
        "| n2 ",
        "2 x H100",
        "4 ranks on GPUs, started by torchrun",
        "cccccccccccc",
    ):
        assert line in told, line


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"versions": VERSIONS | {"torch": "2.7.1"}}, "error   torch is 2.8.0 on n1; 2.7.1 on n2"),
        ({"versions": VERSIONS | {"driver": "550.2"}}, "warning driver is 570.1 on n1; 550.2 on"),
        ({"commit": "d" * 40}, f"error   the code is at {'c' * 40} on n1; {'d' * 40} on n2"),
        ({"gpu": "A100"}, "warning GPUs are H100 on n1; A100 on n2"),
    ],
)
def test_a_node_with_other_software_is_named(changes, told):
    (line,) = bad(check_versions(nodes(**changes)))
    assert line.startswith(told)


def test_one_gpu_a_task_of_srun_is_in_order():
    facts = [dataclasses.replace(f, num_gpus=1, launcher="srun (job 7)") for f in nodes()]
    assert bad(check_launcher(facts, "auto")) == []


@pytest.mark.parametrize(
    ("changes", "device", "told"),
    [
        (
            {"num_gpus": 1},
            "auto",
            "error   n2: 2 ranks (local ranks up to 1), of which each sees 1",
        ),
        ({"num_gpus": 4}, "auto", "warning n2: 4 GPUs for 2 ranks; the others are idle"),
        ({"num_gpus": 0, "gpu": ""}, "auto", "error   ranks on GPUs on n1; the CPU on n2"),
        ({"num_gpus": 0, "gpu": ""}, "cuda", "error   n2: torch sees no GPU, run.device=cuda"),
        ({"local_rank": 0}, "auto", "error   n2: local rank 0 is there 2 times"),
    ],
)
def test_ranks_and_gpus_that_do_not_fit_are_named(changes, device, told):
    assert bad(check_launcher(nodes(**changes), device))[0].startswith(told)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"shards": {"/data/shards": [7, "77"]}},
            "/data/shards holds 8 shards (5d) on n1; 7 shards (77) on n2",
        ),
        (
            {"shards": None, "errors": {"shards": "no folder /data/shards; make it"}},
            "n2: no folder /data/shards; make it",
        ),
        ({"tar": None, "errors": {"tar": "000001.tar was cut"}}, "n2: 000001.tar was cut"),
        ({"passport": "77"}, "passport of the streams 9a on n1; passport of the streams 77 on n2"),
    ],
)
def test_a_node_with_other_shards_is_named(config, tmp_path, changes, told):
    (line,) = bad(check_data(nodes(**changes), config(tmp_path), 4))
    assert line.startswith(f"error   {told}")


def test_ranks_that_do_not_divide_the_lanes_are_told(config, tmp_path):
    (line,) = bad(check_data(nodes(), config(tmp_path), 3))
    assert "data.num_lanes=4 is no multiple of the 3 ranks" in line
    (line,) = bad(check_data(nodes(), config(tmp_path), 16))
    assert "8 shards for 16 ranks" in line


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"output": "/home/run"}, "run.output is /data/run on n1; /home/run on n2"),
        (
            {"holder": "pid 7 on n9"},
            "another run (pid 7 on n9) is writing to /data/run, as n2 sees",
        ),
        (
            {"checkpoint": ["step-000010", "dd", 9, []]},
            "the newest checkpoint is no checkpoint yet on n1; step-000010 dd on n2",
        ),
    ],
)
def test_outputs_that_are_not_one_are_told(changes, told):
    (line,) = bad(check_output(nodes(**changes)))
    assert line.startswith(f"error   {told}")


def test_clocks_that_differ_are_told():
    assert check_clocks([5.0, 6.5], ["n1", "n2"]).level == "ok"
    assert str(check_clocks([5.0, 9.5], ["n1", "n2"])).startswith(
        "warning the clock of n2 is 4.5 s ahead of that of n1"
    )


def test_sums_that_fail_name_their_ranks():
    well = {"gloo": {"seconds": 0.01, "bytes": 4_000_000, "right": True}}
    wrong = {"gloo": well["gloo"] | {"right": False}}
    hangs = {"gloo": {"error": "no answer within 90 s", "right": False}}
    hosts = ["n1", "n2"]
    (line,) = map(str, check_sums([well, well], hosts))
    assert line.startswith("ok      gloo: 4 MB summed over 2 ranks in 10.0 ms")
    assert "0.40 GB/s" in line
    (line,) = bad(check_sums([well, wrong], hosts))
    assert line.startswith("error   gloo: rank 1 on n2: the sum is wrong")
    (line,) = bad(check_sums([hangs, well], hosts))
    assert "rank 0 on n1: no answer within 90 s" in line and "GLOO_SOCKET_IFNAME" in line
    (line,) = bad(check_sums([{"group": {"error": "refused\nby n2"}}, well], hosts))
    assert line.startswith("error   no process group: rank 0 on n1: refused;")


def saw(host: str, **changes: Any) -> Seen:
    well = {"written_after": 0.1, "replaced_after": 0.2, "torn": "", "lock": "refused"}
    return Seen(**{"host": host, "flush_ms": 5.0} | well | changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"written_after": None, "lock": "no", "torn": "0 bytes"},
            "error   n2 did not see within 30 s what n1",
        ),
        (
            {"replaced_after": 9.0},
            "warning disk of /d: what n1 writes is seen by all 2 nodes, a new",
        ),
        ({"torn": "12 bytes of another file"}, "error   n2 read 12 bytes of another file while n1"),
        ({"lock": "given"}, "warning n2 could lock a file that n1 holds locked; two runs in one"),
        ({"lock": "No locks available"}, "warning no locks on this disk, says n2: No locks"),
    ],
)
def test_a_disk_that_is_not_shared_as_it_should_be_is_told(changes, told):
    assert bad(check_disk([saw("n1"), saw("n2")], "/d")) == []
    (line,) = bad(check_disk([saw("n1"), saw("n2", **changes)], "/d"))
    assert line.startswith(told)


def test_room_is_for_the_checkpoints_that_are_still_to_come():
    assert check_room(free=35, checkpoint=10, keep=2, there=0, output="/d").level == "ok"
    short = check_room(free=25, checkpoint=10, keep=2, there=0, output="/d")
    assert short.level == "error" and "run.keep_checkpoints=2" in short.fix
    assert check_room(free=25, checkpoint=10, keep=2, there=2, output="/d").level == "ok"


def two_ranks(work: Callable[[Meeting], Any]) -> list[Any]:
    """What `work` gives or raises on each of two threads."""
    store, found = dist.HashStore(), [None, None]

    def run(rank: int) -> None:
        try:
            found[rank] = work(Meeting(store, rank, 2))
        except Exception as error:  # compared by the test
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_two_ranks_of_one_disk_see_the_same_and_leave_nothing(tmp_path):
    output = tmp_path / "runs/new"
    found = two_ranks(lambda m: probe(m, f"n{m.rank}", output))
    assert found[0] == found[1]
    assert [seen.host for seen in found[0]] == ["n0", "n1"]
    assert bad(check_disk(found[0], str(output))) == []
    assert names(tmp_path) == []


@pytest.mark.parametrize("at", ["flush", "write"])
def test_a_full_disk_is_told_to_all_ranks_and_nothing_is_left(tmp_path, monkeypatch, at):
    @contextlib.contextmanager
    def full(path):
        if (path.name == "flushed") == (at == "flush"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        yield open(path, "wb")

    monkeypatch.setattr(disk, "atomic_file", full)
    monkeypatch.setattr(disk, "SEEN_SECONDS", 0.2)
    found = two_ranks(lambda m: probe(m, "n", tmp_path))
    assert [type(error) for error in found] == [LeaderRefused, LeaderRefused]
    assert "No space left on device" in str(found[1])
    assert names(tmp_path) == []


def test_a_silent_rank_is_named():
    alone = Meeting(dist.HashStore(), 0, 3)
    alone.post("disk/2", True)
    with pytest.raises(MeetingError, match=r"^rank 1 gave no answer within 0\.1 s \(disk\)"):
        alone.gather("disk", True, seconds=0.1)


def test_a_rank_that_never_comes_is_named(monkeypatch):
    monkeypatch.setattr(meeting, "MEET_SECONDS", 1.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("SLURM_STEP_NODELIST", "n[1-2]")
    here = open_meeting(0, 2)
    assert (here.present, here.absent, here.leads) == ([0], [1], True)
    told = str(check_meeting(here, ["n1"]))
    assert told.startswith("error   rank 1 of 2 did not come to rank 0 at 127.0.0.1:")
    assert "of the nodes n[1-2] those of n1" in told


@pytest.mark.filterwarnings("ignore")
def test_without_rank_0_a_node_speaks_for_itself(monkeypatch, config, tmp_path, capfd):
    monkeypatch.setattr(meeting, "MEET_SECONDS", 1.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    for name, value in {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert visit(config(tmp_path / "run"), "hand")
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # the others' ends change nothing
    finally:
        signal.signal(signal.SIGTERM, before)
    told = capfd.readouterr().out
    assert f"rank 1 on {socket.gethostname()} did not reach the others, rank 0 at 127.0.0.1" in told
    assert "holds 4 shards" in told and told.count("doctor of") == 1
    assert names(tmp_path) == []


def test_one_rank_alone_gets_a_good_page_and_nothing_is_left(config, tmp_path, capsys):
    assert not visit(config(tmp_path / "run"), "hand")
    told = capsys.readouterr().out
    assert told.rstrip().endswith("0 errors, 0 warnings; the run can start")
    for line in ("1 rank on the CPU, started by hand", "one rank: nothing is compared", "they fit"):
        assert line in told, line
    assert names(tmp_path) == []


def test_an_output_that_cannot_be_written_is_told(config, capsys):
    assert visit(config(Path("/proc/doctor/run")), "hand")
    assert "error   cannot write beside run.output=/proc/doctor/run: " in capsys.readouterr().out


def test_a_run_that_goes_on_in_the_folder_is_told(config, tmp_path, capsys):
    (tmp_path / ".lock").write_text("pid 7 on n9\n")
    with open(tmp_path / ".lock") as held:
        assert holder_of(tmp_path) == ""
        fcntl.flock(held, fcntl.LOCK_EX)
        assert visit(config(tmp_path), "hand")
    told = capsys.readouterr().out
    assert f"error   another run (pid 7 on n9) is writing to {tmp_path}" in told
    assert holder_of(tmp_path) == "" and names(tmp_path) == [".lock"]


def test_a_cut_tar_and_a_missing_folder_are_told(config, tmp_path):
    shards = toys.write_shards(tmp_path / "shards", [toys.numbered(n) for n in range(4)], 1)
    own = config(tmp_path / "run", f"data.shards=[{shards}]")
    assert seen_by(own).errors == {}
    with open(shards / "000000.tar", "r+b") as tar:
        tar.seek(700)
        tar.write(b"?")
    assert "altered" in seen_by(own).errors["tar"]
    os.truncate(shards / "000000.tar", 512)
    facts = seen_by(own)
    assert "cut or altered" in facts.errors["passport"] and list(facts.errors) == ["passport"]
    shutil.rmtree(shards)
    facts = seen_by(own)
    assert f"no folder {shards}" in facts.errors["shards"] and list(facts.errors) == ["shards"]


def test_manifests_are_read_by_each_rank_for_itself(config, tmp_path, toy_folder):
    own = config(tmp_path / "run")
    facts = look(own, rank=1, local_rank=1, host="n2", launcher="hand")
    assert facts.errors == {} and facts.passport == seen_by(own).passport
    assert facts.clips == seen_by(own).clips == [4, 38]  # two are held out
    shutil.copytree(toy_folder, tmp_path / "copy")
    facts = seen_by(config(tmp_path / "run", f"data.shards=[{toy_folder},{tmp_path / 'copy'}]"))
    assert "are the same shard" in facts.errors["clips"] and list(facts.errors) == ["clips"]
    assert facts.clips is None and facts.passport and facts.weights
    (tmp_path / "copy/000001.json").write_text("{")
    facts = seen_by(config(tmp_path / "run", f"data.shards=[{tmp_path / 'copy'}]"))
    assert "000001.json" in facts.errors["passport"] and facts.passport is None


@pytest.fixture(scope="module")
def saved(config, bert_tokenizer, tmp_path_factory) -> Path:
    """The output of a run that saved one checkpoint."""
    output = tmp_path_factory.mktemp("saved")
    own, passport = config(output), toys.passport()
    folder = output / "checkpoints/step-000010"
    save_checkpoint(folder, build_model(own.model, passport)[0], bert_tokenizer, passport, own)
    write_digests(folder)
    (output / "checkpoints/latest").write_text("step-000010\n")
    return output


def test_a_checkpoint_is_looked_at_as_a_run_would(config, saved, tmp_path):
    own = config(saved, "optim.weight_decay=0.5")
    facts = seen_by(own)
    assert facts.errors == {}
    name, digest, size, changes = facts.checkpoint
    assert (name, len(digest), size > 0) == ("step-000010", 64, True)
    assert changes == ["optim.weight_decay 0.01 -> 0.5"]
    told = [str(finding) for finding in check_output([facts])]
    assert any("goes on from step-000010, which is whole and of this passport" in t for t in told)
    digests = dataclasses.replace(facts, checkpoint=[name, "", size, []])
    assert bad(check_output([digests]))[0].startswith("warning step-000010 has no digests.json")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["model.num_layers=1"], "is of another model: model.num_layers 2 -> 1"),
        (["optim.steps=5", "optim.warmup_steps=1"], "past optim.steps=5"),
    ],
)
def test_a_checkpoint_of_another_model_is_told(config, saved, more, told):
    assert told in seen_by(config(saved, *more)).errors["checkpoint"]


def test_a_checkpoint_of_another_passport_or_cut_is_told(config, saved, tmp_path):
    output = shutil.copytree(saved, tmp_path / "run")
    folder = output / "checkpoints/step-000010"
    text = (folder / "passport.json").read_text()
    (folder / "passport.json").write_text(text.replace("5" * 64, "6" * 64))
    assert "passport.json was cut or altered" in seen_by(config(output)).errors["checkpoint"]
    write_digests(folder)
    found = seen_by(config(output)).errors["checkpoint"]
    assert "speech" in found and "weights_sha256" in found
    (folder / "model.safetensors").unlink()
    assert "model.safetensors is gone" in seen_by(config(output)).errors["checkpoint"]


def test_a_models_size_is_known_without_its_memory(config, tmp_path, small):
    own = config(tmp_path)
    model, _ = build_model(own.model, toys.passport())
    weights = sum(weight.numel() for weight in model.parameters())
    assert num_weights(own, toys.passport()) == weights
    assert checkpoint_bytes(weights) == 12 * weights


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_of_torchrun_print_one_page(root, small, toy_folder, tmp_path):
    def doctor(*more: str) -> subprocess.CompletedProcess[str]:
        command = "-m torch.distributed.run --standalone --nproc_per_node 2 -m pretrain.doctor"
        own = [f"data.shards=[{toy_folder}]", f"run.output={tmp_path / 'run'}", "run.device=cpu"]
        return subprocess.run(
            [sys.executable, *command.split(), *small, *own, *more],
            cwd=root,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=400,
        )

    done = doctor("data.batch_clips=8", "data.num_lanes=4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("doctor of a pretraining: 2 of 2 ranks on 1 node") == 1
    assert "gloo: 4 MB summed over 2 ranks" in done.stdout
    assert "error " not in done.stdout and "Traceback" not in done.stderr
    done = doctor("data.batch_clips=5", "data.num_lanes=5")
    assert done.returncode != 0  # torchrun's own; the ranks' is 2
    assert "exitcode  : 2" in done.stderr
    assert "error   data.num_lanes=5 is no multiple of the 2 ranks" in done.stdout
    assert "1 error, 0 warnings; mend the errors first" in done.stdout
    assert names(tmp_path) == []
