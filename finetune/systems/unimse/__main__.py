"""python -m finetune.systems.unimse answers RUN --shards FOLDER --output FOLDER
python -m finetune.systems.unimse table --data FOLDER

What a recognizer answers, word for word; and the table of docs/results/unimse.md. Learning is
finetune/run.py.
"""

import sys

from data_pipeline.command_line import command_parser, leave, run_command

COMMAND = "python -m finetune.systems.unimse"


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 for input that cannot be used, with one message that says why."""
    return run_command(_main, argv, name="unimse", go_on="the same command goes on from there")


def _main(argv: list[str] | None) -> int:
    words = sys.argv[1:] if argv is None else argv
    parser = command_parser(
        COMMAND,
        "What a recognizer of this system answers, and the table of what its parts are worth.",
        f"{COMMAND} answers RUN --shards SHARDS --output runs/answers",
    )
    parser.add_argument("command", choices=("answers", "table"), help="each has its own --help")
    if parser.parse_args(words[:1]).command == "answers":
        from finetune.systems.unimse import ask

        return ask.main(words[1:])
    from finetune.systems.unimse import table

    return table.main(words[1:])


if __name__ == "__main__":
    leave(main())
