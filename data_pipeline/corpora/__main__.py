"""python -m data_pipeline.corpora NAME ROOT --output clips.csv"""

import csv
import difflib
import importlib
import io
import os
import pkgutil
import sys
from pathlib import Path

import data_pipeline.corpora
from data_pipeline.command_line import USER_EXIT, command_parser, run_command
from data_pipeline.files.atomic import atomic_file
from data_pipeline.paths import new_file_argument, path_argument
from data_pipeline.schema import Reject
from data_pipeline.table.clip_table import COLUMNS
from data_pipeline.table.clips import TABLE_NAMES


def adapter_names() -> list[str]:
    modules = pkgutil.iter_modules(data_pipeline.corpora.__path__)
    return sorted(m.name for m in modules if not m.name.startswith("_"))


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="corpora")


def _main(argv: list[str] | None) -> int:
    names = adapter_names()
    parser = command_parser(
        "python -m data_pipeline.corpora",
        "Write the clip table of a corpus, which data_pipeline.extract takes as clips=.",
        "python -m data_pipeline.corpora grid my/grid_s1 --output runs/grid_s1.csv",
    )
    parser.add_argument("name", help=f"the corpus: {', '.join(names)}")
    parser.add_argument(
        "root", type=path_argument, help="its folder (csv: or a table, or one video)"
    )
    parser.add_argument(
        "--output", type=new_file_argument, required=True, help="the table to write, .csv"
    )
    arguments = parser.parse_args(argv)
    if arguments.name not in names:
        near = difflib.get_close_matches(arguments.name, names, n=1, cutoff=0.0)
        parser.error(
            f"no corpus {arguments.name!r}; the nearest of {', '.join(names)} is {near[0]}"
        )
    if not arguments.root.exists():
        parser.error(f"no folder {arguments.root}; expected the files of {arguments.name}")
    if arguments.output.resolve() in _inputs(arguments.name, arguments.root.resolve()):
        parser.error(f"{arguments.output} is what would be read; give another --output")
    adapter = importlib.import_module(f"data_pipeline.corpora.{arguments.name}")
    rejects: list[Reject] = []
    rows = adapter.clips(arguments.root, rejects.append)
    write_clip_table(arguments.output, rows)
    for reject in rejects:
        print(f"reject {reject.clip}: {reject.reason}: {reject.detail}", file=sys.stderr)
    print(
        f"{len(rows) + len(rejects)} clips = {len(rows)} rows in {arguments.output} + "
        f"{len(rejects)} rejects"
    )
    return 0 if rows else USER_EXIT


def _inputs(name: str, root: Path) -> set[Path]:
    """The tables that an adapter reads."""
    tables = {root, root / "metadata.csv"}
    if name == "csv":
        tables |= {root / table for table in TABLE_NAMES if (root / table).exists()}
    return tables


def write_clip_table(path: Path, rows: list[dict[str, str]]) -> None:
    """Write `rows` as CSV; videos become relative to the table, so both can be moved together."""
    folder = path.resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**row, "video": os.path.relpath(row["video"], folder)} for row in rows]
    used = {name for row in rows for name, value in row.items() if value}
    columns = [name for name in COLUMNS if name in used or name == "video"]
    columns += sorted(used - set(COLUMNS))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_file(path) as file:
        file.write(text.getvalue().encode())


if __name__ == "__main__":
    sys.exit(main())
