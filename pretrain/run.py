"""A pretraining run from its config: build the parts, go on from what is there, train.

pretrain(config, start(config.run))
"""

import contextlib
import functools
import os
import time
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from data_pipeline.config import ConfigError, as_tree, dump_config
from data_pipeline.paths import check_distinct
from data_pipeline.schema import Passport, check_passport
from pretrain.build import (
    build_limits,
    build_model,
    build_rows,
    build_tokenizer,
    check_objectives,
)
from pretrain.checkpoint.folder import read_config, read_passport
from pretrain.checkpoint.store import CheckpointStore
from pretrain.config import DataSettings, PretrainConfig
from pretrain.data.loader import Loader
from pretrain.data.manifests import Manifests, read_manifests
from pretrain.data.survey import RunClips, Survey, survey_shards
from pretrain.data.verify import verify_shards
from pretrain.engine.build import build_engine
from pretrain.engine.protocol import Engine
from pretrain.interrupt import asked_to_stop, saving_when_asked
from pretrain.monitoring.flops import encoder_flops, encoder_shape
from pretrain.monitoring.meter import Meter
from pretrain.monitoring.metrics import Metrics
from pretrain.monitoring.progress import progress_bar
from pretrain.monitoring.trackers import check_trackers, open_trackers
from pretrain.monitoring.validation import Validation
from pretrain.objectives import OBJECTIVES, streams_of
from pretrain.optim import build_adamw
from pretrain.output import held_output
from pretrain.runtime import Runtime, seed_rank
from pretrain.train import Training

MAY_CHANGE = ("model.attention", "model.dropout")
"""Settings of the model that leave its weights what they are; other ones, even of the same shapes,
make another model of them."""


def pretrain(config: PretrainConfig, runtime: Runtime) -> bool:
    """Build the parts and train; a run that is in config.run.output already goes on. False where it
    was asked to stop before its last step, and saved."""
    output = Path(config.run.output)
    with runtime.answering(), held_output(output, runtime), contextlib.ExitStack() as closing:
        return _pretrain(config, runtime, closing)


def _pretrain(config: PretrainConfig, runtime: Runtime, closing: contextlib.ExitStack) -> bool:
    """`closing` ends, on every way out, what has threads."""
    runtime.on_main(lambda: check_trackers(config.run.trackers))
    clips, survey = _clips(config, runtime)
    passport = clips.passport
    check_objectives(config, passport)
    shares = config.objectives.shares().items()
    runtime.log.info("objectives: " + ", ".join(f"{name} {share:.0%}" for name, share in shares))
    tokenizer = build_tokenizer(config.model.text_checkpoint)
    loader, validation = _data(config, runtime, tokenizer, clips, survey)
    closing.enter_context(loader)
    engine = _engine(config, runtime, passport)
    seed_rank(config.run.seed, runtime.rank)

    output = Path(config.run.output)
    store = CheckpointStore(
        output / "checkpoints",
        config.run.keep_checkpoints,
        runtime,
        survey.shards_sha256 if survey else None,
        survey.seen if survey else None,
    )
    newest = store.newest()
    if newest is not None:
        changes = check_same_run(config, passport, newest)
        if changes:
            runtime.log.info(f"settings changed since {newest.name}: {', '.join(changes)}")
    progress = store.load(engine)
    if progress is not None:
        check_length(config, progress.step, newest)
        loader.load_state_dict(progress.loader)
        runtime.log.info(
            f"going on after step {progress.step} of {config.optim.steps}, from {newest}"
        )
    last_step = progress.step if progress else 0
    owes = bool(progress and progress.owes_validation)
    metrics = runtime.on_main(lambda: _metrics(config, output, last_step, owes))
    if metrics is not None:
        closing.enter_context(metrics)
    flops = functools.partial(encoder_flops, **encoder_shape(engine.model.encoder))
    meter = Meter(runtime, config.optim.clip_norm, flops)
    bar = closing.enter_context(progress_bar(runtime, last_step, config.optim.steps))
    training = Training(
        config=config,
        runtime=runtime,
        engine=engine,
        loader=loader,
        validation=validation,
        store=store,
        meter=meter,
        metrics=metrics,
        bar=bar,
        tokenizer=tokenizer,
        passport=passport,
        start=progress,
    )
    with saving_when_asked():
        last_step = training.run()
    if last_step < config.optim.steps:
        who = asked_to_stop() or "another rank's signal"
        runtime.log.info(
            f"stopped by {who} after step {last_step} of {config.optim.steps}, which is saved: the "
            "next start goes on there"
        )
        return False
    runtime.log.info(f"done: {config.optim.steps} steps; losses in {output / 'metrics.csv'}")
    return True


