"""Arguments that all commands of this room take."""

import argparse

from data_pipeline.paths import path_argument


def add_recognizers(parser: argparse.ArgumentParser) -> None:
    """The arguments of every command that judges recognizers: which, and where their clips lie."""
    parser.add_argument(
        "recognizers", nargs="+", type=path_argument, metavar="RECOGNIZER", help="folder of one"
    )
    parser.add_argument(
        "--shards", nargs="+", type=path_argument, metavar="FOLDER", required=True,
        help="where their clips lie",
    )  # fmt: skip
