"""The executor: nothing lost, nothing doubled, whatever dies and whenever."""

import csv
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import toy_extractor as toy
from killing import kill_at_any_time, shard_bytes

from data_pipeline.runs import tasks
from data_pipeline.runs.ledger import read_summary
from data_pipeline.runs.tasks import Task
from data_pipeline.runs.worker_pool import ExtractionError, is_gpu_error
from data_pipeline.schema import Reject
from data_pipeline.shards import list_shards, read_shard


def sample_ids(folder: Path) -> list[str]:
    return [sample.id for tar in list_shards(folder) for sample in read_shard(tar)]


def rejects_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "rejects.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_clip_is_a_sample_or_a_reject(tmp_path):
    clips = toy.make_clips(["one", "reject", "two", "three", "four", "error"])
    bad_row = Reject(clip="row 7", stage="table", reason="bad_number", detail="start is 'x'")
    summary = toy.run_toy(tmp_path / "out", clips, rejects=[bad_row], num_previews=1)
    assert str(summary) == "input clips 7 = samples 4 + rejects 3"
    assert summary.reasons == {"bad_number": 1, "reject": 1, "error": 1}
    assert sample_ids(tmp_path / "out") == ["toy-000", "toy-002", "toy-003", "toy-004"]
    rows = rejects_of(tmp_path / "out")
    assert [row["clip"] for row in rows] == ["row 7", "toy-001", "toy-005"]
    assert rows[0] == dataclasses.asdict(bad_row)
    assert read_summary(tmp_path / "out") == summary
    assert summary.stage_seconds["media"]["mean"] == pytest.approx(0.1)
    assert (tmp_path / "out/previews/toy-000-0.jpg").read_bytes() == b"jpeg"
    assert not (tmp_path / "out/previews/toy-002.json").exists()


def test_a_rerun_does_nothing_again(tmp_path):
    log = tmp_path / "calls"
    make = functools.partial(toy.ToyExtractor, log_path=str(log))
    clips = toy.make_clips([f"word {n}" for n in range(9)])
    first = toy.run_toy(tmp_path / "out", clips, make)
    before = shard_bytes(tmp_path / "out")
    assert toy.run_toy(tmp_path / "out", clips, make) == first
    assert len(log.read_text().split()) == 9
    assert shard_bytes(tmp_path / "out") == before

    (tmp_path / "out/000001.tar").write_bytes(before["000001.tar"][:-100])
    (tmp_path / "out/000002.json").write_text("{")
    toy.run_toy(tmp_path / "out", clips, make)  # makes those two again, and no other
    assert shard_bytes(tmp_path / "out") == before
    assert len(log.read_text().split()) == 9 + 5


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("segfault", "SIGSEGV"),
        ("exit", "exit code 7"),
        ("hang", "no result within 1 s (clip_timeout_seconds)"),
        ("gpu", "ended itself after an error of the GPU, OutOfMemoryError: CUDA out of memory"),
    ],
)
def test_a_clip_that_kills_its_process_is_a_reject(tmp_path, text, cause):
    clips = toy.make_clips(["one", text, "two", "three", "four"])
    summary = toy.run_toy(tmp_path / "out", clips, attempts=2, clip_timeout_seconds=1.0)
    assert str(summary) == "input clips 5 = samples 4 + rejects 1"
    (row,) = rejects_of(tmp_path / "out")
    assert (row["clip"], row["reason"]) == ("toy-001", "crashed")
    assert cause in row["detail"] and "/nowhere/1.mp4" in row["detail"]


def test_an_error_of_the_gpu_costs_the_process_and_not_the_clip(tmp_path):
    clips = toy.make_clips(["one", "gpu", "two", "three", "four"])
    make = functools.partial(toy.mends_itself, str(tmp_path / "began"))
    summary = toy.run_toy(tmp_path / "out", clips, make, num_workers=1)
    assert str(summary) == "input clips 5 = samples 5 + rejects 0"


