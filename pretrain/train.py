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

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from data_pipeline.schema import Passport
from pretrain.checkpoint import CheckpointStore, Progress, read_latest
from pretrain.config import PretrainConfig
from pretrain.data.loader import Loader, StepData
from pretrain.data.masking import DROP_REASONS
from pretrain.divergence import Watch
from pretrain.engine.protocol import Engine
from pretrain.integrity import way_back
from pretrain.interrupt import asked_to_stop
from pretrain.monitoring.meter import AMOUNTS, Meter
from pretrain.monitoring.metrics import Metrics, describe, objectives_line, words_line
from pretrain.monitoring.validation import Answers, Validation
from pretrain.objectives import OBJECTIVES, squared_error
from pretrain.optim import learning_rate
from pretrain.runtime import Runtime

LARGE_SQUARE = 4.0
"""Features of deviation 1 have 1. Beside speech states of about 10 WWMLM was found to learn
nothing."""


def train(
    config: PretrainConfig,
    runtime: Runtime,
    engine: Engine,
    loader: Loader,
    validation: Validation | None,
    store: CheckpointStore,
    meter: Meter,
    metrics: Metrics | None,
    bar: tqdm,
    tokenizer: PreTrainedTokenizerBase,
    passport: Passport,
    progress: Progress | None,
) -> int:
    """Train from `progress` (None: from the start) to config.optim.steps, or, where some rank is
    asked to stop (pretrain.interrupt), to the end of the step that is under way; the last step,
    which is saved.

    Raises DivergedError when a loss, the gradient or a weight is not finite, before that can reach
    a checkpoint.
    """
    log, run, steps = runtime.log, config.run, config.optim.steps
    shares = config.objectives.shares()
    step = progress.step if progress else 0
    dropped = dict(progress.dropped) if progress else {}
    drawn = progress.drawn if progress else 0
    told: set[str] = set()  # reasons for which clips are passed over, each told once

    def validate() -> None:
        if validation is None:
            return
        answers = validation(engine.whole_model(), runtime)
        if metrics is not None and answers:
            row = _held_out_row([a for a in answers if a.subset == validation.everything], shares)
            metrics.write(step, "validation", row)
            metrics.write_answers(step, answers)
            log.info(f"step {step} | held out | {objectives_line(row)}")
            if words := words_line(answers):
                log.info(f"step {step} | held out, words right | {words}")
            if step == 0:
                _warn_of_scale(row, log)

    if step == 0 or progress.owes_validation:
        validate()
    engine.model.train()
    meter.reset()
    watch = Watch(runtime, lambda: _after_divergence(config, store))
    if progress and progress.meter:
        meter.go_on_from(progress.meter)
    stop = False
    while step < steps and not stop:
        data = loader.next_step()
        counts, amounts, drops, stop = _over_ranks(data, runtime)
        passes = engine.passes(data.batches, shares)
        for number, batch in enumerate(passes, 1):
            batch = batch.to(runtime.device, non_blocking=True)
            sums = {
                name: OBJECTIVES[name].loss(predicted, batch.targets[name].values)[0]
                for name, predicted in engine(batch).items()
            }
            weights = shares if config.objectives.mixing == "clip" else dict.fromkeys(shares, 1.0)
            # A step may ask for no word at all (masking.force_word=false): its sum is zero, too.
            loss = sum(weights[name] * sums[name] / max(counts[name], 1) for name in sums)
            engine.backward(loss, last=number == len(passes))
            meter.add_loss(loss, sums)
            watch.add_pass(loss, batch.ids)
        rate = learning_rate(
            step + 1,
            peak=config.optim.peak_learning_rate,
            warmup=config.optim.warmup_steps,
            total=steps,
            floor=config.optim.floor_learning_rate,
        )
        grad_norm = engine.step(rate)
        step += 1
        watch.add_step(step, grad_norm)
        meter.add_step(counts, amounts, grad_norm)
        bar.update()

        drawn += amounts["clips"] + sum(drops.values())
        for reason, count in drops.items():
            dropped[reason] = dropped.get(reason, 0) + count
        if drawn >= loader.num_clips or step == steps:  # all were drawn once
            for reason in sorted(dropped.keys() - told):
                told.add(reason)
                log.info(_why_dropped(reason, dropped[reason], drawn, config))

        if step % run.log_every == 0 or step == steps:
            watch.check()
            row = {**meter.read(), "learning_rate": rate}
            if metrics is not None:
                metrics.write(step, "train", row)
                log.info(describe(step, row))
                bar.set_postfix_str(f"loss {row['loss']:.3f}", refresh=False)
        meter.pause()
        due = step % run.validate_every == 0 or step == steps
        put_off = due and stop and step < steps  # whoever asked may not wait for so long
        if due and not put_off:
            validate()
        if step % run.checkpoint_every == 0 or step == steps or stop:
            watch.check()
            # The loss above is that of the weights before this step's update.
            watch.check_weights(engine.whole_model(), step)
            state = loader.state_dict()
            places = runtime.max_over_ranks(torch.from_numpy(state["places_L2"]))
            progress = Progress(
                step=step,
                loader={**state, "places_L2": places.tolist()},
                dropped=dict(dropped),
                drawn=drawn,
                meter=meter.state(),
                owes_validation=put_off,
            )
            folder = store.save(engine, progress, tokenizer, passport, config)
            log.info(f"step {step} | saved {folder}")
        meter.go_on()
    return step


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


def _why_dropped(reason: str, count: int, drawn: int, config: PretrainConfig) -> str:
    """How many clips are passed over, and the setting that changes it."""
    data = config.data
    change = {
        "text_too_long": f"more word pieces than data.limits.text={data.limits.get('text')} "
        "(null: as many as the model has positions for)",
        "beyond_positions": "frames beyond the model's positions; set data.limits of that stream",
        "no_word_pieces": "none of their words can be masked",
        "no_objective": "no objective that is on can be asked of them",
    }
    why = change.get(reason, "the objective of the step needs it")
    return f"{count} of {drawn} clips drawn so far were passed over, {reason}: {why}"


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
