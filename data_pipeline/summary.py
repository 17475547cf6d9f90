"""python -m data_pipeline.summary runs/mine/shards

Do the clips of an extraction add up? Reads the clip table and every manifest of the folder anew,
as after an array of tasks, writes rejects.csv and summary.json, and prints the ledger.
"""

import csv
import sys
from pathlib import Path

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.config import load_config
from data_pipeline.extract import describe
from data_pipeline.extraction.added_streams import read_clips
from data_pipeline.extraction.config import DataConfig
from data_pipeline.paths import path_argument
from data_pipeline.runs.claim import CONFIG
from data_pipeline.runs.ledger import Summary, read_summary, write_ledger
from data_pipeline.runs.tasks import cut_tasks
from data_pipeline.schema import Reject

UNFINISHED_EXIT = 1
"""Exit code where shards are missing."""


def check_summary(folder: Path) -> Summary:
    """The ledger of `folder` from what lies there. Raises ExtractionError if a clip has no answer
    or two, or if no run has come to its end there yet."""
    last_run = read_summary(folder).last_run
    config = load_config(DataConfig, folder / CONFIG, [])
    clips = list(read_clips(folder).values())
    with open(folder / "rejects.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["stage"] == "table"]
    tasks = cut_tasks(clips, config.clips_per_shard, config.settings())
    return write_ledger(folder, tasks, [Reject(**row) for row in rows], last_run)


def main(argv: list[str] | None = None) -> int:
    """The command line; 1 where shards are missing, 2 for a folder that cannot be read."""
    return run_command(_main, argv, name="data_pipeline.summary")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m data_pipeline.summary",
        "Do the clips of an extraction add up? Clips = samples + rejects, from the table and the\n"
        "manifests of its folder.",
        "python -m data_pipeline.summary runs/mine/shards",
    )
    parser.add_argument("folder", type=path_argument, help="`output` of the extraction")
    folder = Path(parser.parse_args(argv).folder)
    summary = check_summary(folder)
    print(describe(summary, str(folder)))
    if summary.is_complete:
        return 0
    print("data_pipeline.summary: the same extraction does what is missing", file=sys.stderr)
    return UNFINISHED_EXIT


if __name__ == "__main__":
    sys.exit(main())
