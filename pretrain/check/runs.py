"""Whole runs on made clips, by the commands that a user types: engines, ranks, resume, waits.

A run is a process of its own, so that one that hangs or dies is a row of the table. Its log lies in
its folder.
"""

import csv
import math
import os
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from pretrain.check.differences import differences
from pretrain.check.samples import write_bert, write_clips
from pretrain.check.table import CheckError, Place, Row, Skipped, difference, need
from pretrain.check.watch import WATCHED, count_waits, watched

TOP = Path(__file__).resolve().parents[2]
PACKAGES = ("pydantic", "webdataset", "psutil")
"""Of every run, beside torch and transformers."""
FIRST_WATCHED = 2
"""Steps after which waits count; in the first ones libraries are loaded."""
SECONDS = 180
"""After which a run is taken for one that hangs."""
STEPS, SAVED = 8, 4
LOSSES_TOLERANCE = {"cpu": 1e-5, "cuda": 1e-4}
"""Of fp32 losses of two ways to the same numbers; a GPU's sums take another order."""
BF16_TOLERANCE = 0.05
"""Of the probabilities of a finetuning of a few steps."""


def deepspeed(place: Place) -> Iterator[Row]:
    """Every ZeRO stage against the plain twin: losses of the same steps."""
    need("deepspeed", *PACKAGES)
    from pretrain.config import EngineSettings

    ranks = 2 if not place.on_gpu or torch.cuda.device_count() > 1 else 1
    expected = losses(plain(place))
    for stage in typing.get_args(typing.get_type_hints(EngineSettings)["zero_stage"]):
        name = f"DeepSpeed ZeRO {stage} on {ranks} rank(s), plain twin on 1"
        try:
            words = ("engine.kind=deepspeed", f"engine.zero_stage={stage}")
            found = losses(pretrain(place, f"zero-{stage}", *words, ranks=ranks))
        except CheckError as error:
            yield Row(check=name, verdict="failed", why=str(error))
            continue
        yield Row.judged(
            name,
            difference(found, expected),
            LOSSES_TOLERANCE[place.device.type],
            "train with engine.kind=torch until it is mended, or with a stage that is ok",
        )


def ranks(place: Place) -> Iterator[Row]:
    """The plain twin on two ranks against one; on the CPU where there are no two GPUs."""
    need(*PACKAGES)
    kind = "cuda" if place.on_gpu and torch.cuda.device_count() > 1 else "cpu"
    here = kind == place.device.type
    one = plain(place) if here else pretrain(place, "one-cpu", "run.device=cpu")
    two = pretrain(place, "two-ranks", f"run.device={kind}", ranks=2)
    yield Row.judged(
        f"2 ranks and 1, {'NCCL, 2 GPUs' if kind == 'cuda' else 'gloo, CPU'}",
        difference(losses(two), losses(one)),
        LOSSES_TOLERANCE[kind],
        "the ranks' sums are not those of one: NCCL_DEBUG=INFO and `python -m pretrain.doctor` say "
        "more of what is between them",
    )


def exactness(place: Place) -> Iterator[Row]:
    """Two runs that are asked to be deterministic, in the precision of the device's trainings, and
    one that goes on from a checkpoint: alike to the bit in losses, weights and training state. The
    figure counts files that are not."""
    need(*PACKAGES)
    kind = f"engine.kind={engine_there()}"
    words = ("run.deterministic=true", "run.precision=auto", "model.dropout=0.1", kind)
    straight, again = (pretrain(place, name, *words) for name in ("straight", "again"))
    fix = "differs in {}: this GPU or torch has a kernel that adds up in any order"
    wrong = differences(straight, again)
    yield Row.judged("a deterministic run, twice", len(wrong), 0, fix.format(", ".join(wrong)))
    (again / "checkpoints/latest").write_text(f"step-{SAVED:06d}\n", encoding="utf-8")
    wrong = differences(straight, pretrain(place, "again", *words, anew=False))
    yield Row.judged(f"resumed at step {SAVED}", len(wrong), 0, fix.format(", ".join(wrong)))


def waits(place: Place) -> Iterator[Row]:
    """Places that wait for the device within the steps of a training, of torch's engine."""
    if not place.on_gpu:
        raise Skipped("a CPU is not waited for")
    need(*PACKAGES)
    late = (f"run.log_every={STEPS}", f"run.checkpoint_every={STEPS}", "run.precision=bf16")
    folder = pretrain(place, "waits", *late, command=watched(FIRST_WATCHED, STEPS - 1))
    log = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    if WATCHED not in log:
        raise CheckError(f"no step was watched; the run's log is {folder / 'log.txt'}")
    places = count_waits(log)
    told = ", ".join(f"{where} ({count} times)" for where, count in places.items())
    yield Row.judged(
        f"places that wait, steps {FIRST_WATCHED + 1} to {STEPS - 1}",
        len(places),
        0,
        f"the GPU idles meanwhile; move these out of the step: {told}",
    )


