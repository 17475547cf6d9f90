"""Systems: ways to learn emotions from labelled clips, one file or folder each.

A setting names its system: a module of this room, or, with a dot in it, any module that can be
imported. It holds

    build   (config, names, accelerator, log) -> the systems of these settings, by name
    load    (folder, told) -> the Recognizer that `System.save` left

and nothing else has to know of it. `System` is what cross-validation asks of one, `GoesOn` what it
may have beside.
"""

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol, runtime_checkable

from accelerate import Accelerator

from finetune.clips.labelled import LabelledSet
from finetune.config import FinetuneConfig
from finetune.protocols import Splits
from finetune.recognizer import Recognizer
from finetune.training.fit import Fit
from finetune.training.state import TrainingState


class Start(Protocol):
    """Pretrained weights as the overlap guard and the model card see them; a MEmoBERT's are a
    `Checkpoint`."""

    what: ClassVar[str]
    """What they are, as a sentence begins."""
    folder: Path
    """Where clips.safetensors lies, the clips that they were trained on (pretrain.data.seen)."""
    provenance: dict[str, Any]
    """step, git_commit, shards_sha256; and corpora, the names of those that they learned from,
    where they have no `config` that tells."""


class System(Protocol):
    """One way to learn, with all its settings, ready to be fitted to any fold."""

    name: str
    """As settings and results rows call it."""

    @property
    def head(self) -> str:
        """What reads the emotion off, as results rows name it."""

    @property
    def streams(self) -> tuple[str, ...]:
        """Those of the shards that it reads."""

    @property
    def checkpoint(self) -> Start | None:
        """What is pretrained that it starts from, such as a MEmoBERT; None where it starts
        without."""

    @property
    def checkpoint_sha256(self) -> str:
        """Of the weights it starts from; empty where it starts without."""

    @property
    def refits(self) -> bool:
        """Whether `fit` chooses a step on dev and then learns from train and dev up to there."""

    def start(self, seed: int) -> list[str]:
        """Build it once, so that what cannot be built is told before the first run; lines for the
        log on what its weights come from."""

    def warnings(self, clips: LabelledSet) -> list[str]:
        """What its user should know of these clips."""

    def usable(self, splits: Splits, fold: int) -> Splits:
        """The clips of a fold that it learns from and is judged on."""

    def fit(self, splits: Splits, seed: int) -> Fit:
        """Train on a fold, choose a step, judge the test clips there."""

    def facts(self) -> dict[str, Any]:
        """All of it that decides a result but the seed, for the recipe's digest."""

    def save(self, folder: Path, result: Fit) -> None:
        """Keep what `result` learned as a recognizer."""

    def forget(self) -> None:
        """Free what was kept for further runs."""


@runtime_checkable
class GoesOn(Protocol):
    """What a system that learns for long has beside: a run that is killed goes on inside it."""

    def go_on(self, splits: Splits, seed: int, state: TrainingState) -> Fit:
        """As `System.fit`, from what is kept there of it, keeping what it comes to."""


class SystemModule(Protocol):
    """A file of this room, or a user's own."""

    def build(
        self,
        config: FinetuneConfig,
        names: Sequence[str],
        accelerator: Accelerator,
        log: logging.Logger,
    ) -> dict[str, System]:
        """The settings `names` of the config. Whatever needs no clip to fail, fails here."""

    def load(self, folder: Path, told: dict[str, Any]) -> Recognizer:
        """What `System.save` left. `told`: recognizer.json, checked."""


def system_named(name: str) -> SystemModule | ModuleType:
    """The module of a system. Raises LookupError."""
    path = name if "." in name else f"{__name__}.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise
        raise LookupError(
            f"no system {name!r}; expected a file in finetune/systems, or a module of your own "
            "with its dots"
        ) from None
    lacks = [part for part in ("build", "load") if not hasattr(module, part)]
    if lacks:
        raise LookupError(
            f"system {name!r}: {path} has no {', '.join(lacks)}; finetune/systems/__init__.py says "
            "what it must have"
        )
    return module
