"""python -m finetune.collect runs/finetune

results.csv, tables and pictures of a results folder, built anew from the rows of its finished runs:
after an array of tasks, after a copy, after a kill. It trains nothing, and says which runs that
were asked for are missing.
"""

import sys

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.paths import path_argument
from finetune.report import finetune_report
from finetune.runs.results import missing_runs, unnoted_runs, write_results

MISSING_EXIT = 1
"""Exit code where runs are missing."""


def main(argv: list[str] | None = None) -> int:
    """The command line; 1 where runs are missing, 2 for a folder without any, or that cannot be
    read."""
    return run_command(_main, argv, name="finetune.collect")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m finetune.collect",
        "results.csv, tables and pictures of a results folder, built anew from the rows of its\n"
        "finished runs. It trains nothing.",
        "python -m finetune.collect runs/finetune",
    )
    parser.add_argument("folder", type=path_argument, help="`output` of the finetuning config")
    folder = parser.parse_args(argv).folder
    report = finetune_report(folder)
    rows = write_results(folder)
    print(f"{report.markdown}\n{len(rows)} rows in {folder / 'results.csv'}")
    missing = missing_runs(folder) + unnoted_runs(folder)
    if missing:
        print(
            f"finetune.collect: {len(missing)} runs that were asked for have no row, or are not "
            f"in the table, such as {missing[0]}; the same finetuning command mends it",
            file=sys.stderr,
        )
    return MISSING_EXIT if missing else 0


if __name__ == "__main__":
    sys.exit(main())
