"""The table of checks: on this CPU, on a GPU where there is one, and with what is broken."""

import importlib
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pretrain.bench.models import Size
from pretrain.check import encoders, model, runs
from pretrain.check.__main__ import CHECKS, check_all, main
from pretrain.check.table import (
    CheckError,
    Place,
    Row,
    Skipped,
    difference,
    line,
    need,
    run_check,
)
from pretrain.check.watch import WATCHED, after_step, count_waits
from pretrain.model.attention import JOINED_KERNELS

TOY = Size(name="toy", width=24, layers=2, heads=2)


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(device=torch.device("cpu"), folder=tmp_path)


@pytest.fixture
def toy(monkeypatch) -> None:
    monkeypatch.setattr(model, "SIZE", TOY)


def rows_of(check, place: Place) -> list[Row]:
    return list(run_check("name", check, place))


def test_what_a_check_found_is_judged_by_its_tolerance():
    assert Row.judged("a", 0.5, 0.5, "why").verdict == "ok"
    assert Row.judged("a", 0.5, None, "why").why == ""
    for beyond in (0.6, float("nan"), float("inf")):
        row = Row.judged("a", beyond, 0.5, "why")
        assert (row.verdict, row.why) == ("failed", "why")
    assert difference([1, 2], [1, 4]) == 0.5
    assert difference([1], [1, 4]) == float("inf")


def test_what_goes_wrong_in_a_check_is_a_row(place):
    def crashes(_):
        yield Row(check="first", verdict="ok")
        raise ZeroDivisionError("of\n two lines")

    def fails(_):
        raise CheckError("nothing to compare")
        yield

    def lacks(package: str):
        def check(_):
            importlib.import_module(package)
            yield

        return check

    first, crashed = rows_of(crashes, place)
    assert first.check == "first" and crashed.verdict == "failed"
    assert crashed.why == "ZeroDivisionError: of two lines"
    (failed,) = rows_of(fails, place)
    assert (failed.verdict, failed.why) == ("failed", "nothing to compare")
    (absent,) = rows_of(lacks("flumph"), place)
    assert absent.verdict == "skipped" and "needs flumph: pip install" in absent.why
    (ours,) = rows_of(lacks("pretrain.flumph"), place)
    assert ours.verdict == "failed"
    with pytest.raises(Skipped, match="needs flumph, gnoll: pip"):
        need("torch", "flumph", "gnoll")


def test_a_failed_check_is_a_row_and_the_exit_code_and_the_next_one_runs(monkeypatch, capsys):
    def broken(_):
        raise RuntimeError("no kernel image")
        yield

    def fine(_):
        yield Row.judged("fine", 1e-7, 1e-5, "")

    monkeypatch.setitem(CHECKS, "face", broken)
    monkeypatch.setitem(CHECKS, "speech", fine)
    assert main(["--device", "cpu", "--only", "face", "speech"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[2].startswith("face ") and "| failed  |" in told[2]
    assert told[2].endswith("RuntimeError: no kernel image")
    assert told[3].startswith("fine ") and "| ok      | 1e-07    | 1e-05 " in told[3]
    assert told[4].startswith("1 ok, 1 failed, 0 skipped")
    assert main(["--device", "cpu", "--only", "speech"]) == 0


def test_a_gpu_that_is_not_there_is_told(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--device", "cuda"]) == 2
    assert "check: --device cuda, but torch sees no GPU" in capsys.readouterr().err


def test_the_model_on_this_cpu(place, toy):
    rows = rows_of(model.memobert, place) + rows_of(model.packing, place)
    assert [row.verdict for row in rows] == ["ok"] * 6, rows
    assert rows_of(model.memory, place)[0].verdict == "skipped"


def test_a_kernel_that_is_wrong_on_one_side_is_a_failed_row(place, toy, monkeypatch):
    """Twice its values, where two threads work; of a new model they are small."""
    right = JOINED_KERNELS["clipwise"]

    def wrong(*args):
        return right(*args) * (2 if torch.get_num_threads() == 2 else 1)

    monkeypatch.setitem(JOINED_KERNELS, "clipwise", wrong)
    rows = {row.check: row for row in rows_of(model.memobert, place)}
    wrong = rows["gradients, fp32: 2 threads and 1"]
    assert wrong.verdict == "failed" and wrong.figure > wrong.tolerance
    assert "model.attention=plain" in wrong.why


def test_features_that_differ_are_a_failed_row_that_says_what_to_do(place, monkeypatch):
    made = iter([1.0, 1.05])

    def load(device: str):
        scale = next(made)
        return lambda crops: (np.full((2, 342), scale), np.full((2, 8), 0.125))

    monkeypatch.setattr("data_pipeline.features.expression.load_expression_encoder", load)
    features, probabilities = rows_of(encoders.face, place)
    assert features.verdict == "failed" and features.figure == pytest.approx(0.05)
    assert "extract all clips on one" in features.line()
    assert probabilities.verdict == "ok"


def test_a_run_that_fails_or_hangs_is_told_with_its_last_words(tmp_path, monkeypatch):
    def python(code: str) -> list[str]:
        return [sys.executable, "-c", code]

    with pytest.raises(CheckError, match=r"exit code 3: pretrain: no room; its log is .*log.txt"):
        runs.run(python("print('pretrain: no room'); print('bye'); raise SystemExit(3)"), tmp_path)
    with pytest.raises(CheckError, match="exit code 1: ZeroDivisionError"):
        runs.run(python("1 / 0"), tmp_path)
    monkeypatch.setattr(runs, "SECONDS", 0.2)
    with pytest.raises(CheckError, match="hangs: ended after 0.2 s"):
        runs.run(python("import time; time.sleep(60)"), tmp_path)


def test_a_stage_that_fails_leaves_the_others_their_rows(place, monkeypatch):
    """And one whose losses are others is a failed one."""

    def pretrain(place, name, *words, ranks=1):
        if name == "zero-0":
            raise CheckError("exit code 1: no NCCL")
        return name

    monkeypatch.setattr(runs, "pretrain", pretrain)
    monkeypatch.setattr(runs, "losses", lambda run: [[2.0 if run == "plain" else 2.1]])
    first, second, *_ = rows_of(runs.deepspeed, place)
    assert (first.verdict, first.why) == ("failed", "exit code 1: no NCCL")
    assert second.verdict == "failed" and second.figure == pytest.approx(0.05)
    assert "engine.kind=torch" in second.why


def test_waits_are_counted_by_place_and_only_within_the_steps(monkeypatch, capsys):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    hook = after_step(2, 4)
    for _ in range(5):
        hook(None, (), {})
    assert modes == ["default", "warn", "warn", "default", "default"]
    assert capsys.readouterr().out == f"{WATCHED}\n"
    warning = "UserWarning: called a synchronizing CUDA operation (Triggered internally at a.cpp)"
    log = f"step 1\n/x/optim.py:31: {warning}\n  n.item()\n/x/optim.py:31: {warning}\n"
    assert count_waits(log) == {"/x/optim.py:31": 2}


@pytest.fixture
def as_on_a_gpu(monkeypatch) -> None:
    """The device stays the CPU; what is asked of CUDA is answered here: 2 of 8 GB."""
    monkeypatch.setattr(Place, "on_gpu", True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=8 * 10**9)
    )
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 2 * 10**9)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)


