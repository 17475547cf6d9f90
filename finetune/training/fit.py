"""Training one classifier on one fold, and choosing the step that is reported."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator

from finetune.config import OptimConfig, TrainSettings
from finetune.metrics import Scores, score
from finetune.training.classifier import Classifier
from finetune.training.predictions import Examples, Predictions, predict
from finetune.training.state import TrainingState
from finetune.training.trainer import FitError, Trainer
from pretrain.data.example import Example
from pretrain.model.batch import Batch

__all__ = ["Examples", "Fit", "FitError", "Predictions", "fit", "predict"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """What training came to."""

    learned: Any
    """What `System.save` keeps; of a network, the classifier with the weights of that step."""
    step: int
    """The step that was chosen."""
    selection_ua: float | None
    """UA there on the split that chose, None for the last step."""
    test_K: list[Predictions]
    """Of the chosen step, in each modality case that `test` holds; the first one is the full."""
    dev_K: list[Predictions]
    """Of dev; empty where `dev` is, and where it holds the full case alone."""
    curve: list[dict[str, Any]]
    """One dict per evaluation: step, learning_rate, train_loss, and loss, wa, ua, macro_f1 of the
    split that chooses, with `judge_oracle` oracle_wa, oracle_ua, oracle_macro_f1 of test. Empty
    for what learns without steps."""
    oracle: dict[str, Any] | None = None
    """Of the training that gave `learned`, the line of the curve that the test clips would have
    chosen; None where they were not judged on the way, or chose."""

    @property
    def test(self) -> Predictions:
        """Of the test clips with all modalities in use."""
        return self.test_K[0]


def fit(
    classifier: Classifier,
    *,
    train: Examples,
    dev: Examples,
    test: Examples,
    collate: Callable[[Sequence[Example]], Batch],
    num_classes: int,
    plan: TrainSettings,
    optim: OptimConfig,
    selection: str,
    eval_every_steps: int,
    seed: int,
    accelerator: Accelerator,
    log: logging.Logger,
    last_step: int | None = None,
    judge_oracle: bool = True,
    state: TrainingState | None = None,
) -> Fit:
    """Train `classifier` by `plan`, choose a step by `selection`, judge the test clips there.

    last_step: where the plan is broken off, since dev chose it in a training before; its learning
    rates are those of the whole plan. judge_oracle: where dev chooses, judge the test clips at
    each evaluation too, which changes nothing else. state: kept at each evaluation, and gone on
    from; what comes of it is what nothing had stopped, to the bit where the device sums alike.
    Raises FitError for a loss that is no number, or fewer clips in a batch than processes.
    """
    chosen_on_dev = selection == "dev" or last_step is not None
    trainer = Trainer(
        classifier, train, collate, plan=plan, optim=optim, seed=seed, accelerator=accelerator
    )
    progress = Progress(
        trainer=trainer,
        judged={"dev": dev, "oracle": test, "last": None}[selection],
        oracle=test if judge_oracle and chosen_on_dev else None,
        num_classes=num_classes,
        last_step=last_step or plan.num_steps,
        patience=plan.patience,
    )
    if state is not None:
        state = state.telling(
            selection=selection, last_step=progress.last_step, judge_oracle=judge_oracle
        )
    try:
        kept = state and state.read()
        if kept:
            progress.load_state_dict(kept)
            log.info(f"goes on after step {trainer.step} of {progress.last_step}")
        while not progress.ended:
            trainer.take_step()
            if trainer.step < progress.last_step and trainer.step % eval_every_steps:
                continue
            row = progress.evaluate()
            log.info(_line(row, selection))
            if progress.out_of_patience:
                log.info(
                    f"no better UA for {plan.patience} evaluations: stopped at step {trainer.step}"
                )
            if progress.ended:
                progress.return_to_best()
            if state is not None and (progress.ended or state.is_due()):
                state.write(progress.state_dict())
        return Fit(
            learned=trainer.classifier,
            step=progress.best.step if progress.best else progress.last_step,
            selection_ua=progress.best.ua if progress.best else None,
            test_K=progress.predict_cases(test),
            dev_K=progress.predict_cases(dev) if len(dev) and len(dev.cases_KN) > 1 else [],
            curve=progress.curve,
            oracle=_of_oracle(progress.curve),
        )
    finally:
        accelerator.free_memory()


@dataclass(frozen=True, kw_only=True, eq=False)
class Best:
    """The evaluation that is reported if no better one comes."""

    ua: float
    step: int
    weights: dict[str, torch.Tensor] | None
    """On the CPU; None once the classifier has them."""


@dataclass(kw_only=True, eq=False)
class Progress:
    """A trainer with its evaluations: the curve, the best of it, and when it is enough."""

    trainer: Trainer
    judged: Examples | None
    """What chooses the step; None for the last one."""
    oracle: Examples | None
    """Judged beside it."""
    num_classes: int
    last_step: int
    patience: int | None
    curve: list[dict[str, Any]] = field(default_factory=list)
    best: Best | None = None

    @property
    def out_of_patience(self) -> bool:
        """Whether so many evaluations came after the best one."""
        if self.best is None or not self.patience:
            return False
        return sum(row["step"] > self.best.step for row in self.curve) >= self.patience

    @property
    def ended(self) -> bool:
        """No step follows."""
        return self.trainer.step >= self.last_step or self.out_of_patience

    def evaluate(self) -> dict[str, Any]:
        """The next row of the curve. Raises FitError for a loss that is no number."""
        trainer = self.trainer
        row = {"step": trainer.step, "learning_rate": trainer.learning_rate}
        row |= trainer.mean_losses()
        if self.judged is not None:
            found = self._predict(self.judged)
            scores = score(self.judged.label_N, found.prediction_N, self.num_classes)
            row |= {"loss": found.loss, **_numbers(scores)}
            if self.best is None or scores.ua > self.best.ua:
                weights = {k: v.to("cpu", copy=True) for k, v in trainer.weights().items()}
                self.best = Best(ua=scores.ua, step=trainer.step, weights=weights)
        if self.oracle is not None:
            with _same_draws(trainer.accelerator.device):
                found = self._predict(self.oracle)
            scores = score(self.oracle.label_N, found.prediction_N, self.num_classes)
            row |= {f"oracle_{name}": value for name, value in _numbers(scores).items()}
        self.curve.append(row)
        return row

    def return_to_best(self) -> None:
        """Give the classifier the weights of the best evaluation."""
        if self.best is not None:
            self.trainer.load_weights(self.best.weights)
            self.best = dataclasses.replace(self.best, weights=None)

    def predict_cases(self, split: Examples) -> list[Predictions]:
        """All modality cases of a split, by the classifier as it is."""
        return [self._predict(split, case) for case in range(len(split.cases_KN))]

    def state_dict(self) -> dict[str, Any]:
        """Where it stands after an evaluation; all processes ask together."""
        return {
            **self.trainer.state_dict(goes_on=not self.ended),
            "curve": self.curve,
            "best": self.best and vars(self.best),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where `state_dict` was asked."""
        self.trainer.load_state_dict(state)
        self.curve = state["curve"]
        self.best = state["best"] and Best(**state["best"])

    def _predict(self, split: Examples, case: int = 0) -> Predictions:
        of = self.trainer
        return predict(of.model, split, of.collate, 2 * of.batch_size, of.accelerator, case)


def _same_draws(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Leaves torch's random numbers as they are: a head may draw some where it is judged too."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _of_oracle(curve: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first of the best evaluations by UA on test; None where test was not judged."""
    return max(curve, key=lambda row: row["oracle_ua"]) if "oracle_ua" in curve[-1] else None


def _numbers(scores: Scores) -> dict[str, float]:
    return {"wa": scores.wa, "ua": scores.ua, "macro_f1": scores.macro_f1}


def _line(row: dict[str, Any], selection: str) -> str:
    line = f"step {row['step']} | loss {row['train_loss']:.3f}"
    if "ua" in row:
        split = "test" if selection == "oracle" else "dev"
        line += f" | {split} loss {row['loss']:.3f} WA {row['wa']:.3f} UA {row['ua']:.3f}"
    return line