def test_errors_of_the_gpu_are_told_from_those_of_a_clip():
    told = [
        torch.OutOfMemoryError("CUDA out of memory."),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    ]
    others = [
        RuntimeError("Expected all tensors to be on the same device, cuda:0 and cpu"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        ValueError("CUDA error"),
    ]
    assert all(map(is_gpu_error, told)) and not any(map(is_gpu_error, others))


def test_a_timeout_of_ages_is_taken(tmp_path):
    summary = toy.run_toy(tmp_path, toy.make_clips(["one"]), clip_timeout_seconds=1e12)
    assert summary.num_samples == 1


def test_a_table_with_nothing_but_bad_rows_still_ends(tmp_path):
    bad_row = Reject(clip="row 1", stage="table", reason="bad_number", detail="x")
    summary = toy.run_toy(tmp_path / "out", [], rejects=[bad_row])
    assert str(summary) == "input clips 1 = samples 0 + rejects 1"


def test_encoders_that_do_not_load_stop_the_run(tmp_path):
    clips = toy.make_clips(["one"])
    with pytest.raises(ExtractionError, match="cannot load: FileNotFoundError: no weights"):
        toy.run_toy(tmp_path / "a", clips, toy.fails_to_load)
    with pytest.raises(ExtractionError, match="as far as loading the encoders.*SIGKILL.*memory"):
        toy.run_toy(tmp_path / "b", clips, toy.dies_while_loading)
    with pytest.raises(ExtractionError, match="loading the encoders.*CUDA error: out of memory"):
        toy.run_toy(tmp_path / "c", clips, toy.has_no_room)


def test_the_same_error_in_every_clip_stops_the_run_and_leaves_no_shard(tmp_path):
    with pytest.raises(ExtractionError, match="first 10 clips all ended in the same"):
        toy.run_toy(tmp_path / "many", toy.make_clips(["error"] * 12))
    with pytest.raises(ExtractionError, match="first 5 clips all ended in the same"):
        toy.run_toy(tmp_path / "few", toy.make_clips(["error"] * 5), num_workers=1)
    assert not [*tmp_path.rglob("*.tar")]
    summary = toy.run_toy(tmp_path / "one", toy.make_clips(["one", *["error"] * 12]), num_workers=1)
    assert summary.reasons == {"error": 12} and len(summary.error_shards) == 4
    summary = toy.run_toy(tmp_path / "last", toy.make_clips([*["error"] * 5, "one"]), num_workers=1)
    assert str(summary) == "input clips 6 = samples 1 + rejects 5"
    summary = toy.run_toy(tmp_path / "single", toy.make_clips(["error"]))
    assert str(summary) == "input clips 1 = samples 0 + rejects 1"


def test_a_run_that_has_only_failing_clips_left_ends(tmp_path):
    clips = toy.make_clips([*["one"] * 4, *["error"] * 8])
    toy.run_toy(tmp_path, clips, num_workers=1)
    for name in ("000001.json", "000002.json"):
        (tmp_path / name).unlink()
    assert str(toy.run_toy(tmp_path, clips)) == "input clips 12 = samples 4 + rejects 8"
    (tmp_path / "000002.json").unlink()
    array = {"array_index": 2, "array_count": 3}
    assert str(toy.run_toy(tmp_path, clips, **array)) == "input clips 12 = samples 4 + rejects 8"


def test_a_folder_of_another_run_is_refused_with_the_way_out(tmp_path):
    clips = toy.make_clips([f"word {n}" for n in range(6)])
    toy.run_toy(tmp_path / "out", clips)
    before = shard_bytes(tmp_path / "out")
    with pytest.raises(ExtractionError, match="clips_per_shard: found 4, expected 3"):
        toy.run_toy(tmp_path / "out", clips, clips_per_shard=3)
    with pytest.raises(ExtractionError, match="another clip table: 1 of its clips.*another output"):
        toy.run_toy(tmp_path / "out", clips[:-1])
    other = dataclasses.replace(toy.SPEC, weights_sha256="1" * 64)
    with pytest.raises(ExtractionError, match="speech.weights_sha256"):
        toy.run_toy(tmp_path / "out", clips, functools.partial(toy.ToyExtractor, spec=other))
    assert shard_bytes(tmp_path / "out") == before
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/holiday.mp4").touch()
    with pytest.raises(ExtractionError, match="holds holiday.mp4 and is no extraction folder"):
        toy.run_toy(tmp_path / "videos", clips)


def test_other_code_makes_the_shards_anew_and_other_libraries_are_told(
    tmp_path, monkeypatch, caplog
):
    log = tmp_path / "calls"
    make = functools.partial(toy.ToyExtractor, log_path=str(log))
    clips = toy.make_clips(["one"] * 5)
    toy.run_toy(tmp_path / "out", clips, make)
    toy.run_toy(tmp_path / "out", clips, functools.partial(make, version="2"))
    assert "2 of the shards" in caplog.text and "toy 1 there, 2 here" in caplog.text
    assert len(log.read_text().split()) == 5
    monkeypatch.setattr(tasks, "EXTRACTION_VERSION", tasks.EXTRACTION_VERSION + 1)
    toy.run_toy(tmp_path / "out", clips, make)
    assert len(log.read_text().split()) == 10


@pytest.mark.parametrize("content", [None, b"", b"[{}]", b"[1]", b"\xff"])
def test_lost_timings_cost_no_more_than_the_timings(tmp_path, content, caplog):
    clips = toy.make_clips(["one"] * 8)
    toy.run_toy(tmp_path, clips)
    path = tmp_path / "timings/000001.json"
    path.unlink() if content is None else path.write_bytes(content)
    summary = toy.run_toy(tmp_path, clips)
    assert str(summary) == "input clips 8 = samples 8 + rejects 0"
    assert summary.media_seconds == 4.0 and "000001.json cannot be read" in caplog.text


def test_a_damaged_summary_is_written_again(tmp_path, caplog):
    clips = toy.make_clips(["one"])
    toy.run_toy(tmp_path, clips)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(ExtractionError, match=r"summary.json is damaged: .* writes it again"):
        read_summary(tmp_path)
    assert toy.run_toy(tmp_path, clips).last_run is None
    assert "how the last run went is lost" in caplog.text
    assert read_summary(tmp_path).num_samples == 1


@pytest.mark.parametrize("name", ["clips.csv", "config.yaml"])
def test_a_file_of_the_user_is_never_replaced(tmp_path, name):
    (tmp_path / name).write_text("video\nmine.mp4\n")
    with pytest.raises(ExtractionError, match=f"holds {name} and is no extraction") as error:
        toy.run_toy(tmp_path, toy.make_clips(["one"]))
    assert str(error.value).endswith("Give another output=FOLDER.")
    assert "remove" not in str(error.value)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["video\nmine.mp4\n"]
    (tmp_path / "clips.csv").write_text("video\nmine.mp4\n")
    (tmp_path / "config.yaml").write_text("clips_per_shard: 4\n")
    with pytest.raises(ExtractionError, match="another clip table") as error:
        toy.run_toy(tmp_path, toy.make_clips(["one"]))
    assert "remove" not in str(error.value)


def test_the_table_may_not_lie_in_the_output_folder(tmp_path):
    table = tmp_path / "t.csv"
    table.touch()
    for source in (table, tmp_path):
        with pytest.raises(ExtractionError, match="such as output=.*shards"):
            toy.run_toy(tmp_path, toy.make_clips(["one"]), clips_from=source)
    assert toy.run_toy(tmp_path / "out", toy.make_clips(["one"]), clips_from=table).num_samples == 1
    with pytest.raises(ExtractionError, match="t.csv is a file, expected a folder"):
        toy.run_toy(table / "out", toy.make_clips(["one"]))


def test_a_first_start_that_fails_leaves_the_folder_free(tmp_path):
    clips = toy.make_clips(["one"] * 3)
    with pytest.raises(ExtractionError, match="cannot load"):
        toy.run_toy(tmp_path / "out", clips, toy.fails_to_load, clips_per_shard=3)
    assert not (tmp_path / "out").exists()
    assert toy.run_toy(tmp_path / "out", clips).num_samples == 3


def test_a_claim_that_was_cut_short_is_taken_up(tmp_path):
    clips = toy.make_clips(["one"] * 3)
    toy.run_toy(tmp_path / "whole", clips)
    for names in (["clips.csv"], ["clips.csv", "config.yaml"]):
        folder = tmp_path / f"cut-{len(names)}"
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes((tmp_path / "whole" / name).read_bytes())
        assert toy.run_toy(folder, clips).num_samples == 3


@pytest.mark.parametrize("name", ["config.yaml", "passport.json"])
def test_an_altered_file_of_the_folder_is_named(tmp_path, name):
    clips = toy.make_clips(["one"])
    toy.run_toy(tmp_path, clips)
    before = (tmp_path / name).read_bytes()
    for content in (b"[1, 2]", b"{", b"\xff"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ExtractionError, match=f"(?s)cannot read .*{name}.*output=FOLDER"):
            toy.run_toy(tmp_path, clips)
    (tmp_path / name).write_bytes(before)
    assert toy.run_toy(tmp_path, clips).num_samples == 1


def test_array_tasks_together_give_what_one_run_gives(tmp_path):
    clips = toy.make_clips(["reject" if n == 5 else f"word {n}" for n in range(14)])
    whole = toy.run_toy(tmp_path / "whole", clips)
    for index in (2, 0, 1):
        part = toy.run_toy(tmp_path / "parts", clips, array_index=index, array_count=3)
        if index == 2:
            assert "not done yet (1 of 4 shards are there)" in str(part)
        if index == 0:
            assert part is None and "(1 of 4" in str(read_summary(tmp_path / "parts"))
    assert shard_bytes(tmp_path / "parts") == shard_bytes(tmp_path / "whole")
    assert str(part) == str(whole) == "input clips 14 = samples 13 + rejects 1"
    assert rejects_of(tmp_path / "parts") == rejects_of(tmp_path / "whole")
    for name in ("000000", "000001"):
        (tmp_path / "parts" / f"{name}.json").unlink()
    toy.run_toy(tmp_path / "parts", clips, array_index=0, array_count=3)
    assert "(3 of 4 shards" in str(read_summary(tmp_path / "parts"))  # no longer told as whole


def test_tasks_of_an_array_do_not_each_read_every_manifest(tmp_path, monkeypatch):
    clips, opened = toy.make_clips([f"word {n}" for n in range(40)]), []
    read = Task.manifest
    monkeypatch.setattr(
        Task, "manifest", lambda task, folder: opened.append(task.name) or read(task, folder)
    )
    for index in range(10):
        toy.run_toy(tmp_path, clips, array_index=index, array_count=10, num_workers=1)
    assert len(opened) < 4 * 10, opened  # each task its own; the first and the last all


def command(folder: Path, *words: object) -> list[str]:
    return [sys.executable, toy.__file__, str(folder), *map(str, words)]


@pytest.fixture
def run_environment(root, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(root))


def check_killed_run(killed: Path, clean: Path, num_clips: int) -> None:
    """Finish what was killed; the shards must be those of an undisturbed run."""
    end = subprocess.run(command(killed, num_clips), capture_output=True, text=True, check=True)
    subprocess.run(command(clean, num_clips), capture_output=True, check=True)
    assert shard_bytes(killed) == shard_bytes(clean)
    assert (killed / "rejects.csv").read_bytes() == (clean / "rejects.csv").read_bytes()
    assert end.stdout == f"{read_summary(clean)}\n"
    assert (
        len(sample_ids(killed)) == len(set(sample_ids(killed))) == read_summary(clean).num_samples
    )
    leftovers = [p for p in killed.rglob("*") if p.name.endswith(".tmp")]
    assert leftovers == []
    names = [{p.relative_to(f) for f in [top] for p in top.rglob("*")} for top in (killed, clean)]
    assert names[0] == names[1]


@pytest.mark.slow
@pytest.mark.distributed
def test_killed_at_any_file_operation_and_rerun_gives_the_same_bytes(tmp_path, run_environment):
    num_clips = 48
    for moment in range(1, 45, 2):  # 22 kills; opening, flushing, renaming of every kind of file
        end = subprocess.run(command(tmp_path / "killed", num_clips, moment), capture_output=True)
        assert end.returncode == -signal.SIGKILL
    check_killed_run(tmp_path / "killed", tmp_path / "clean", num_clips)


@pytest.mark.slow
@pytest.mark.distributed
def test_killed_at_any_time_and_rerun_gives_the_same_bytes(tmp_path, run_environment):
    for folder in kill_at_any_time(lambda f: command(f, 120), tmp_path, num_kills=8):
        check_killed_run(folder, tmp_path / "clean", 120)


def test_two_runs_at_once_on_one_folder_do_no_harm(tmp_path, run_environment):
    runs = [subprocess.Popen(command(tmp_path / "both", 40)) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    check_killed_run(tmp_path / "both", tmp_path / "clean", 40)


def test_a_lock_that_a_library_makes_in_a_worker_is_not_leaked(tmp_path, run_environment):
    script = (
        "import toy_extractor as toy\n"
        "if __name__ == '__main__':\n"
        "    clips = toy.make_clips(['a lock', 'hang lock', 'another lock'])\n"
        "    toy.run_toy('out', clips, attempts=1, clip_timeout_seconds=2)\n"
    )
    (tmp_path / "run.py").write_text(script)
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(Path(toy.__file__).parent)])
    environment = os.environ | {"PYTHONPATH": path}
    run = subprocess.run(
        [sys.executable, "run.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0 and read_summary(tmp_path / "out").num_samples == 2
    assert "leaked" not in run.stderr, run.stderr


@pytest.mark.parametrize("text", ["word", "hang"])
def test_workers_end_when_their_parent_is_killed(tmp_path, run_environment, text):
    script = (
        "import toy_extractor as toy\n"
        "if __name__ == '__main__':\n"
        f"    toy.run_toy('out', toy.make_clips(['one'] * 4 + ['{text}'] * 2000))\n"
    )
    (tmp_path / "run.py").write_text(script)
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(Path(toy.__file__).parent)])
    run = subprocess.Popen(
        [sys.executable, "run.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
    )
    children_file = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    while not (tmp_path / "out/000000.json").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    children = [Path("/proc") / pid for pid in children_file.read_text().split()]
    assert len(children) >= 2
    run.kill()
    run.wait()
    deadline = time.monotonic() + 30
    while any(child.exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [child for child in children if child.exists()]
    json.loads((tmp_path / "out/000000.json").read_text())
