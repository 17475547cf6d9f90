"""Paths that a user gives: one rule for the settings and the commands of all three stages."""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator

from data_pipeline.config import ConfigError

AnyPath = TypeVar("AnyPath", str, Path)

_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")


def expanded(path: AnyPath) -> AnyPath:
    """`~` and `~name` as the home folder that they mean; all other paths as they are.

    Raises ValueError for a home that is not there, and for a shell variable: only a shell puts
    its value in, and a folder called `$RUN` is what nobody wants.
    """
    text = os.path.expanduser(path)
    if text.startswith("~") and not os.path.exists(text):
        raise ValueError(f"nobody's home is {text.split('/')[0]}; write the folder out")
    variable = _VARIABLE.search(text)
    if variable and not os.path.exists(text):
        raise ValueError(
            f"{variable.group()} is a shell variable, which no config and no quoted word replaces; "
            "write its value, or give the setting on the command line without single quotes"
        )
    return type(path)(text)


PathText = Annotated[str, AfterValidator(expanded)]
"""A setting that names a file or a folder, or by its other forms weights on a hub or in a
package."""
UserPath = Annotated[Path, AfterValidator(expanded)]


def path_argument(text: str) -> Path:
    """The `type` of a path among the arguments of an argparse command."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty (an unset shell variable?)")
    try:
        return expanded(Path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def new_file_argument(text: str) -> Path:
    """The same for a file that the command writes."""
    path = path_argument(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; expected the name of a file")
    return path


def check_distinct(setting: str, folders: Sequence[str | Path]) -> None:
    """Raise ConfigError when `folders` names one folder twice, by whatever spelling or link."""
    seen: dict[str, str | Path] = {}
    for folder in folders:
        place = os.path.realpath(folder)
        if place in seen:
            first = seen[place]
            same = f"{folder} twice" if first == folder else f"{first} and {folder}, one folder"
            raise ConfigError(
                f"{setting} lists {same}, so its clips would count double; leave one of them out"
            )
        seen[place] = folder


STAGE_FILES = {
    "a checkpoint": ("model.safetensors",),
    "the output of extraction": ("passport.json",),
    "the output of pretraining": ("metrics.csv", "checkpoints"),
    "the output of finetuning": ("recipes", "results.csv"),
}
"""By what an output folder is known: one of these is in it, and the first that fits counts."""


def check_stage(folder: str | Path, stage: str, setting: str) -> None:
    """Raise ConfigError when `folder` is another stage's, whose config.yaml would be written over.

    stage: extraction, pretraining or finetuning. setting: the one that names the folder. Writes
    nothing; each stage calls it before its first file.
    """
    found = {}
    for what, names in STAGE_FILES.items():
        there = [name for name in names if (Path(folder) / name).exists()]
        if there and what.endswith(f" {stage}"):
            return  # its own, whatever else lies there
        if there:
            found[what] = there[0]
    if found:
        what, name = next(iter(found.items()))
        raise ConfigError(
            f"{folder} is {what} (it holds {name}), whose files {stage} would write over; give "
            f"another folder, such as {setting}={Path(folder).absolute() / stage}"
        )
