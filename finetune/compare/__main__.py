"""python -m finetune.compare pretrain_prompt pretrain_finetune --results runs/finetune

Whether one setting is better than another: a paired test over folds x seeds, from the rows and
predictions of finished runs. A, B and more are settings of one results folder, or FOLDER:SETTING
each; of any systems, if they were judged on the same clips.
"""

import sys
from pathlib import Path

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.paths import new_file_argument, path_argument
from finetune.compare.chosen import choose
from finetune.compare.comparison import compare
from finetune.compare.several import Several, compare_several
from finetune.config import FinetuneConfig
from finetune.runs.results import write_csv, write_text


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 for runs that cannot be compared, with one message that says why."""
    return run_command(_main, argv, name="finetune.compare")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m finetune.compare",
        "Whether one setting is better than another: a paired test over\n"
        "folds x seeds, from the rows and predictions of finished runs. Of three\n"
        "or more: one table, the test of every pair, and a picture.",
        "python -m finetune.compare pretrain_prompt pretrain_finetune\n"
        "  python -m finetune.compare runs/a:pretrain_prompt runs/b:speech_resnet runs/c:both",
    )
    what = "a setting of --results or the digest of its recipe, or FOLDER:SETTING"
    parser.add_argument("a", metavar="A", help=what)
    parser.add_argument("b", metavar="B", help=what)
    parser.add_argument("more", metavar="C", nargs="*", help="more of them")
    parser.add_argument(
        "--results",
        type=path_argument,
        default=Path(FinetuneConfig.output),
        metavar="FOLDER",
        help="`output` of the finetuning config",
    )
    parser.add_argument(
        "--output",
        type=new_file_argument,
        metavar="FILE",
        help="CSV of all these numbers; of three or more with the tables (.md) and the picture "
        "(.png) beside it",
    )
    args = parser.parse_args(argv)
    chosen = [choose(name, args.results) for name in (args.a, args.b, *args.more)]
    found = compare_several(chosen) if args.more else compare(*chosen)
    if args.output:
        lines = found.lines()
        write_csv(args.output, list(lines[-1]), lines)
    if args.output and isinstance(found, Several):
        write_text(args.output.with_suffix(".md"), found.text() + "\n")
        found.plot(args.output.with_suffix(".png"))
    print(found.text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
