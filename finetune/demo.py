"""`make demo`: the main job, from raw clips to an emotion, and one page that shows it.

    clips -> faces, active speaker, features -> shards -> pretraining -> four settings -> page

Runs the commands a user would type, one after the other, in a folder of its own, and prints them.
Own clips that bring no emotion labels, or none that can be dealt into folds, are pretrained on; the
four settings then use the sample clips that ship. Very few own clips are pretrained on together
with the sample clips.
"""

import datetime
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.command_line import config_from_command_line, run_command
from data_pipeline.config import load_config
from data_pipeline.errors import UserError
from data_pipeline.files.weights import ASSETS
from data_pipeline.paths import UserPath
from data_pipeline.quoting import as_yaml
from data_pipeline.report import DataReport, data_report
from data_pipeline.runs.ledger import read_summary
from data_pipeline.schema import slug
from finetune.clips.labelled import DatasetError, LabelMap, read_labelled
from finetune.config import FinetuneConfig
from finetune.page import Section, code_commit
from finetune.page import write_page as write_sections
from finetune.protocols import ProtocolError, make_protocol, split_clips
from finetune.report import FinetuneReport, finetune_report
from finetune.timeline.page import timeline_shown
from finetune.timeline.recognition import read_faces
from finetune.timeline.utterance import read_timeline
from pretrain.monitoring.report import PretrainReport, pretrain_report

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ASSETS / "samples"
FINETUNE_YAML = "configs/finetune/demo.yaml"
FEW_CLIPS = 10
"""Fewer own samples than this are too few for pretraining and held-out clips."""
CAUTION = (
    "So few clips show the mechanics, not accuracy: every stage ran on real input, "
    "but the numbers in this table mean nothing about how well emotions are recognised."
)
OF_SAMPLES = (
    "The sample clips are six acted emotions by two actors who all say one sentence, and of the "
    "second actor there is sound alone: the model knows the words by heart, and is judged with "
    "faces where it was taught without, or the other way round."
)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    clips: UserPath = SAMPLES / "clips.csv"
    """Folder of videos, or clip table."""
    output: UserPath = Path("runs/demo")
    """Everything is written below it, in a folder named after the clips."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command that ran."""

    command: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Remarks:
    """Sentences on which clips stand behind the numbers."""

    losses: list[str]
    settings: list[str]


class DemoError(UserError):
    """A stage that failed; its own message stands above."""


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="demo", go_on="the same command goes on from here")


def _main(argv: list[str] | None) -> int:
    config = config_from_command_line(
        DemoConfig,
        argv,
        command="python -m finetune.demo",
        about="The main job, from raw clips to emotions and one page that shows it.\n"
        "`make demo` is the same; its settings are CLIPS= and OUT=.",
        example="python -m finetune.demo clips=my/videos output=runs/demo",
    )
    run_demo(config)
    return 0


def run_demo(config: DemoConfig) -> Path:
    """Run the three stages on `config.clips`; returns the path of the page."""
    start = time.monotonic()
    if not config.clips.exists():
        raise DemoError(f"no {config.clips}; give a folder of videos or a clip table: CLIPS=...")
    own = config.clips.resolve() != DemoConfig.clips.resolve()
    output = (config.output / (folder_name(config.clips) if own else "samples")).absolute()
    shards, model, results = output / "shards", output / "pretrain", output / "finetune"

    steps = [extract(config.clips, shards)]
    found = read_summary(shards)
    if not found.num_samples:
        raise DemoError(
            f"none of the {found.num_clips} clips gave a sample, so there is nothing to train on; "
            f"{shards}/rejects.csv says why for each"
        )
    train, labelled = [shards], shards
    remarks = Remarks(losses=[] if own else [OF_SAMPLES], settings=[])
    if own:
        samples = output / "sample_shards"
        if found.num_samples < FEW_CLIPS:
            train.append(samples)
            remarks.losses.append(
                f"{found.num_samples} clips are too few to pretrain on, so the sample clips that "
                "ship took part in it."
            )
        try:
            folds = deal(shards)
        except (DatasetError, ProtocolError) as error:
            labelled = samples
            remarks.settings.append(
                "The four settings were trained and judged on the sample clips that ship, not on "
                f"yours: {error}."
            )
            remarks.settings.append(OF_SAMPLES)
        if samples in (*train, labelled):
            steps.append(extract(DemoConfig.clips, samples))
    if labelled != shards or not own:
        folds = deal(labelled)
    steps.append(
        run(
            *("deepspeed", "launch/pretrain.sh", "--config", "configs/pretrain/tiny.yaml"),
            f"data.shards={as_yaml(train)}",
            f"run.output={model}",
        )
    )
    steps.append(
        run(
            *("accelerate", "launch", "finetune/run.py", "--config", FINETUNE_YAML),
            f"data.shards={as_yaml([labelled])}",
            f"model.checkpoint={model}",
            f"output={results}",
            *folds,
        )
    )

    timeline = output / "timeline"
    steps.append(
        run(
            *("python", "-m", "finetune.predict", str(config.clips.absolute())),
            *("--output", str(timeline)),
            leaves=timeline / "timeline.json",
        )
    )

    data, losses, settings = data_report(shards), pretrain_report(model), finetune_report(results)
    seconds = time.monotonic() - start
    page = write_page(
        output / "report.html", config, data, losses, settings, remarks, steps, seconds, timeline
    )
    print_summary(data, losses, settings, remarks, page)
    return page