def _metrics(config: PretrainConfig, output: Path, last_step: int, owes: bool) -> Metrics:
    """Where the numbers go; beside them the config."""
    (output / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    trackers = open_trackers(config.run.trackers, output, last_step, as_tree(config))
    return Metrics(output, last_step, trackers, owes)


def _clips(config: PretrainConfig, runtime: Runtime) -> tuple[RunClips, Survey | None]:
    """The clips that all ranks are told of by rank 0, and what rank 0 alone keeps."""
    folders = _distinct_folders(config.data)
    runtime.on_every_rank(lambda: _check_folders(folders))
    survey = runtime.on_main(lambda: survey_shards(config.data, _streams(config)))
    arrays = runtime.from_main(survey.clips.to_arrays() if survey else None)
    clips = RunClips.from_arrays(arrays)
    if config.data.verify:
        _verify(clips, _streams(config), runtime)
    return clips, survey


def _verify(clips: RunClips, streams: set[str], runtime: Runtime) -> None:
    """Every rank its part of the shards; where one is bad, all ranks end."""
    begin, indices = time.perf_counter(), [clips.train, clips.held_out]
    runtime.log.info("comparing every byte of the shards with their manifests (data.verify)")
    read = runtime.on_every_rank(
        lambda: verify_shards(indices, streams, runtime.rank, runtime.world_size)
    )
    total = int(runtime.sum_over_ranks(torch.tensor(read)))
    seconds = time.perf_counter() - begin
    runtime.log.info(f"{total / 1e6:.1f} MB are as written; read in {seconds:.1f} s")


def shards_passport(config: PretrainConfig) -> Passport:
    """Of the shards: all folders agree, or it is an error."""
    return shards_manifests(config).passport


def shards_manifests(config: PretrainConfig) -> Manifests:
    """Of all shards of a config, as this process sees them; the ranks of a run ask rank 0."""
    folders = _distinct_folders(config.data)
    _check_folders(folders)
    return read_manifests(folders, _streams(config))


def _streams(config: PretrainConfig) -> set[str]:
    """Those whose passport a run asks for."""
    return streams_of(config.model.streams, OBJECTIVES)


def _distinct_folders(data: DataSettings) -> list[str]:
    folders = [*data.shards, *data.validation_shards]
    check_distinct("data.shards", data.shards)
    check_distinct("data.shards with data.validation_shards", folders)
    return folders


def _check_folders(folders: list[str]) -> None:
    for folder in folders:
        if not Path(folder).is_dir():
            raise ConfigError(
                f"no folder {folder} (data.shards); run `make demo`, which makes "
                "runs/demo/samples/shards, "
                "or `python -m data_pipeline.extract --config configs/data/demo.yaml clips=TABLE "
                "output=FOLDER` on your clips, then give data.shards=[FOLDER]"
            )


def _data(
    config: PretrainConfig,
    runtime: Runtime,
    tokenizer: PreTrainedTokenizerBase,
    clips: RunClips,
    survey: Survey | None,
) -> tuple[Loader, Validation | None]:
    """Training clips as a stream, held-out clips as a validation (None: there are none)."""
    data, seed, shares = config.data, config.run.seed, config.objectives.shares()
    common = {
        "tokenizer": tokenizer,
        "limits": build_limits(data, config.model, clips.passport),
        "masking": config.masking,
        "seed": seed,
        "micro_batch_clips": data.micro_batch_clips,
        "rows": build_rows(config, clips.passport),
    }
    for line in survey.unfinished if survey else ():
        runtime.log.warning(line)
    loader = Loader(
        clips.train,
        **common,
        batch_clips=data.batch_clips,
        num_lanes=data.num_lanes,
        weights=shares,
        mixing=config.objectives.mixing,
        rank=runtime.rank,
        world_size=runtime.world_size,
        workers=num_workers(data, runtime),
        prefetch_steps=data.prefetch_steps,
        pin_for=runtime.device if runtime.device.type == "cuda" else None,
    )
    if survey is not None:
        runtime.log.info(
            f"{loader.num_clips} clips in {len(clips.train)} shards to train on; {survey.held_out}"
        )
    if not len(clips.held_out):
        return loader, None
    validation = Validation(
        clips=clips.held_out,
        **common,
        objectives=tuple(shares),
        subsets=config.run.validate_subsets,
    )
    return loader, validation


def num_workers(data: DataSettings, runtime: Runtime) -> int:
    """Processes that read clips for this rank."""
    if data.workers is not None:
        return data.workers
    if runtime.device.type == "cpu":
        return 0  # its cores compute
    cores = len(os.sched_getaffinity(0))  # of the task under Slurm, else of the machine
    ranks = min(torch.cuda.device_count(), runtime.world_size)
    return max(0, min(4, cores // max(ranks, 1) - 1))


def _engine(config: PretrainConfig, runtime: Runtime, passport: Passport) -> Engine:
    """Model, optimizer and engine."""
    optim, data = config.optim, config.data
    model, sources = build_model(config.model, passport)
    for line in sources:
        runtime.log.info(f"model: {line}")
    model.to(runtime.device)
    model.encoder.recompute = config.engine.activation_checkpointing
    if config.engine.compile:
        model.encoder.compile_layers()
    a_pass = f"{data.micro_batch_clips} clips, padded"
    if data.packing == "rows":
        a_pass = f"{data.micro_batch_clips} clips and {data.micro_batch_tokens} tokens, joined"
    a_pass += ", compiled" if config.engine.compile else ""
    kind = config.engine.kind
    zero = f" at ZeRO stage {config.engine.zero_stage}" if kind == "deepspeed" else ""
    runtime.log.info(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M weights; "
        f"{kind} engine{zero}; {data.batch_clips} clips a step over {runtime.world_size} "
        f"rank(s), in passes of at most {a_pass}"
    )
    optimizer = build_adamw(
        model,
        learning_rate=optim.peak_learning_rate,
        weight_decay=optim.weight_decay,
        betas=optim.betas,
        eps=optim.eps,
    )
    return build_engine(
        config.engine,
        model,
        optimizer,
        runtime,
        clip_norm=optim.clip_norm,
    )


def check_same_run(config: PretrainConfig, passport: Passport, newest: Path) -> list[str]:
    """What else than the model changed since checkpoint `newest`, such as `optim.steps 8 -> 16`.

    Raises SchemaError for shards of another passport, ConfigError for another model.
    """
    check_passport(
        passport, read_passport(newest), f"{', '.join(config.data.shards)} (read by {newest})"
    )
    before = _flat(read_config(newest))
    now = _flat(config)
    changes = {k: f"{k} {before.get(k)} -> {now[k]}" for k in now if before.get(k) != now[k]}
    others = [text for k, text in changes.items() if k.startswith("model.") and k not in MAY_CHANGE]
    if others:
        raise ConfigError(
            f"{newest} is of another model: {', '.join(others)}; set it back, or use another "
            "run.output"
        )
    return list(changes.values())


def check_length(config: PretrainConfig, step: int, newest: Path) -> None:
    """Raise ConfigError for a checkpoint past the run's last step."""
    if step > config.optim.steps:
        raise ConfigError(
            f"{newest} is at step {step}, past optim.steps={config.optim.steps}; set it to {step} "
            "or more, or use another run.output"
        )


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """`{"optim.steps": 40000, ...}`"""
    flat: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            flat |= _flat(value, f"{prefix}{f.name}.")
        else:
            flat[prefix + f.name] = value
    return flat
