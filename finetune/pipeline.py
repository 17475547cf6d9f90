"""bash launch/slurm/pipeline.sh --config configs/pipeline/default.yaml clips=... output=...

One clip table through all three stages, as a chain of Slurm jobs: extraction (an array) and its
sums, pretraining, finetuning (an array) and its table. Submitted again, it leaves out what is done
or still queued. It submits and ends; nothing here outlives it but the jobs.
"""

import fcntl
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import PositiveInt, TypeAdapter, ValidationError

from data_pipeline.command_line import config_from_command_line, run_command
from data_pipeline.config import dump_config, load_config
from data_pipeline.errors import UserError
from data_pipeline.extraction.config import DataConfig
from data_pipeline.paths import PathText
from data_pipeline.quoting import as_yaml
from data_pipeline.runs.claim import check_claim
from data_pipeline.runs.ledger import read_summary
from data_pipeline.schema import Reject
from data_pipeline.table.clips import load_clips
from finetune.config import FinetuneConfig, config_digest
from finetune.runs.results import missing_runs, read_recipes, write_text
from pretrain.checkpoint.folder import read_latest
from pretrain.checkpoint.integrity import weights_sha256
from pretrain.config import PretrainConfig
from pretrain.run import check_same_run, shards_passport

PROJECT = Path(__file__).resolve().parents[1]
JOBS = PROJECT / "launch/slurm"
SUBMITTED = "submitted.json"
"""Job to its number and words, in the folder of the logs."""


DONE = "is done"


class PipelineError(UserError):
    """A chain of jobs that cannot be submitted."""


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """One stage of the chain."""

    config: PathText
    """Its YAML; a name that is not there is looked for in the project."""
    settings: tuple[str, ...] = ()
    """key=value on top of it, as on the stage's own command line; folders are the pipeline's."""


@dataclass(frozen=True, kw_only=True)
class ArrayStageSettings(StageSettings):
    """A stage that is an array of jobs."""

    tasks: PositiveInt = 8
    """At most so many jobs side by side."""


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """Clips to results, by three stages."""

    clips: PathText
    """A clip table, a folder of videos, or one video; its labels are learned by finetuning."""
    output: PathText
    """Folder of shards/, pretrain/, finetune/, and of the jobs' logs, jobs/."""
    extract: ArrayStageSettings = field(
        default_factory=lambda: ArrayStageSettings(config="configs/data/default.yaml")
    )
    pretrain: StageSettings = field(
        default_factory=lambda: StageSettings(config="configs/pretrain/reference.yaml")
    )
    finetune: ArrayStageSettings = field(
        default_factory=lambda: ArrayStageSettings(config="configs/finetune/reference.yaml")
    )


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job of the chain, as it would be submitted."""

    name: str
    script: str
    words: tuple[str, ...]
    site: str
    """Variable of the site's file that holds sbatch's options for it."""
    waits_for: dict[str, str]
    """Job to the kind of dependency: afterok, afterany."""
    done: Callable[[], str]
    """What there is to say of it where it is done; empty where it is not."""
    tasks: int = 0
    """Of an array; 0 is none."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """What became of a job of the chain."""

    name: str
    number: str
    state: str
    log: str


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 for what cannot be submitted."""
    return run_command(_main, argv, name="pipeline")


def _main(argv: list[str] | None) -> int:
    config = config_from_command_line(
        PipelineConfig,
        argv,
        command="bash launch/slurm/pipeline.sh",
        about="Clips to results as a chain of Slurm jobs. Submitted again, it leaves out what is\n"
        "done or still queued. launch/slurm/site.example.sh says what a site may set.",
        example="bash launch/slurm/pipeline.sh clips=movies.csv output=runs/movies extract.tasks=9",
    )
    lines = submit(config)
    widths = [max(len(getattr(line, part)) for line in lines) for part in ("name", "number")]
    for line in lines:
        told = f"{line.name:<{widths[0]}}  {line.number:<{widths[1]}}  {line.state}"
        print(told + (f"; log {line.log}" if line.log else ""))
    return 0