def folder_name(clips: Path) -> str:
    """Of the clips' last two names: corpora tend to keep theirs in a folder called `clips`."""
    clips = clips.resolve()
    return slug("-".join(filter(None, (clips.parent.name, clips.stem))))


def extract(clips: Path, shards: Path) -> Step:
    return run(
        *("python", "-m", "data_pipeline.extract", "--config", "configs/data/demo.yaml"),
        f"clips={clips.absolute()}",
        f"output={shards}",
    )


def deal(shards: Path) -> list[str]:
    """Overrides that deal the labelled clips of `shards` into folds, by speaker if they name any.

    Raises DatasetError or ProtocolError where no folds can be made of them.
    """
    data = load_config(FinetuneConfig, ROOT / FINETUNE_YAML, []).data
    clips = read_labelled([str(shards)], LabelMap.build(data.labels, data.ignore_labels), ()).clips
    speakers = {clip.named("speaker") for clip in clips}
    by_speaker = None not in speakers and len(speakers) > 1
    protocol = make_protocol(
        clips,
        name="demo",
        by="speaker" if by_speaker else "clip",
        num_folds=min(len(speakers), 5) if by_speaker else 2,
        dev=False,
        allow_shared_speakers=not by_speaker,
    )
    for fold in range(len(protocol.folds)):
        split_clips(clips, protocol, fold)
    return [
        f"data.deal.by={protocol.group}",
        f"data.deal.folds={len(protocol.folds)}",
        f"data.deal.allow_shared_speakers={str(protocol.allow_shared_speakers).lower()}",
    ]


def run(*words: str, leaves: Path | None = None) -> Step:
    """Run a command from the project's top with this Python's tools first on the path.

    leaves: what it writes also where it then tells of files that it could not read.
    """
    command = shlex.join(words)
    print(f"\n$ {command}", flush=True)
    bin_folder = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "HF_HUB_OFFLINE": "1",  # all that the demo needs is installed
        # The launchers start a process on every GPU, and these clips are too few to share.
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0],
    }
    start = time.monotonic()
    done = subprocess.run(words, cwd=ROOT, env=environment)
    if done.returncode and not (leaves is not None and leaves.exists()):
        raise DemoError(f"`{command}` failed with exit code {done.returncode}")
    return Step(command=command.replace(f"{ROOT}/", ""), seconds=time.monotonic() - start)


def write_page(
    path: Path,
    config: DemoConfig,
    data: DataReport,
    losses: PretrainReport,
    settings: FinetuneReport,
    remarks: Remarks,
    steps: list[Step],
    seconds: float,
    timeline: Path,
) -> Path:
    """One HTML file with its pictures inside, so that it can be sent as it is."""
    today = datetime.date.today().isoformat()
    hardware = f"{os.cpu_count()} cores, {platform.machine()}"
    return write_sections(
        path,
        "From raw clips to an emotion",
        f"{config.clips.name} · {today} · commit {code_commit()} · {hardware}",
        [
            Section(kind="extraction", report=data),
            Section(kind="pretraining", report=losses, remarks=remarks.losses),
            Section(kind="finetuning", report=settings, remarks=[CAUTION, *remarks.settings]),
        ],
        facts=[(f"{seconds / 60:.1f} min", "in all")],
        commands=steps,
        timeline=timeline_shown(read_timeline(timeline / "timeline.json"), read_faces(timeline)),
    )


def print_summary(
    data: DataReport,
    losses: PretrainReport,
    settings: FinetuneReport,
    remarks: Remarks,
    page: Path,
) -> None:
    print(
        f"\nclips in {data.num_clips} = samples {data.num_samples} + rejects {data.num_rejects}\n"
        "\nloss on held-out clips        start       end"
    )
    for row in losses.rows:
        print(f"  {row.objective:<22} {row.start:>10.4f} {row.end:>9.4f}")
    widths = [
        max(len(str(row[i])) for row in (settings.columns, *settings.table))
        for i in range(len(settings.columns))
    ]
    print()
    for row in (settings.columns, *settings.table):
        print("  " + "  ".join(f"{cell!s:<{w}}" for cell, w in zip(row, widths, strict=True)))
    print("\n".join(["", CAUTION, *remarks.losses, *remarks.settings, "", f"report: {page}"]))


if __name__ == "__main__":
    sys.exit(main())
