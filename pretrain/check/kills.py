"""Kill a pretraining again and again, and compare what it leaves with one that was left alone.

    python -m pretrain.check.kills --config configs/pretrain/tiny.yaml run.checkpoint_every=4

First the run of the config, left alone, to OUTPUT/reference; then the same into OUTPUT/killed-1, of
which a random process, a rank or the launcher, gets SIGKILL at a random moment: while it starts,
in a step, or while a checkpoint is being written. It is started again until it ends; one that ended
before all kills were done is followed by killed-2, and so on. Each must leave the reference's
losses, weights and training state, to the bit.

A rank must not outlive its peers: how long it takes until every process is gone is told of each
kill. Linux alone: processes are known by a word in their environment.
"""

import argparse
import contextlib
import os
import random
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.errors import UserError
from pretrain.check.differences import differences

SCRIPT = Path(__file__).resolve().parents[2] / "launch/pretrain.sh"
MARK = "MEMOBERT_KILLS"
MOMENTS = {"starting": 1, "training": 2, "saving": 2}
"""How often each is drawn."""
HANGS_SECONDS = 330.0
"""Ranks whose launcher was killed have 300 s to save (pretrain.launcher)."""


class KillsError(UserError):
    """A run that cannot be killed and started again."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run that came to its end."""

    folder: Path
    wrong: list[str]
    """What it and the reference do not have alike."""

    def __str__(self) -> str:
        same = "the reference's losses, weights and training state, to the bit"
        return f"{self.folder}: " + (f"DIFFERS in {', '.join(self.wrong)}" if self.wrong else same)


@dataclass(frozen=True, kw_only=True)
class Kill:
    moment: str
    who: str
    """`launcher`, or `rank 1`."""
    step: int
    """The last one in metrics.csv."""
    gone_seconds: float
    """Until no process of the run was left."""

    def __str__(self) -> str:
        who = f"{self.moment:<8} | {self.who:<8}"
        return f"{who} | step {self.step:>5} | {self.gone_seconds:5.1f} s"


class Start:
    """One start of a run, by torchrun, and all of its processes."""

    def __init__(self, words: list[str], ranks: int, folder: Path) -> None:
        self.metrics, self.checkpoints = folder / "metrics.csv", folder / "checkpoints"
        self.before = self._inode()
        self.began, self.mark = time.time(), uuid.uuid4().hex
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_suffix(".log"), "a") as log:
            self.launcher = subprocess.Popen(
                [sys.executable, *torchrun, str(SCRIPT), *words, f"run.output={folder}"],
                env=os.environ | {MARK: self.mark},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours, and `kill_all` follows
            )

    def _inode(self) -> int:
        return self.metrics.stat().st_ino if self.metrics.exists() else 0

    def step(self) -> int | None:
        """The last one in metrics.csv, 0 of none; None: this start has not opened it yet."""
        return None if self._inode() == self.before else last_step(self.metrics)

    def saving(self) -> bool:
        """Whether a checkpoint is half written, by this start."""
        for path in self.checkpoints.glob(".step-*.tmp"):
            try:
                if path.stat().st_ctime > self.began:
                    return True
            except FileNotFoundError:
                continue
        return False

    def processes(self) -> dict[str, psutil.Process]:
        """Name to process of all that run, in the order of their start."""
        found: dict[str, psutil.Process] = {}
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                if environment.get(MARK) != self.mark or process.status() == psutil.STATUS_ZOMBIE:
                    continue
            except psutil.Error:  # another user's, or gone
                continue
            rank = environment.get("RANK")
            name = "launcher" if rank is None else f"rank {rank}"
            found[f"{name}, {process.pid}" if name in found else name] = process
        return found

    def wait_until_gone(self) -> float | None:
        """Seconds; None: some hang, and were killed."""
        began = time.monotonic()
        while time.monotonic() - began < HANGS_SECONDS:
            self.launcher.poll()
            if not self.processes():
                return time.monotonic() - began
            time.sleep(0.05)
        self.kill_all()
        return None

    def kill_all(self) -> None:
        for process in self.processes().values():
            process.kill()
        self.launcher.wait()


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds of the reference, which moments are drawn by."""

    start: float
    step: float
    save: float


def left_alone(start: Start) -> Pace:
    """Wait for the run's end, with an eye on its pace."""
    began = last = time.monotonic()
    opened, saved, saves, was_saving = began, 0.0, 0, False
    while start.launcher.poll() is None:
        time.sleep(0.005)
        now, saving = time.monotonic(), start.saving()
        if start.step() is None:
            opened = now
        saves += saving and not was_saving
        saved += (now - last) * saving
        last, was_saving = now, saving
    check_ended(start)
    steps = max(last_step(start.metrics), 1)
    return Pace(start=opened - began, step=(last - opened) / steps, save=saved / max(saves, 1))


def check_ended(start: Start) -> None:
    if start.launcher.returncode:
        log = start.checkpoints.parent.with_suffix(".log")
        raise KillsError(f"a run ended with {start.launcher.returncode}; {log} says why")


