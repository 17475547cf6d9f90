"""python -m data_pipeline.recipes.stories compose|meld FOLDER --output WHERE"""

import sys

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.paths import path_argument


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="stories")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m data_pipeline.recipes.stories",
        "compose: the clip table of composed stories, for data_pipeline.extract. meld: shards of\n"
        "what is said in MELD, of its tables alone: words, and the stream sentence.",
        "python -m data_pipeline.recipes.stories compose ../shared/data --output runs/stories.csv",
    )
    parser.add_argument("command", choices=("compose", "meld"))
    parser.add_argument(
        "folder",
        type=path_argument,
        help="compose: that of ravdess_audio/ and text/meld/; meld: that of its three tables",
    )
    parser.add_argument(
        "--output", type=path_argument, required=True, help="the table, .csv, or folder of shards"
    )
    arguments = parser.parse_args(argv)
    if arguments.command == "meld":
        from data_pipeline.recipes.stories.dialogues import write_shards

        count = write_shards(arguments.folder, arguments.output)
        print(f"{count} utterances in {arguments.output}")
        return 0
    from data_pipeline.corpora.__main__ import write_clip_table
    from data_pipeline.recipes.stories.composed import clips

    rows = clips(arguments.folder)
    write_clip_table(arguments.output, rows)
    print(f"{len(rows)} clips in {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
