"""python -m finetune.systems.face_eeg table --data FOLDER

The table of docs/results/face_eeg.md. Training itself is finetune/run.py, and fusion finetune.fuse.
"""

import sys

from data_pipeline.command_line import command_parser, leave, run_command

COMMAND = "python -m finetune.systems.face_eeg"


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 for input that cannot be used, with one message that says why."""
    return run_command(_main, argv, name="face_eeg", go_on="the same command goes on from there")


def _main(argv: list[str] | None) -> int:
    words = sys.argv[1:] if argv is None else argv
    parser = command_parser(
        COMMAND, "The table of what fusing faces and EEG is worth.", f"{COMMAND} table --data DATA"
    )
    parser.add_argument("command", choices=("table",), help="it has a --help of its own")
    parser.parse_args(words[:1])
    from finetune.systems.face_eeg import table

    return table.main(words[1:])


if __name__ == "__main__":
    leave(main())
