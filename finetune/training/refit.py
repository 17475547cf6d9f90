"""How the step that is reported is found; one chosen on dev, then a new model that learns from
train and dev up to there."""

import dataclasses
import logging
from dataclasses import dataclass
from typing import Protocol

from finetune.clips.portions import train_and_dev
from finetune.protocols import Splits
from finetune.training.fit import Fit
from finetune.training.state import TrainingState


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How the step that is reported is found."""

    selection: str
    """dev, oracle or last."""
    train_on: str
    """train, or train+dev."""
    eval_every_steps: int

    @property
    def refits(self) -> bool:
        """Whether dev chooses a step and is then learned from, too."""
        return self.train_on == "train+dev" and self.selection == "dev"


@dataclass(frozen=True, kw_only=True)
class CasesChoice(Choice):
    """With the subsets of the modalities that are judged beside."""

    evaluate_cases: str


class Train(Protocol):
    """A system's one training, from its beginning or from what is kept of it."""

    def __call__(
        self,
        splits: Splits,
        seed: int,
        selection: str,
        state: TrainingState | None,
        last_step: int | None = None,
    ) -> Fit: ...


def choose_and_refit(
    train: Train, splits: Splits, seed: int, state: TrainingState | None, log: logging.Logger
) -> Fit:
    """What the second training learned, with the curve and the UA of the first, which chose."""
    chosen = train(splits, seed, "dev", state and state.named("choosing"))
    log.info(f"step {chosen.step} was chosen on dev; now a new model on train and dev, up to there")
    both = train(train_and_dev(splits, 0), seed, "last", state, chosen.step)
    return dataclasses.replace(both, selection_ua=chosen.selection_ua, curve=chosen.curve)