def kill_once(start: Start, pace: Pace, most_steps: int, rng: random.Random) -> Kill | None:
    """None: the run ended before. Raises KillsError where a process hangs."""
    wanted = rng.choices(list(MOMENTS), list(MOMENTS.values()))[0]
    steps, share = rng.randint(1, most_steps), rng.random()
    if not wait_for(start, wanted, steps, share, pace):
        return None
    processes = start.processes()
    saving, step = start.saving(), start.step()
    names = sorted(name for name in processes if "," not in name)
    if not names:
        return None
    who = rng.choice(names)
    with contextlib.suppress(psutil.NoSuchProcess):
        processes[who].kill()
    gone = start.wait_until_gone()
    if gone is None:
        raise KillsError(f"{who} was killed, and others still ran {HANGS_SECONDS:g} s later")
    if start.launcher.wait() == 0:
        return None
    moment = "saving" if saving else "starting" if step is None else "training"
    return Kill(moment=moment, who=who, step=last_step(start.metrics), gone_seconds=gone)


def wait_for(start: Start, wanted: str, steps: int, share: float, pace: Pace) -> bool:
    """Until the moment is there; False: the run ended before."""
    began, first = time.monotonic(), None
    while start.launcher.poll() is None:
        step = start.step()
        if step is not None and first is None:
            first = step
        if wanted == "starting":
            if time.monotonic() - began >= share * pace.start:
                return True
        elif first is not None and step >= first + steps and wanted == "training":
            time.sleep(share * pace.step)
            return True
        elif first is not None and wanted == "saving" and start.saving():
            time.sleep(share * pace.save)
            return True
        time.sleep(0.002)
    return False


def kill_again_and_again(
    start: Callable[[Path], Start], root: Path, times: int, most_steps: int, seed: int
) -> Iterator[Kill | Ended]:
    """Each kill, and each run that ended. `most_steps`: of a start, before it is killed."""
    rng = random.Random(seed)
    reference = root / "reference"
    running = start(reference)
    try:
        pace = left_alone(running)
        kills, runs = 0, 1
        while True:
            folder = root / f"killed-{runs}"
            running = start(folder)
            kill = kill_once(running, pace, most_steps, rng) if kills < times else None
            if kill is not None:
                kills += 1
                yield kill
                continue
            running.launcher.wait()
            check_ended(running)
            yield Ended(folder=folder, wrong=differences(reference, folder))
            runs += 1
            if kills == times:
                return
    finally:
        running.kill_all()


def last_step(metrics: Path) -> int:
    """0 where there is no row yet; a row that is half written does not count."""
    if not metrics.exists():
        return 0
    whole = metrics.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    return int(whole[-1].partition(",")[0]) if len(whole) > 1 else 0


def main(argv: list[str] | None = None) -> int:
    """0 where every run left the reference's bits, 1 where one did not."""
    return run_command(_main, argv, name="kills")


def _main(argv: list[str] | None) -> int:
    options = _options(argv)
    words = ["--config", options.config, "run.log_every=1", *options.settings]

    def start(folder: Path) -> Start:
        return Start(words, options.ranks, folder)

    kills: list[Kill] = []
    runs: list[Ended] = []
    print("kill | moment   | who      | step       | all gone after", flush=True)
    for told in kill_again_and_again(
        start, options.output, options.times, options.steps, options.seed
    ):
        if isinstance(told, Kill):
            kills.append(told)
            print(f"{len(kills):>4} | {told}", flush=True)
        else:
            runs.append(told)
            print(told, flush=True)
    moments, victims = (Counter(getattr(k, name) for k in kills) for name in ("moment", "who"))
    by = [f"{count} {name}" for name, count in [*moments.items(), *sorted(victims.items())]]
    wrong = sum(bool(run.wrong) for run in runs)
    longest = max(kill.gone_seconds for kill in kills)
    print(
        f"{len(kills)} kills ({', '.join(by)}); the last process was gone after {longest:.1f} s "
        f"at most; {len(runs) - wrong} of {len(runs)} runs equal to the bit"
    )
    return 1 if wrong else 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(
        "python -m pretrain.check.kills",
        "Kill a pretraining at random moments, let it end, and compare it to the bit with one that "
        "was left alone.",
        "python -m pretrain.check.kills --config configs/pretrain/tiny.yaml --times 50 \\\n"
        "      data.shards=[runs/mine/shards] run.checkpoint_every=4 optim.steps=200",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="of the pretraining")
    parser.add_argument("--ranks", type=int, default=2, help="of the run, on this machine")
    parser.add_argument("--times", type=int, default=50, help="kills")
    parser.add_argument("--steps", type=int, default=20, help="most between a start and its kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", type=Path, default=Path("runs/kills"), help="a new folder")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of the pretraining")
    options = parser.parse_intermixed_args(argv)
    if options.output.exists():
        raise KillsError(f"{options.output} is there; expected a new folder: remove it")
    if min(options.times, options.ranks, options.steps) < 1:
        raise KillsError("--times, --ranks and --steps: expected 1 or more")
    if any(word.startswith("run.output=") for word in options.settings):
        raise KillsError("run.output is set for each run; give --output")
    return options


if __name__ == "__main__":
    sys.exit(main())
