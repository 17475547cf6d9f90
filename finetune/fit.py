"""Training one classifier on one fold, and choosing the step that is reported.

Batches are an endless stream of shuffled clips, so each has the same number; a batch is dealt to
the processes clip by clip, and the loss is the sum over all of them over the batch size. The
number of processes therefore changes neither batches nor loss: with dropout 0 the weights agree
up to float rounding; with dropout each process draws masks of its own.

Numbers leave the device at evaluations only.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from data_pipeline.errors import UserError
from finetune.classifier import Classifier
from finetune.config import OptimConfig, TrainSettings
from finetune.metrics import Scores, score
from finetune.sampling import batches_of
from finetune.whole_batch import WholeBatch
from pretrain.example import Example
from pretrain.model.batch import Batch
from pretrain.optim import build_adamw, learning_rate
from pretrain.runtime import seed_rank


class FitError(UserError):
    """Training that cannot go on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """One split as it is read. `cases_KN` holds K modality cases of the same N clips."""

    cases_KN: list[list[Example]]
    label_N: np.ndarray
    """int64."""

    def __len__(self) -> int:
        return len(self.label_N)


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Of N clips, in their order."""

    scores_NC: np.ndarray
    """Logits."""
    prediction_N: np.ndarray
    """Class, or C for none of them."""
    loss: float
    """Mean cross-entropy."""


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
) -> Fit:
    """Train `classifier` by `plan`, choose a step by `selection`, judge the test clips there.

    last_step: where the plan is broken off, since dev chose it in a training before; its learning
    rates are those of the whole plan. judge_oracle: where dev chooses, judge the test clips at
    each evaluation too, which changes nothing else.
    Raises FitError for a loss that is no number, or fewer clips in a batch than processes.
    """
    batch_size = min(optim.batch_size, len(train))
    if batch_size < accelerator.num_processes:
        raise FitError(
            f"a batch of {batch_size} clips for {accelerator.num_processes} processes; start fewer "
            "processes, or raise optim.batch_size"
        )
    judged = {"dev": dev, "oracle": test, "last": None}[selection]
    chosen_on_dev = selection == "dev" or last_step is not None
    last_step = last_step or plan.num_steps
    optimizer = build_adamw(classifier, weight_decay=optim.weight_decay)
    model, optimizer = accelerator.prepare(classifier, optimizer)
    seed_rank(seed, accelerator.process_index)
    draws = np.random.default_rng(np.random.SeedSequence((seed, 1)))
    batches = batches_of(plan.sampler, train.label_N, batch_size, seed)
    curve: list[dict[str, Any]] = []
    best: tuple[float, int, dict[str, torch.Tensor]] | None = None
    losses: dict[str, torch.Tensor] = {}
    num_losses = 0
    try:
        for step in range(1, last_step + 1):
            rate = learning_rate(
                step, peak=plan.learning_rate, warmup=plan.warmup_steps, total=plan.num_steps
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            case_N = train.cases_KN[draws.integers(len(train.cases_KN))]
            batch, whole = _deal(case_N, train.label_N, next(batches), collate, accelerator)
            model.train()
            with accelerator.autocast():
                said = model(batch, whole.label_B[whole.mine], whole)
                # Gradients are averaged over processes; the loss is a mean over the whole batch.
                scale = accelerator.num_processes / batch_size
                parts = {name: loss_sum * scale for name, loss_sum in said.losses.items()}
                first, *others = parts.values()
            accelerator.backward(sum(others, first))
            accelerator.clip_grad_norm_(model.parameters(), optim.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            for name, loss in parts.items():
                losses[name] = losses.get(name, 0) + loss.detach()
            num_losses += 1

            if step < last_step and step % eval_every_steps:
                continue
            means = {
                name: float(accelerator.reduce(loss, "mean")) / num_losses
                for name, loss in losses.items()
            }
            train_loss = sum(means.values())
            if not np.isfinite(train_loss):
                raise FitError(
                    f"the training loss is {train_loss} at step {step}; lower the learning rate, "
                    "or use optim.precision=fp32"
                )
            losses, num_losses = {}, 0
            row = {"step": step, "learning_rate": rate, "train_loss": train_loss}
            if len(means) > 1:
                row |= {f"train_{name}": mean for name, mean in means.items()}
            if judged is not None:
                found = predict(model, judged, collate, 2 * batch_size, accelerator)
                scores = score(judged.label_N, found.prediction_N, num_classes)
                row |= {"loss": found.loss, **_numbers(scores)}
                if best is None or scores.ua > best[0]:
                    weights = accelerator.unwrap_model(model).state_dict()
                    best = scores.ua, step, {k: v.to("cpu", copy=True) for k, v in weights.items()}
            if judge_oracle and chosen_on_dev:
                with _same_draws(accelerator.device):
                    found = predict(model, test, collate, 2 * batch_size, accelerator)
                scores = score(test.label_N, found.prediction_N, num_classes)
                row |= {f"oracle_{name}": value for name, value in _numbers(scores).items()}
            curve.append(row)
            log.info(_line(row, selection))
            if best and plan.patience and _evaluations_since(curve, best[1]) >= plan.patience:
                log.info(f"no better UA for {plan.patience} evaluations: stopped at step {step}")
                break
        if best is not None:
            accelerator.unwrap_model(model).load_state_dict(best[2])

        def predict_cases(split: Examples) -> list[Predictions]:
            cases = range(len(split.cases_KN))
            return [predict(model, split, collate, 2 * batch_size, accelerator, k) for k in cases]

        return Fit(
            learned=accelerator.unwrap_model(model),
            step=best[1] if best else last_step,
            selection_ua=best[0] if best else None,
            test_K=predict_cases(test),
            dev_K=predict_cases(dev) if len(dev) and len(dev.cases_KN) > 1 else [],
            curve=curve,
            oracle=_of_oracle(curve),
        )
    finally:
        accelerator.free_memory()


@torch.no_grad()
def predict(
    model: Classifier,
    clips: Examples,
    collate: Callable[[Sequence[Example]], Batch],
    batch_size: int,
    accelerator: Accelerator,
    case: int = 0,
) -> Predictions:
    """Judge `clips` in one modality case, the full one by default; every process gets the same,
    whole answer."""
    model.eval()
    plain = accelerator.unwrap_model(model)
    mine = np.arange(len(clips))[accelerator.process_index :: accelerator.num_processes]
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray, float]] = []
    for start in range(0, len(mine), batch_size):
        index_M = mine[start : start + batch_size]
        batch, label_M = _load(
            clips.cases_KN[case], clips.label_N, index_M, collate, accelerator.device
        )
        with accelerator.autocast():
            said = plain(batch, label_M)
        found.append(
            (
                index_M,
                said.scores_NC.float().cpu().numpy(),
                said.prediction_N.cpu().numpy(),
                float(sum(said.losses.values())),
            )
        )
    if accelerator.num_processes > 1:
        found = gather_object(found)
    order_N = np.argsort(np.concatenate([part[0] for part in found]))
    return Predictions(
        scores_NC=np.concatenate([part[1] for part in found])[order_N],
        prediction_N=np.concatenate([part[2] for part in found])[order_N],
        loss=sum(part[3] for part in found) / len(clips),
    )


def _deal(
    examples_N: list[Example],
    label_N: np.ndarray,
    index_B: np.ndarray,
    collate: Callable[..., Batch],
    accelerator: Accelerator,
) -> tuple[Batch, WholeBatch]:
    """This process's clips of a batch, padded as those of all are, and the labels of all."""
    whole = WholeBatch(
        label_B=torch.from_numpy(label_N[index_B]).to(accelerator.device, non_blocking=True),
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    mine = index_B[whole.mine]
    beside = [examples_N[i] for i in np.setdiff1d(index_B, mine)]
    batch = collate([examples_N[i] for i in mine], beside=beside)
    return batch.to(accelerator.device, non_blocking=True), whole


def _load(
    examples_N: list[Example],
    label_N: np.ndarray,
    index_M: np.ndarray,
    collate: Callable[[Sequence[Example]], Batch],
    device: torch.device,
) -> tuple[Batch, torch.Tensor]:
    batch = collate([examples_N[i] for i in index_M]).to(device, non_blocking=True)
    return batch, torch.from_numpy(label_N[index_M]).to(device, non_blocking=True)


def _same_draws(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Leaves torch's random numbers as they are: a head may draw some where it is judged too."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _of_oracle(curve: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first of the best evaluations by UA on test; None where test was not judged."""
    return max(curve, key=lambda row: row["oracle_ua"]) if "oracle_ua" in curve[-1] else None


def _numbers(scores: Scores) -> dict[str, float]:
    return {"wa": scores.wa, "ua": scores.ua, "macro_f1": scores.macro_f1}


def _evaluations_since(curve: list[dict[str, Any]], step: int) -> int:
    return sum(row["step"] > step for row in curve)


def _line(row: dict[str, Any], selection: str) -> str:
    line = f"step {row['step']} | loss {row['train_loss']:.3f}"
    if "ua" in row:
        split = "test" if selection == "oracle" else "dev"
        line += f" | {split} loss {row['loss']:.3f} WA {row['wa']:.3f} UA {row['ua']:.3f}"
    return line
