"""python -m finetune.systems.stories table --data FOLDER --yamnet FILE

The table of docs/results/stories.md. Training is finetune/run.py.
"""

import sys

from data_pipeline.command_line import command_parser, leave, run_command

COMMAND = "python -m finetune.systems.stories"


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 for input that cannot be used, with one message that says why."""
    return run_command(_main, argv, name="stories", go_on="the same command goes on from there")


def _main(argv: list[str] | None) -> int:
    words = sys.argv[1:] if argv is None else argv
    parser = command_parser(
        COMMAND,
        "The table of what sound, words and both are worth to the system.",
        f"{COMMAND} table --data ../shared/data --yamnet yamnet.tflite",
    )
    parser.add_argument("command", choices=("table",), help="it has its own --help")
    parser.parse_args(words[:1])
    from finetune.systems.stories import table

    return table.main(words[1:])


if __name__ == "__main__":
    leave(main())
