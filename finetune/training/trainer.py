"""The steps of a training: its batches, its weights, and all that has to come back to go on.

Batches are an endless stream of shuffled clips, so each has the same number; a batch is dealt to
the processes clip by clip, and the loss is the sum over all of them over the batch size. The
number of processes therefore changes neither batches nor loss: with dropout 0 the weights agree
up to float rounding; with dropout each process draws masks of its own.

Numbers leave the device at evaluations only.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from data_pipeline.errors import UserError
from finetune.config import OptimConfig, TrainSettings
from finetune.training.classifier import Classifier
from finetune.training.predictions import Examples
from finetune.training.sampling import batches_of
from finetune.training.whole_batch import WholeBatch
from pretrain.checkpoint.generators import random_state, set_random_state
from pretrain.data.example import Example
from pretrain.model.batch import Batch
from pretrain.optim import build_adamw, learning_rate
from pretrain.runtime import seed_rank


class FitError(UserError):
    """Training that cannot go on."""


class Trainer:
    """A classifier in training, `step` steps of its plan done.

    Raises FitError for fewer clips in a batch than processes.
    """

    def __init__(
        self,
        classifier: Classifier,
        train: Examples,
        collate: Callable[..., Batch],
        *,
        plan: TrainSettings,
        optim: OptimConfig,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        self.batch_size = min(optim.batch_size, len(train))
        if self.batch_size < accelerator.num_processes:
            raise FitError(
                f"a batch of {self.batch_size} clips for {accelerator.num_processes} processes; "
                "start fewer processes, or raise optim.batch_size"
            )
        self.step = 0
        self.collate = collate
        self.accelerator = accelerator
        self._train, self._plan, self._optim = train, plan, optim
        optimizer = build_adamw(classifier, weight_decay=optim.weight_decay)
        self.model, self._optimizer = accelerator.prepare(classifier, optimizer)
        seed_rank(seed, accelerator.process_index)
        self._drawn = _drawn(plan.sampler, train, self.batch_size, seed)
        self._losses: dict[str, torch.Tensor] = {}
        self._num_losses = 0

    @property
    def classifier(self) -> Classifier:
        """Without what accelerate wrapped around it."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def learning_rate(self) -> float:
        """Of the step at hand."""
        return learning_rate(
            self.step,
            peak=self._plan.learning_rate,
            warmup=self._plan.warmup_steps,
            total=self._plan.num_steps,
        )

    def take_step(self) -> None:
        """One batch, one update of the weights."""
        self.step += 1
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        case, index_B = next(self._drawn)
        batch, whole = self._deal(self._train.cases_KN[case], index_B)
        self.model.train()
        with self.accelerator.autocast():
            said = self.model(batch, whole.label_B[whole.mine], whole)
            # Gradients are averaged over processes; the loss is a mean over the whole batch.
            scale = self.accelerator.num_processes / self.batch_size
            parts = {name: loss_sum * scale for name, loss_sum in said.losses.items()}
            first, *others = parts.values()
        self.accelerator.backward(sum(others, first))
        self.accelerator.clip_grad_norm_(self.model.parameters(), self._optim.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        for name, loss in parts.items():
            self._losses[name] = self._losses.get(name, 0) + loss.detach()
        self._num_losses += 1

    def mean_losses(self) -> dict[str, float]:
        """Of the steps since this was asked before, over all processes, by name; `train_loss` is
        their sum. Raises FitError where it is no number."""
        means = {
            name: float(self.accelerator.reduce(loss, "mean")) / self._num_losses
            for name, loss in self._losses.items()
        }
        train_loss = sum(means.values())
        if not np.isfinite(train_loss):
            raise FitError(
                f"the training loss is {train_loss} at step {self.step}; lower the learning rate, "
                "or use optim.precision=fp32"
            )
        self._losses, self._num_losses = {}, 0
        parts = {f"train_{name}": mean for name, mean in means.items()} if len(means) > 1 else {}
        return {"train_loss": train_loss, **parts}

    def weights(self) -> dict[str, torch.Tensor]:
        """Those that learn, and all buffers, as they lie in the model."""
        frozen = self._frozen()
        return {k: v for k, v in self.classifier.state_dict().items() if k not in frozen}

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Put back what `weights` gave."""
        frozen = self._frozen()
        rest = {k: v for k, v in self.classifier.state_dict().items() if k in frozen}
        self.classifier.load_state_dict(rest | weights)

    def state_dict(self, *, goes_on: bool) -> dict[str, Any]:
        """Where a training stands after `mean_losses`; all processes ask together, and all get the
        same. goes_on=False: no step follows, so the optimizer is left out.

        What was drawn of batches and modality cases is not in it: seed and step say it.
        """
        drawn = random_state(self.accelerator.device), _generator_states(self.classifier)
        return {
            "step": self.step,
            "weights": self.weights(),
            "optimizer": self._optimizer.state_dict() if goes_on else None,
            "random_of_process": gather_object([drawn]),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where `state_dict` was asked: a new trainer of the same run, on each process."""
        self.step = state["step"]
        self.load_weights(state["weights"])
        if state["optimizer"] is not None:
            self._optimizer.load_state_dict(state["optimizer"])
        self._drawn = itertools.islice(self._drawn, self.step, None)
        drawn, generators = state["random_of_process"][self.accelerator.process_index]
        set_random_state(drawn, self.accelerator.device)
        _set_generator_states(self.classifier, generators)

    def _frozen(self) -> set[str]:
        named = self.classifier.named_parameters(remove_duplicate=False)
        return {name for name, parameter in named if not parameter.requires_grad}

    def _deal(self, examples_N: Sequence[Example], index_B: np.ndarray) -> tuple[Batch, WholeBatch]:
        """This process's clips of a batch, padded as those of all are, and the labels of all."""
        device = self.accelerator.device
        whole = WholeBatch(
            label_B=torch.from_numpy(self._train.label_N[index_B]).to(device, non_blocking=True),
            rank=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
        )
        mine = index_B[whole.mine]
        beside = [examples_N[i] for i in np.setdiff1d(index_B, mine)]
        batch = self.collate([examples_N[i] for i in mine], beside=beside)
        return batch.to(device, non_blocking=True), whole


def _drawn(
    sampler: str, train: Examples, batch_size: int, seed: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Endless: the modality case of a step, and the clips of its batch."""
    draws = np.random.default_rng(np.random.SeedSequence((seed, 1)))
    for index_B in batches_of(sampler, train.label_N, batch_size, seed):
        yield int(draws.integers(len(train.cases_KN))), index_B


def _generators(module: nn.Module) -> dict[str, torch.Generator | np.random.Generator]:
    """Those that parts of a module hold for draws of their own, by where they are."""
    return {
        f"{name}.{attribute}": value
        for name, part in module.named_modules()
        for attribute, value in vars(part).items()
        if isinstance(value, torch.Generator | np.random.Generator)
    }


def _generator_states(module: nn.Module) -> dict[str, torch.Tensor | str]:
    return {
        name: generator.get_state()
        if isinstance(generator, torch.Generator)
        else json.dumps(generator.bit_generator.state, default=np.ndarray.tolist)
        for name, generator in _generators(module).items()
    }


def _set_generator_states(module: nn.Module, states: dict[str, torch.Tensor | str]) -> None:
    for name, generator in _generators(module).items():
        if isinstance(generator, torch.Generator):
            generator.set_state(states[name])
        else:
            generator.bit_generator.state = json.loads(states[name])
