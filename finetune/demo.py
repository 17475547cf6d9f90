"""`make demo`: the main job, from raw clips to an emotion, and one page that shows it.

    clips -> faces, active speaker, features -> shards -> pretraining -> four settings -> page

Runs the commands a user would type, one after the other, in a folder of its own, and prints them.
Clips that bring no emotion labels are pretrained on; the four settings then use the sample clips
that ship.
"""

import datetime
import importlib.resources
import json
import os
import platform
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jinja2

from data_pipeline.config import ConfigError, load_config, parse_command_line
from data_pipeline.report import DataReport, data_report
from data_pipeline.schema import ClipSample, SchemaError, slug
from data_pipeline.shards import list_shards, read_shard
from data_pipeline.weights import ASSETS
from finetune.report import FinetuneReport, finetune_report
from pretrain.report import PretrainReport, pretrain_report

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ASSETS / "samples"
CAUTION = (
    "So few clips show the mechanics, not accuracy: every stage ran on real input, "
    "but the numbers in this table mean nothing about how well emotions are recognised."
)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    clips: Path = SAMPLES / "clips.csv"
    """Folder of videos, or clip table."""
    output: Path = Path("runs/demo")
    """Everything is written below it, in a folder named after the clips."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command that ran."""

    command: str
    seconds: float


class DemoError(RuntimeError):
    """A stage that failed; its own message stands above."""


def main(argv: list[str] | None = None) -> int:
    config_path, overrides = parse_command_line("The main job, end to end.", argv)
    try:
        config = load_config(DemoConfig, config_path, overrides)
        run_demo(config)
    except (ConfigError, DemoError, SchemaError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def run_demo(config: DemoConfig) -> Path:
    """Run the three stages on `config.clips`; returns the path of the page."""
    start = time.monotonic()
    if not config.clips.exists():
        raise DemoError(f"no {config.clips}; give a folder of videos or a clip table: CLIPS=...")
    own = config.clips.resolve() != DemoConfig.clips.resolve()
    output = (config.output / (slug(config.clips.resolve().stem) if own else "samples")).absolute()
    shards, model, results = output / "shards", output / "pretrain", output / "finetune"

    steps = [extract(config.clips, shards)]
    labelled = shards
    if own and len({sample.meta["label"] for sample in samples_of(shards)} - {None}) < 2:
        labelled = output / "sample_shards"
        steps.append(extract(DemoConfig.clips, labelled))
    speakers = len({sample.meta["speaker"] for sample in samples_of(labelled)} - {None})
    steps.append(
        run(
            "deepspeed launch/pretrain.sh --config configs/pretrain/tiny.yaml "
            f"data.shards=[{shards}] run.output={model}"
        )
    )
    steps.append(
        run(
            "accelerate launch finetune/run.py --config configs/finetune/demo.yaml "
            f"data.shards=[{labelled}] model.checkpoint={model} output={results} "
            f"data.deal.by={'speaker' if speakers > 1 else 'clip'} "
            f"data.deal.folds={min(speakers, 5) if speakers > 1 else 2} "
            f"data.deal.allow_shared_speakers={'false' if speakers > 1 else 'true'}"
        )
    )

    data, losses, settings = data_report(shards), pretrain_report(model), finetune_report(results)
    seconds = time.monotonic() - start
    page = write_page(output / "report.html", config, data, losses, settings, steps, seconds)
    print_summary(data, losses, settings, labelled != shards, page)
    return page


def extract(clips: Path, shards: Path) -> Step:
    return run(
        "python -m data_pipeline.extract --config configs/data/demo.yaml "
        f"clips={clips} output={shards}"
    )


def samples_of(shards: Path) -> Iterator[ClipSample]:
    for tar in list_shards(shards):
        yield from read_shard(tar)


def run(command: str) -> Step:
    """Run `command` from the project's top with this Python's tools first on the path."""
    print(f"\n$ {command}", flush=True)
    bin_folder = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "HF_HUB_OFFLINE": "1",  # all that the demo needs is installed
    }
    start = time.monotonic()
    done = subprocess.run(command.split(" "), cwd=ROOT, env=environment)
    if done.returncode:
        raise DemoError(f"`{command}` failed with exit code {done.returncode}")
    return Step(command=command.replace(f"{ROOT}/", ""), seconds=time.monotonic() - start)


def write_page(
    path: Path,
    config: DemoConfig,
    data: DataReport,
    losses: PretrainReport,
    settings: FinetuneReport,
    steps: list[Step],
    seconds: float,
) -> Path:
    """One HTML file with its pictures inside, so that it can be sent as it is."""
    template = importlib.resources.files("finetune").joinpath("templates/demo.html").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    previews = [
        {
            "title": preview.title,
            "caption": preview.caption,
            "pictures": [inline(picture) for picture in preview.pictures],
        }
        for preview in data.previews
    ]
    runs = {"extraction": data.folder, "pretraining": losses.folder, "finetuning": settings.folder}
    page = environment.from_string(template).render(
        clips_name=config.clips.name,
        date=datetime.date.today().isoformat(),
        commit=git_commit(),
        hardware=f"{os.cpu_count()} cores, {platform.machine()}",
        total_time=f"{seconds / 60:.1f} min",
        data=data,
        previews=previews,
        pretrain=losses,
        curves=inline(losses.curves),
        settings={
            "columns": settings.columns,
            "rows": settings.rows,
            "notes": settings.notes,
            "pictures": [inline(picture) for picture in settings.pictures],
        },
        caution=CAUTION,
        commands=steps,
        passport=json.dumps(data.passport, indent=2),
        configs=[
            (f"Resolved config of {name}", (folder / "config.yaml").read_text())
            for name, folder in runs.items()
        ],
    )
    path.write_text(page, encoding="utf-8")
    return path


def inline(picture: Path) -> str:
    kind = {".png": "png", ".jpg": "jpeg"}[picture.suffix]
    return f"data:image/{kind};base64,{b64encode(picture.read_bytes()).decode()}"


def git_commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def print_summary(
    data: DataReport,
    losses: PretrainReport,
    settings: FinetuneReport,
    finetuned_on_samples: bool,
    page: Path,
) -> None:
    print(
        f"\nclips in {data.num_clips} = samples {data.num_samples} + rejects {data.num_rejects}\n"
        "\nloss on held-out clips        start       end"
    )
    for row in losses.rows:
        print(f"  {row.objective:<22} {row.start:>10.4f} {row.end:>9.4f}")
    widths = [
        max(len(str(row[i])) for row in (settings.columns, *settings.rows))
        for i in range(len(settings.columns))
    ]
    print()
    for row in (settings.columns, *settings.rows):
        print("  " + "  ".join(f"{cell!s:<{w}}" for cell, w in zip(row, widths, strict=True)))
    if finetuned_on_samples:
        print("  (your clips bear no labels: the settings were trained on the sample clips)")
    print(f"\n{CAUTION}\n\nreport: {page}")


if __name__ == "__main__":
    sys.exit(main())
