"""A fitted model in a file: skops writes scikit-learn's objects as JSON and arrays, and builds but
those types that are named. Nothing is unpickled."""

from pathlib import Path
from typing import Any

import sklearn

from data_pipeline.errors import UserError
from finetune.recognizer import RecognizerError
from finetune.systems.stories.models import Learned

FILE = "model.skops"
TRUSTED = ["numpy.dtype", "sklearn.tree._tree.Tree"]
"""Beside scikit-learn's estimators, which skops trusts by itself."""


def skops_io() -> Any:
    """The module that writes and reads. Raises UserError where it is not installed."""
    try:
        import skops.io
    except ImportError as error:
        raise UserError(
            f"stories keeps its models by skops, and {error.name} is not installed; "
            "pip install -e .[stories]"
        ) from error
    return skops.io


def version() -> str:
    """Of scikit-learn, as far as its models are alike."""
    return ".".join(sklearn.__version__.split(".")[:2])


def told_of(learned: Learned) -> dict[str, Any]:
    """What recognizer.json says of it."""
    return {
        "parameters": learned.parameters,
        "inner_ua": learned.inner_ua,
        "temperature": learned.temperature,
        "scikit_learn": version(),
    }


def write(folder: Path, learned: Learned) -> None:
    skops_io().dump(learned.pipeline, folder / FILE)


def read(folder: Path, told: dict[str, Any]) -> Learned:
    """Raises RecognizerError for what another scikit-learn wrote."""
    if told["scikit_learn"] != version():
        raise RecognizerError(
            f"{folder} was made by scikit-learn {told['scikit_learn']}, here is {version()}, whose "
            f"models need not decide alike; pip install 'scikit-learn=={told['scikit_learn']}.*', "
            "or finetune again"
        )
    return Learned(
        model=told["head"],
        parameters=told["parameters"],
        inner_ua=told["inner_ua"],
        temperature=told["temperature"],
        pipeline=skops_io().load(folder / FILE, trusted=TRUSTED),
        num_classes=len(told["classes"]),
    )
