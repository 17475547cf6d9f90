"""One HTML page of any run: an extraction, a pretraining, a finetuning, or several of them.

    python -m finetune.page runs/mine/shards              # writes runs/mine/shards/report.html
    python -m finetune.page runs/mine                     # all runs that lie in it, on one page
    python -m finetune.page FOLDER FOLDER --output x.html

The pictures are inside the page, so that it can be sent as it is. They and the tables come from
what the run left in its folder, so a run that still goes on can be looked at too.
"""

import datetime
import json
import logging
import os
import sys
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.errors import UserError
from data_pipeline.files.atomic import atomic_file
from data_pipeline.paths import new_file_argument, path_argument
from data_pipeline.report import DataReport, data_report
from finetune.report import FinetuneReport, JudgedClip, finetune_report
from finetune.report.missing_modalities import COLUMNS as MISSING_COLUMNS
from finetune.timeline.page import timeline_environment
from pretrain.monitoring.report import PretrainReport, pretrain_report
from pretrain.runtime import git_commit

KINDS = {
    "extraction": ("summary.json", "python -m data_pipeline.extract", data_report),
    "pretraining": ("metrics.csv", "launch/pretrain.sh", pretrain_report),
    "finetuning": ("results.csv", "finetune/run.py", finetune_report),
}
"""Kind of run, in the order of the stages: the file that tells it, what makes it, its report."""
MAX_JUDGED = 24
"""Test clips whose emotion the page shows."""


class PageError(UserError):
    """A folder that holds no run."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """What the page shows of one run."""

    kind: str
    """One of KINDS; its template bears the same name."""
    report: DataReport | PretrainReport | FinetuneReport
    remarks: list[str] = field(default_factory=list)
    """Sentences that a reader must know beside the numbers."""

    @property
    def config(self) -> str:
        """The resolved config; of a finetuning that of its first run; empty where there is none."""
        folder = self.report.folder
        paths = [folder / "config.yaml", *sorted(folder.glob("runs/*/*/config.yaml"))]
        found = [path for path in paths if path.is_file()]
        return found[0].read_text(encoding="utf-8") if found else ""

    @property
    def pictures(self) -> list[str]:
        """Of a pretraining or finetuning, as data: URLs."""
        report = self.report
        is_pretraining = isinstance(report, PretrainReport)
        paths = [*report.curves, *report.more] if is_pretraining else report.pictures
        return [inline(path) for path in paths]

    @property
    def previews(self) -> list[dict[str, Any]]:
        """Of an extraction's clips."""
        return [
            {
                "title": preview.title,
                "caption": preview.caption,
                "pictures": [inline(picture) for picture in preview.pictures],
            }
            for preview in self.report.previews
        ]

    @property
    def passport(self) -> str:
        return json.dumps(self.report.passport, indent=2)

    @property
    def shown(self) -> list[JudgedClip]:
        return self.report.judged[:MAX_JUDGED]

    def facts(self) -> list[tuple[str, str]]:
        """The few numbers that stand on top of the page."""
        report = self.report
        if isinstance(report, DataReport):
            return [
                (str(report.num_clips), "clips in"),
                (str(report.num_samples), "samples"),
                (str(report.num_rejects), "rejects, each with a reason"),
            ]
        if isinstance(report, PretrainReport):
            return [(str(report.num_steps), "pretraining steps")]
        return [(str(len(report.judged)), "test clips judged")]


def read_section(kind: str, folder: Path) -> Section:
    """The report of a run. Raises UserError where there is nothing to report."""
    _, _, read = KINDS[kind]
    return Section(kind=kind, report=read(folder))


def find_runs(folder: Path) -> list[tuple[str, Path]]:
    """(kind, folder) of the run in `folder`, or of those in the folders below it, stage by stage.

    Raises PageError when there is none.
    """
    if not folder.is_dir():
        raise PageError(f"no folder {folder}; give the output folder of a run")
    kind = _kind_of(folder)
    if kind is not None:
        return [(kind, folder)]
    inside = [(_kind_of(path), path) for path in sorted(folder.iterdir()) if path.is_dir()]
    runs = [(kind, path) for kind, path in inside if kind is not None]
    if not runs:
        files = ", ".join(f"{name} of {command}" for name, command, _ in KINDS.values())
        raise PageError(
            f"{folder} holds no run, nor do the folders in it; expected one of these files: {files}"
        )
    return sorted(runs, key=lambda run: list(KINDS).index(run[0]))


def _kind_of(folder: Path) -> str | None:
    return next((kind for kind, (name, *_) in KINDS.items() if (folder / name).is_file()), None)


def write_page(
    path: Path, heading: str, subtitle: str, sections: list[Section], **more: Any
) -> Path:
    """One HTML file with its pictures inside. more: `facts` and `commands` beyond the sections';
    `timeline`: what stands above them, see `timeline_shown`."""
    page = (
        timeline_environment()
        .get_template("page.html")
        .render(
            more.get("timeline", {}),
            heading=heading,
            subtitle=subtitle,
            sections=sections,
            facts=[
                *(fact for section in sections for fact in section.facts()),
                *more.get("facts", []),
            ],
            commands=more.get("commands", []),
            missing_columns=MISSING_COLUMNS,
            has_timeline="timeline" in more,
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(page.encode("utf-8", errors="backslashreplace"))
    return path


def code_commit() -> str:
    """The first digits of the commit, `-dirty` kept."""
    commit, *dirty = git_commit().split("-")
    return "-".join([commit[:9], *dirty])


def inline(picture: Path) -> str:
    kind = {".png": "png", ".jpg": "jpeg"}[picture.suffix]
    return f"data:image/{kind};base64,{b64encode(picture.read_bytes()).decode()}"


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="page")


def _main(argv: list[str] | None) -> int:
    """The command line; 1 for folders that cannot be reported on."""
    parser = command_parser(
        "python -m finetune.page",
        "One HTML page of an extraction, a pretraining, a finetuning, or several.",
        "python -m finetune.page runs/mine",
    )
    parser.add_argument(
        "folders", nargs="+", type=path_argument, metavar="FOLDER", help="output of a run"
    )
    parser.add_argument(
        "--output",
        type=new_file_argument,
        help="page to write; without it report.html in the folder, or above the folders",
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    top = args.folders[0]
    if len(args.folders) > 1:
        top = Path(os.path.commonpath([folder.absolute() for folder in args.folders]))
    output = args.output or top / "report.html"
    runs = [run for folder in args.folders for run in find_runs(folder)]
    sections = [read_section(kind, folder) for kind, folder in runs]
    today = datetime.date.today().isoformat()
    names = ", ".join(str(folder) for _, folder in runs)
    write_page(
        output,
        ", ".join(dict(runs)).capitalize(),
        f"{names} · {today} · {code_commit()}",
        sections,
    )
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