def finetuning(place: Place) -> Iterator[Row]:
    """A finetuning of the plain twin's checkpoint in bf16 against fp32: its test probabilities."""
    need("pandas", "scipy", "sklearn", "accelerate", "datasets", *PACKAGES)
    found, expected = (finetune(place, precision) for precision in ("bf16", "fp32"))
    yield Row.judged(
        "finetuning, bf16 and fp32",
        difference(found, expected),
        BF16_TOLERANCE,
        "finetune with optim.precision=fp32 here",
    )


def finetune(place: Place, precision: str) -> list[float]:
    """Probabilities of the test clips of one fold."""
    output = place.folder / f"finetune-{precision}"
    shutil.rmtree(output, ignore_errors=True)
    device = [] if place.on_gpu else ["--cpu"]
    one = str(TOP / "configs/accelerate/one_process.yaml")
    run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file", one),
            *(*device, str(TOP / "finetune/run.py")),
            f"data.shards=[{clips(place)}]",
            f"model.checkpoint={plain(place)}",
            *("settings=[pretrain_finetune]", "folds=[0]", "seeds=[1]", "num_resamples=0"),
            *("data.deal.folds=4", "eval_every_steps=4", "optim.batch_size=8"),
            "plans.pretrain_finetune={num_steps: 4, warmup_steps: 0, learning_rate: 1e-3}",
            f"optim.precision={precision}",
            f"output={output}",
        ],
        output,
    )
    (table,) = output.glob("runs/*/*/predictions.csv")
    with open(table, newline="", encoding="utf-8") as file:
        return [
            float(value)
            for row in csv.DictReader(file)
            for name, value in row.items()
            if name.startswith("p_")
        ]


def plain(place: Place) -> Path:
    """The run of the plain twin on one rank, made once where it ends well."""
    folder = place.folder / "plain"
    return folder if (folder / "checkpoints/latest").exists() else pretrain(place, "plain")


def pretrain(
    place: Place,
    name: str,
    *words: str,
    ranks: int = 1,
    command: Sequence[str] = (sys.executable,),
    anew: bool = True,
) -> Path:
    """The folder of a short run of a small model, by torch's engine in fp32 unless `words` say
    otherwise. Raises CheckError where it fails."""
    output = place.folder / name
    if anew:
        shutil.rmtree(output, ignore_errors=True)
    if tuple(command) == (sys.executable,):
        torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}")
        command = [*command, *(torchrun if ranks > 1 else ()), str(TOP / "launch/pretrain.sh")]
    settings = {
        "model.text_checkpoint": bert(place),
        "model.text_init": "none",
        "model.width": 64,
        "model.num_layers": 2,
        "model.num_heads": 4,
        "model.ffn_width": 128,
        "model.dropout": 0,
        "data.shards": f"[{clips(place)}]",
        "data.batch_clips": 8,
        "data.num_lanes": 4,
        "objectives.mixing": "clip",
        "optim.steps": STEPS,
        "optim.warmup_steps": 1,
        "optim.peak_learning_rate": 1e-3,
        "engine.kind": "torch",
        "run.device": place.device.type,
        "run.precision": "fp32",
        "run.log_every": 1,
        "run.checkpoint_every": SAVED,
        "run.timeout_minutes": SECONDS / 60 / 2,
        "run.output": output,
    }
    run([*command, *(f"{key}={value}" for key, value in settings.items()), *words], output)
    return output


def run(command: Sequence[str], output: Path) -> None:
    """Raises CheckError, with the command's last words, where it fails or hangs."""
    output.mkdir(parents=True, exist_ok=True)
    path = f"{TOP}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    log = output / "log.txt"
    with open(log, "w", encoding="utf-8") as file:
        try:
            done = subprocess.run(
                command,
                env=os.environ | {"PYTHONPATH": path},
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise CheckError(f"hangs: ended after {SECONDS} s; its log is {log}") from error
    if done.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        words = [line for line in lines if re.search(r"\w*Error\b|^(pretrain|finetune): ", line)]
        told = (words or lines or ["nothing"])[-1].strip()
        raise CheckError(f"exit code {done.returncode}: {told}; its log is {log}")


def losses(output: Path) -> list[list[float]]:
    """Of each step: the loss, then that of each objective, 0 where it was not asked."""
    from pretrain.objectives import OBJECTIVES

    with open(output / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    if len(rows) != STEPS:
        raise CheckError(f"{output / 'metrics.csv'} has {len(rows)} steps, expected {STEPS}")
    found = [[float(row[name] or 0) for name in ("loss", *OBJECTIVES)] for row in rows]
    if not all(math.isfinite(value) for row in found for value in row):
        raise CheckError(f"{output / 'metrics.csv'} has losses that are no numbers")
    return found


def engine_there() -> str:
    """What most train by: deepspeed, or torch where that is not installed."""
    try:
        need("deepspeed")
    except Skipped:
        return "torch"
    return "deepspeed"


def clips(place: Place) -> Path:
    return _made(place.folder / "shards", write_clips)


def bert(place: Place) -> Path:
    return _made(place.folder / "bert", write_bert)


def _made(folder: Path, write: typing.Callable[[Path], Path]) -> Path:
    return folder if folder.exists() else write(folder)
