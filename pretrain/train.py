"""The training loop, in plain order.

A step: fetch its micro-batches; learn how many targets all ranks have together (one sum of a few
numbers of the host); forward and backward each micro-batch; update. With s_t a micro-batch's summed
loss of objective t, n_t the targets of t in the whole step and p_t the objective's share,

    loss = sum over t of  p_t s_t / n_t            (mixing: clip; over the t with n_t > 0)
    loss = s_t / n_t  of the step's one objective  (mixing: step, the paper)

summed over micro-batches and ranks: the same for every way to deal out the clips. The two have
about the same expected gradient where every clip has every modality and a step holds clips of every
objective, since the paper draws t with chance p_t. An objective that a small step happens to lack
adds nothing to it, and the shares of the others are not raised: such a step weighs less.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from data_pipeline.schema import Passport
from pretrain.checkpoint.folder import read_latest
from pretrain.checkpoint.integrity import way_back
from pretrain.checkpoint.store import CheckpointStore, Progress
from pretrain.config import PretrainConfig
from pretrain.data.loader import Loader, StepData
from pretrain.data.masking import DROP_REASONS
from pretrain.divergence import Watch
from pretrain.engine.protocol import Engine
from pretrain.interrupt import asked_to_stop
from pretrain.model.batch import AnyBatch
from pretrain.monitoring.meter import AMOUNTS, Meter
from pretrain.monitoring.metrics import Metrics, describe, objectives_line, words_line
from pretrain.monitoring.passed_over import PassedOver
from pretrain.monitoring.validation import Answers, Validation
from pretrain.objectives import OBJECTIVES, squared_error
from pretrain.optim import learning_rate
from pretrain.runtime import Runtime

LARGE_SQUARE = 4.0
"""Features of deviation 1 have 1. Beside speech states of about 10 WWMLM was found to learn
nothing."""


@dataclass(kw_only=True, eq=False)
class Training:
    """A run whose parts are built, and how far it is.

        last_step = Training(config=config, runtime=runtime, ...).run()

    pretrain.run builds them.
    """

    config: PretrainConfig
    runtime: Runtime
    engine: Engine
    loader: Loader
    validation: Validation | None
    store: CheckpointStore
    meter: Meter
    metrics: Metrics | None
    """Of rank 0."""
    bar: tqdm
    tokenizer: PreTrainedTokenizerBase
    passport: Passport
    start: Progress | None
    """What it goes on from; None: from new."""

    def __post_init__(self) -> None:
        start, self.shares = self.start, self.config.objectives.shares()
        self.step = start.step if start else 0
        """Optimizer steps done."""
        self.passed_over = PassedOver(start.drawn, start.dropped) if start else PassedOver()
        self.watch = Watch(self.runtime, lambda: _after_divergence(self.config, self.store))

    def run(self) -> int:
        """Train to config.optim.steps, or, where some rank is asked to stop (pretrain.interrupt),
        to the end of the step that is under way; the last step, which is saved.

        Raises DivergedError when a loss, the gradient or a weight is not finite, before that can
        reach a checkpoint.
        """
        every, steps = self.config.run, self.config.optim.steps
        if self.step == 0 or self.start.owes_validation:
            self._validate()
        self.engine.model.train()
        self.meter.reset()
        if self.start and self.start.meter:
            self.meter.go_on_from(self.start.meter)
        stop = False
        while self.step < steps and not stop:
            stop = self._learn()
            last = self.step == steps
            if last or self.passed_over.drawn >= self.loader.num_clips:  # all were drawn once
                for line in self.passed_over.untold(self.config.data):
                    self.runtime.log.info(line)
            if last or self.step % every.log_every == 0:
                self._tell()
            self.meter.pause()
            due = last or self.step % every.validate_every == 0
            put_off = due and stop and not last  # whoever asked may not wait for so long
            if due and not put_off:
                self._validate()
            if last or stop or self.step % every.checkpoint_every == 0:
                self._save(owes_validation=put_off)
            self.meter.go_on()
        return self.step

    def _learn(self) -> bool:
        """One step; whether it is the last, since somebody asked."""
        data = self.loader.next_step()
        counts, amounts, dropped, stop = _over_ranks(data, self.runtime)
        passes = self.engine.passes(data.batches, self.shares)
        for number, batch in enumerate(passes, 1):
            loss, sums = self._loss(batch.to(self.runtime.device, non_blocking=True), counts)
            self.engine.backward(loss, last=number == len(passes))
            self.meter.add_loss(loss, sums)
            self.watch.add_pass(loss, batch.ids)
        grad_norm = self.engine.step(self._rate(self.step + 1))
        self.step += 1
        self.watch.add_step(self.step, grad_norm)
        self.meter.add_step(counts, amounts, grad_norm)
        self.passed_over.add(amounts["clips"], dropped)
        self.bar.update()
        return stop

    def _rate(self, step: int) -> float:
        optim = self.config.optim
        return learning_rate(
            step,
            peak=optim.peak_learning_rate,
            warmup=optim.warmup_steps,
            total=optim.steps,
            floor=optim.floor_learning_rate,
        )

    def _loss(
        self, batch: AnyBatch, counts: dict[str, int]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """This pass's part of the step's loss, and the sums that it is made of."""
        sums = {
            name: OBJECTIVES[name].loss(predicted, batch.targets[name].values)[0]
            for name, predicted in self.engine(batch).items()
        }
        mixed = self.config.objectives.mixing == "clip"
        weights = self.shares if mixed else dict.fromkeys(self.shares, 1.0)
        # A step may ask for no word at all (masking.force_word=false): its sum is zero, too.
        return sum(weights[name] * sums[name] / max(counts[name], 1) for name in sums), sums

    def _tell(self) -> None:
        """The line of the log; waits for the device."""
        self.watch.check()
        row = {**self.meter.read(), "learning_rate": self._rate(self.step)}
        if self.metrics is not None:
            self.metrics.write(self.step, "train", row)
            self.runtime.log.info(describe(self.step, row))
            self.bar.set_postfix_str(f"loss {row['loss']:.3f}", refresh=False)

    def _validate(self) -> None:
        if self.validation is None:
            return
        answers = self.validation(self.engine.whole_model(), self.runtime)
        if self.metrics is None or not answers:
            return
        everything = [a for a in answers if a.subset == self.validation.everything]
        row, log = _held_out_row(everything, self.shares), self.runtime.log
        self.metrics.write(self.step, "validation", row)
        self.metrics.write_answers(self.step, answers)
        log.info(f"step {self.step} | held out | {objectives_line(row)}")
        if words := words_line(answers):
            log.info(f"step {self.step} | held out, words right | {words}")
        if self.step == 0:
            _warn_of_scale(row, log)

    def _save(self, *, owes_validation: bool) -> None:
        self.watch.check()
        # The losses so far are of the weights before this step's update.
        self.watch.check_weights(self.engine.whole_model(), self.step)
        state = self.loader.state_dict()
        places = self.runtime.max_over_ranks(torch.from_numpy(state["places_L2"]))
        progress = Progress(
            step=self.step,
            loader={**state, "places_L2": places.tolist()},
            dropped=dict(self.passed_over.dropped),
            drawn=self.passed_over.drawn,
            meter=self.meter.state(),
            owes_validation=owes_validation,
        )
        parts = (self.engine, progress, self.tokenizer, self.passport, self.config)
        self.runtime.log.info(f"step {self.step} | saved {self.store.save(*parts)}")


def _held_out_row(answers: Sequence[Answers], shares: dict[str, float]) -> dict[str, float]:
    """What metrics.csv says of answers to different objectives: their losses, weighted too."""
    losses = {one.objective: one.loss for one in answers}
    total = sum(shares[name] for name in losses)
    row = losses | {"loss": sum(shares[name] * losses[name] for name in losses) / total}
    if words := [one.word_accuracy for one in answers if one.word_accuracy is not None]:
        row["word_accuracy"] = words[0]
    return row


def _warn_of_scale(first_losses: dict[str, float], log: logging.Logger) -> None:
    """Of an untrained model the loss of a regression is the mean square of its features."""
    for name, objective in OBJECTIVES.items():
        square = first_losses.get(name, 0.0) if objective.loss is squared_error else 0.0
        if square > LARGE_SQUARE:
            log.warning(
                f"the {objective.target} features have a mean square of {square:.1f}, so {name} "
                "will outweigh the other objectives and the model may learn little else; extract "
                "states that end in a norm (streams.speech.layer=-1), or lower "
                f"objectives.weights.{name}"
            )


def _after_divergence(config: PretrainConfig, store: CheckpointStore) -> str:
    """What to do then."""
    newest = read_latest(store.root)
    start = "there is no checkpoint yet, so the run starts anew"
    if newest is not None:
        start = f"it goes on from {newest}; should that end here again, {way_back(newest)}"
    return (
        f"lower optim.peak_learning_rate={config.optim.peak_learning_rate}, lengthen "
        f"optim.warmup_steps or set run.precision=fp32, and start again: {start}"
    )


def _over_ranks(
    data: StepData, runtime: Runtime
) -> tuple[dict[str, int], dict[str, int], dict[str, int], bool]:
    """Targets of each objective, amounts (pretrain.monitoring.meter) and dropped clips of the step,
    and whether it is the last one, since somebody asked; of all ranks.

    Numbers of the host, summed over the CPU's process group: the device is not waited for.
    """
    asked = dict.fromkeys(m for o in OBJECTIVES.values() for m in (o.stream, o.target))
    reasons = [*DROP_REASONS, *(f"no_{modality}" for modality in asked)]
    mine = [data.count(name) for name in OBJECTIVES]
    mine += [getattr(data, f"num_{name}") for name in AMOUNTS]
    mine += [data.dropped.get(reason, 0) for reason in reasons] + [int(bool(asked_to_stop()))]
    numbers = iter(runtime.sum_over_ranks(torch.tensor(mine)).tolist())
    counts = {name: next(numbers) for name in OBJECTIVES}
    amounts = {name: next(numbers) for name in AMOUNTS}
    drops = {reason: n for reason in reasons if (n := next(numbers))}
    return counts, amounts, drops, bool(next(numbers))