def test_the_memory_of_a_rank(place, as_on_a_gpu, monkeypatch):
    monkeypatch.setitem(model.SIZES, "base", TOY)
    (row,) = rows_of(model.memory, place)
    assert (row.verdict, row.figure, row.tolerance) == ("ok", 2.0, 8.0)

    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "one_pass", too_large)
    (row,) = rows_of(model.memory, place)
    assert row.verdict == "failed" and "data.micro_batch_tokens" in row.why


def test_a_step_that_waits_is_a_failed_row_that_names_the_place(place, as_on_a_gpu, monkeypatch):
    said = "nothing"

    def pretrain(place, name, *words, command):
        (place.folder / "log.txt").write_text(said)
        return place.folder

    monkeypatch.setattr(runs, "pretrain", pretrain)
    (row,) = rows_of(runs.waits, place)
    assert row.verdict == "failed" and "no step was watched" in row.why
    said = f"{WATCHED}\n"
    assert rows_of(runs.waits, place)[0].verdict == "ok"
    said += "/x/meter.py:7: UserWarning: called a synchronizing CUDA operation\n" * 2
    (row,) = rows_of(runs.waits, place)
    assert (row.verdict, row.figure) == ("failed", 1) and "/x/meter.py:7 (2 times)" in row.why


def test_lines_have_no_spaces_at_their_end():
    assert line(("face", "ok", "", "", "")) == line(("face", "ok")) == f"{'face':<46} | ok"


def test_it_imports_little_more_than_torch(root):
    """So that it runs on a bare machine."""
    heavy = "pydantic pandas scipy pyarrow webdataset sklearn deepspeed av matplotlib".split()
    found = f"print([m for m in {heavy} if m in sys.modules])"
    code = f"import sys, pretrain.check.__main__; {found}"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.slow
@pytest.mark.distributed
def test_the_whole_command_on_this_cpu(toy, capsys, monkeypatch):
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    code = main(["--device", "cpu"])
    told = capsys.readouterr().out
    assert code == 0, told
    for begin in ("face", "speech", "losses", "gradients", "packed", "DeepSpeed ZeRO 1"):
        assert f"\n{begin}" in told, begin
    for begin in ("2 ranks and 1", "a deterministic", "resumed", "finetuning", "extraction"):
        assert f"\n{begin}" in told, begin
    assert "0 failed, 2 skipped" in told  # memory and waits


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CHECKS)
def test_no_check_fails_on_this_gpu(name, tmp_path):
    place = Place(device=torch.device("cuda"), folder=tmp_path)
    failed = [row.line() for row in check_all([name], place) if row.verdict == "failed"]
    assert not failed
