"""Settings x folds x seeds: one results row each; what has a row already is not run again."""

import dataclasses
import functools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from scipy.special import softmax

from data_pipeline.config import ConfigError, dump_config
from finetune.build import Source, build_classifier, build_encoder, uses_checkpoint, uses_prompt
from finetune.config import FinetuneConfig, Setting
from finetune.datasets import LabelledClip, LabelledSet, LabelMap, read_labelled, split_clips
from finetune.encode import ClipEncoder, modality_cases
from finetune.fit import Encodings, Fit, fit
from finetune.metrics import score
from finetune.prompt import Verbalizer
from finetune.protocols import Protocol, load_protocol, make_protocol, save_protocol
from finetune.results import (
    ResultsRow,
    git_commit,
    read_row,
    read_rows,
    recipe_digest,
    run_folder,
    write_csv,
    write_results,
    write_row,
    write_text,
)
from pretrain.example import collate


def cross_validate(
    config: FinetuneConfig, accelerator: Accelerator, log: logging.Logger
) -> list[ResultsRow]:
    """Run all that has no row yet; return the rows of this config.

    Everything that can be checked is checked before the first step: labels, folds, overlap,
    label words, passports. All processes call it together; the first one writes.
    """
    data = config.data
    clips = read_labelled(data.shards, LabelMap.build(data.labels, data.ignore_labels))
    for line in clips.summary():
        log.info(line)
    source = Source.load(config.model, clips.passport, ", ".join(data.shards))
    if any(map(uses_prompt, config.settings)):
        Verbalizer.build(clips.classes, config.prompt.words, source.tokenizer)
    encoders = {setting: build_encoder(source, setting, config) for setting in config.settings}
    protocol = _protocol(config, clips, accelerator)
    folds = _folds(config, protocol)
    splits = {fold: split_clips(clips.clips, protocol, fold) for fold in folds}
    notes = list(dict.fromkeys(note for split in splits.values() for note in split.notes))
    if source.pretrained_on(data.shards):
        notes.append("the checkpoint was pretrained on these very clips, without their labels")
    blind = sum(
        all(getattr(clip.sample, modality) is None for modality in data.modalities)
        for clip in clips.clips
    )
    if blind:
        notes.append(f"{blind} clips have none of {', '.join(data.modalities)}: judged unseen")
    for note in notes:
        log.warning(note)

    recipes = {s: _recipe(config, s, clips, protocol, source) for s in config.settings}
    runs = [(s, fold, seed) for s in config.settings for fold in folds for seed in config.seeds]
    folders = {
        run: run_folder(config.output, run[0], run[1], run[2], recipes[run[0]]) for run in runs
    }
    waiting = [
        [run for run in runs if config.overwrite or read_row(folders[run]) is None]
        if accelerator.is_main_process
        else None
    ]
    waiting = broadcast_object_list(waiting)[0]
    log.info(
        f"{len(runs)} runs: {len(config.settings)} settings x {len(folds)} folds x "
        f"{len(config.seeds)} seeds; {len(runs) - len(waiting)} have results already"
    )
    if accelerator.is_main_process:
        _announce(config, recipes, clips, protocol, notes)

    for number, run in enumerate(waiting, 1):
        setting, fold, seed = run
        encode = functools.partial(_encode, encoders[setting], config)
        split = splits[fold]
        log.info(f"run {number}/{len(waiting)}: {setting}, fold {fold}, seed {seed}")
        result = fit(
            build_classifier(source, setting, seed, clips.classes, config),
            train=encode(split.train, data.modality_cases),
            dev=encode(split.dev, "full"),
            test=encode(split.test, "full"),
            collate=functools.partial(collate, pad_id=source.tokenizer.pad_token_id),
            num_classes=len(clips.classes),
            plan=config.plans.of(setting),
            optim=config.optim,
            selection=config.selection,
            eval_every_steps=config.eval_every_steps,
            seed=seed,
            accelerator=accelerator,
            log=log,
        )
        if accelerator.is_main_process:
            truth_N = np.array([clip.label for clip in split.test])
            scores = score(
                truth_N,
                result.test.prediction_N,
                len(clips.classes),
                num_resamples=config.num_resamples,
                seed=seed,
            )
            low_high = [
                (None, None) if interval is None else interval
                for interval in (scores.wa_interval, scores.ua_interval, scores.macro_f1_interval)
            ]
            row = ResultsRow(
                corpus=clips.corpus,
                protocol=f"{protocol.name} v{protocol.version}",
                fold_file_sha256=protocol.sha256,
                fold=fold,
                setting=setting,
                head="prompt" if uses_prompt(setting) else "linear",
                modalities="+".join(data.modalities),
                seed=seed,
                wa=scores.wa,
                ua=scores.ua,
                macro_f1=scores.macro_f1,
                wa_low=low_high[0][0],
                wa_high=low_high[0][1],
                ua_low=low_high[1][0],
                ua_high=low_high[1][1],
                macro_f1_low=low_high[2][0],
                macro_f1_high=low_high[2][1],
                selection=config.selection,
                step=result.step,
                selection_ua=result.selection_ua,
                num_train=len(split.train),
                num_dev=len(split.dev),
                num_test=len(split.test),
                shared_speakers=protocol.allow_shared_speakers,
                checkpoint_sha256=source.checkpoint_sha256 if uses_checkpoint(setting) else "",
                data_sha256=clips.sha256,
                git_commit=git_commit(),
                num_processes=accelerator.num_processes,
                recipe=recipes[setting],
                notes="; ".join(split.notes),
            )
            _write_run(folders[run], config, clips.classes, split.test, result, row)
            write_results(config.output)
            log.info(
                f"test at step {row.step} ({row.selection}): WA {row.wa:.3f} UA {row.ua:.3f} "
                f"macro-F1 {row.macro_f1:.3f} on {row.num_test} clips"
            )
    accelerator.wait_for_everyone()
    wanted = set(recipes.values())
    chosen = {(fold, seed) for _, fold, seed in runs}
    return [
        row
        for row in read_rows(config.output)
        if row.recipe in wanted and (row.fold, row.seed) in chosen
    ]