def submit(config: PipelineConfig) -> list[Line]:
    """Submit what is neither done nor queued; everything that can be checked is, before."""
    logs = Path(config.output) / "jobs"
    chain = chain_of(config)
    logs.mkdir(parents=True, exist_ok=True)
    with open(logs / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PipelineError(f"{logs} is being submitted by another command") from error
        return _submit(chain, logs)


def _submit(chain: list[Job], logs: Path) -> list[Line]:
    record = _read_record(logs / SUBMITTED)
    lines: list[Line] = []
    numbers: dict[str, str] = {}
    for job in chain:
        log = str(logs / (f"{job.name}-%A_%a.log" if job.tasks else f"{job.name}-%j.log"))
        number, words = record.get(job.name, ("", ()))
        if number and _is_queued(number):
            if tuple(words) != job.words:
                raise PipelineError(
                    f"job {number} ({job.name}) is queued with other words: {' '.join(words)}; "
                    f"scancel {number}, or wait for it"
                )
            numbers[job.name] = number
            lines.append(_line(job, number, "is queued already", log, numbers))
        elif not any(name in numbers for name in job.waits_for) and (told := job.done()):
            lines.append(Line(name=job.name, number="-", state=told, log=""))
        else:
            numbers[job.name] = number = _sbatch(job, log, numbers)
            record[job.name] = (number, job.words)
            write_text(logs / SUBMITTED, json.dumps(record, indent=1) + "\n")
            lines.append(_line(job, number, "submitted", log, numbers))
    return lines


def chain_of(config: PipelineConfig) -> list[Job]:
    """The jobs, in order. Raises UserError for a clip table or a stage's config that is no good."""
    output = Path(config.output)
    shards, model, results = output / "shards", output / "pretrain", output / "finetune"
    read = f"data.shards={as_yaml([shards])}"
    data_words = _words(config.extract, f"clips={config.clips}", f"output={shards}")
    pretrain_words = _words(config.pretrain, read, f"run.output={model}")
    finetune_words = _words(config.finetune, read, f"model.checkpoint={model}", f"output={results}")
    data = _checked(DataConfig, data_words)
    training = _checked(PretrainConfig, pretrain_words)
    tuning = _of_one_target(_checked(FinetuneConfig, finetune_words))
    rejects: list[Reject] = []
    clips = load_clips(data.clips, rejects)
    check_claim(shards, clips, data.settings(), dump_config(data), Path(data.clips).expanduser())
    num_shards = -(-len(clips) // data.clips_per_shard)

    def extracted() -> str:
        there = (shards / "summary.json").exists() and read_summary(shards).is_complete
        return DONE if there else ""

    def pretrained() -> str:
        newest = read_latest(model / "checkpoints")
        if newest is None or int(newest.name.split("-")[1]) < training.optim.steps:
            return ""
        changes = check_same_run(training, shards_passport(training), newest)
        return f"{DONE} with other settings, now {', '.join(changes)}" if changes else DONE

    def finetuned() -> str:
        asked = [r for r in read_recipes(results) if r.asked_by == config_digest(tuning)]
        if not {r.setting for r in asked} >= set(tuning.settings) or missing_runs(results):
            return ""
        newest = read_latest(model / "checkpoints")
        learned_from = {r.facts.get("checkpoint_sha256") for r in asked} - {"", None}
        same = newest is None or learned_from <= {weights_sha256(newest)}
        return DONE if same else ""  # an older checkpoint's, which they would not say

    return [
        Job(
            name="extract",
            script="extract.sbatch",
            words=data_words,
            site="EXTRACT",
            waits_for={},
            done=extracted,
            tasks=max(1, min(config.extract.tasks, num_shards)),
        ),
        Job(
            name="summary",
            script="command.sbatch",
            words=("python", "-m", "data_pipeline.summary", str(shards)),
            site="SMALL",
            waits_for={"extract": "afterany"},
            done=extracted,
        ),
        Job(
            name="pretrain",
            script="pretrain.sbatch",
            words=pretrain_words,
            site="PRETRAIN",
            waits_for={"summary": "afterok"},
            done=pretrained,
        ),
        Job(
            name="finetune",
            script="finetune.sbatch",
            words=finetune_words,
            site="FINETUNE",
            waits_for={"pretrain": "afterok"},
            done=finetuned,
            tasks=config.finetune.tasks,
        ),
        Job(
            name="collect",
            script="command.sbatch",
            words=("python", "-m", "finetune.collect", str(results)),
            site="SMALL",
            waits_for={"pretrain": "afterok", "finetune": "afterany"},
            done=lambda: finetuned() if (results / "results.csv").exists() else "",
        ),
    ]


def _words(stage: StageSettings, *folders: str) -> tuple[str, ...]:
    path = Path(stage.config)
    if not path.exists() and (PROJECT / path).exists():
        path = PROJECT / path
    return ("--config", str(path), *stage.settings, *folders)


def _of_one_target(config: FinetuneConfig) -> FinetuneConfig:
    if config.targets:
        raise PipelineError(
            f"the finetuning config has targets ({', '.join(config.targets)}), and a chain has one "
            "results folder; give `data.labels` instead, and a chain to each"
        )
    return config


def _checked(cls: type, words: tuple[str, ...]):
    """The config that a stage will be called with."""
    return load_config(cls, words[1], list(words[2:]))


def _sbatch(job: Job, log: str, numbers: dict[str, str]) -> str:
    """Submit `job`; its number."""
    waits = [f"{kind}:{numbers[name]}" for name, kind in job.waits_for.items() if name in numbers]
    command = [
        *("sbatch", "--parsable", *shlex.split(os.environ.get(job.site, ""))),
        *(f"--job-name={job.name}", f"--output={log}"),
        *([f"--array=0-{job.tasks - 1}"] if job.tasks else []),
        # Else what waits for a job that failed would wait for ever.
        *([f"--dependency={','.join(waits)}", "--kill-on-invalid-dep=yes"] if waits else []),
        *(str(JOBS / job.script), *job.words),
    ]
    return _slurm(command, f"submit {job.name}").partition(";")[0]


def _is_queued(number: str) -> bool:
    command = ["squeue", "--noheader", "--jobs", number, "--format=%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise PipelineError("no command squeue: run this where Slurm's commands are") from error
    if done.returncode and "Invalid job id" not in done.stderr:  # so it says of one long ended
        raise PipelineError(f"cannot ask for job {number}: {done.stderr.strip()}; try again later")
    return bool(done.stdout.strip())


def _slurm(command: list[str], what: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise PipelineError(f"no command {command[0]}: run this where Slurm's are") from error
    if done.returncode:
        raise PipelineError(
            f"cannot {what}: {done.stderr.strip()}; the command was {shlex.join(command)}; what "
            "was submitted before it stays, and the same command goes on from there"
        )
    return done.stdout.strip()


def _line(job: Job, number: str, state: str, log: str, numbers: dict[str, str]) -> Line:
    waits = [f"{name} ({numbers[name]})" for name in job.waits_for if name in numbers]
    told = f"{state}, waits for {' and '.join(waits)}" if waits else state
    shown = log.replace("%A_%a", f"{number}_*").replace("%j", number)
    array = f"_[0-{job.tasks - 1}]" if job.tasks else ""
    return Line(name=job.name, number=number + array, state=told, log=shown)


def _read_record(path: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    try:
        record = TypeAdapter(dict[str, tuple[str, tuple[str, ...]]])
        return record.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        raise PipelineError(f"{path} is cut or altered; see squeue, then remove it") from error


if __name__ == "__main__":
    sys.exit(main())