def _protocol(config: FinetuneConfig, clips: LabelledSet, accelerator: Accelerator) -> Protocol:
    if config.data.protocol is not None:
        return load_protocol(config.data.protocol)
    deal = config.data.deal
    protocol = make_protocol(
        clips.clips,
        name=f"{clips.corpus}-{deal.by}{deal.folds}",
        by=deal.by,
        num_folds=deal.folds,
        dev=deal.dev,
        allow_shared_speakers=deal.allow_shared_speakers,
        seed=deal.seed,
    )
    if accelerator.is_main_process:
        save_protocol(protocol, Path(config.output) / "protocol.json")
    return protocol


def _folds(config: FinetuneConfig, protocol: Protocol) -> list[int]:
    folds = list(range(len(protocol.folds))) if config.folds is None else list(config.folds)
    strange = [fold for fold in folds if not 0 <= fold < len(protocol.folds)]
    if strange:
        raise ConfigError(
            f"folds {strange}: protocol {protocol.name} has folds 0 to {len(protocol.folds) - 1}"
        )
    without = [fold for fold in folds if not protocol.folds[fold].dev]
    if config.selection == "dev" and without:
        raise ConfigError(
            f"selection=dev, but folds {without} of protocol {protocol.name} have no dev split; "
            "add one, or use selection=last"
        )
    return folds


def _recipe(
    config: FinetuneConfig,
    setting: Setting,
    clips: LabelledSet,
    protocol: Protocol,
    source: Source,
) -> str:
    """Digest of all that decides a result but fold, seed, code and number of processes."""
    data = dataclasses.asdict(config.data)
    for name in ("shards", "protocol", "deal"):  # their contents are hashed below
        del data[name]
    facts: dict[str, Any] = {
        "setting": setting,
        "data": data,
        "data_sha256": clips.sha256,
        "fold_file_sha256": protocol.sha256,
        "shape": source.shape,
        "plan": dataclasses.asdict(config.plans.of(setting)),
        "optim": dataclasses.asdict(config.optim),
        "selection": config.selection,
        "eval_every_steps": config.eval_every_steps,
        "num_resamples": config.num_resamples,
        "checkpoint_sha256": source.checkpoint_sha256 if uses_checkpoint(setting) else "",
        "bert": source.bert if setting == "bert_direct" else "",
        "prompt": dataclasses.asdict(config.prompt) if uses_prompt(setting) else "",
    }
    return recipe_digest(facts)


def _announce(
    config: FinetuneConfig,
    recipes: dict[Setting, str],
    clips: LabelledSet,
    protocol: Protocol,
    notes: list[str],
) -> None:
    """Write the resolved config, and run.json, by which a report tells today's rows from old."""
    path = Path(config.output) / "run.json"
    known = json.loads(path.read_text(encoding="utf-8"))["recipes"] if path.exists() else {}
    about = {
        "recipes": known | recipes,
        "classes": clips.classes,
        "protocol": f"{protocol.name} v{protocol.version}, sha256 {protocol.sha256[:12]}",
        "notes": [*clips.summary(), *notes],
    }
    write_text(path, json.dumps(about, indent=1) + "\n")
    write_text(Path(config.output) / "config.yaml", dump_config(config))


def _encode(
    encoder: ClipEncoder, config: FinetuneConfig, clips: list[LabelledClip], cases: str
) -> Encodings:
    modalities = modality_cases(config.data.modalities, cases)
    return Encodings(
        cases_KN=[[encoder(clip.sample, case) for clip in clips] for case in modalities],
        label_N=np.array([clip.label for clip in clips], dtype=np.int64),
    )


def _write_run(
    folder: Path,
    config: FinetuneConfig,
    classes: tuple[str, ...],
    clips: list[LabelledClip],
    result: Fit,
    row: ResultsRow,
) -> None:
    """All files of a run; row.json last."""
    write_text(folder / "config.yaml", dump_config(config))
    write_csv(folder / "curve.csv", list(result.curve[-1]), result.curve)
    names = (*classes, "(another word)")
    probability_NC = softmax(result.test.scores_NC.astype(np.float64), axis=-1)
    predictions = [
        {
            "clip": clip.sample.id,
            "truth": classes[clip.label],
            "prediction": names[said],
            **{f"p_{name}": f"{p:.4f}" for name, p in zip(classes, p_C, strict=True)},
        }
        for clip, said, p_C in zip(clips, result.test.prediction_N, probability_NC, strict=True)
    ]
    write_csv(folder / "predictions.csv", list(predictions[0]), predictions)
    write_row(folder, row)
