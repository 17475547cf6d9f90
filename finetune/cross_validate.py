"""Settings x folds x seeds: one results row each; what has a row already is not run again."""

import dataclasses
import functools
import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from scipy.special import softmax

from data_pipeline.config import ConfigError, dump_config
from data_pipeline.shards import load_passport
from finetune.build import (
    Source,
    beyond_pretraining,
    build_classifier,
    build_encoder,
    check_label_words,
    uses_checkpoint,
    uses_prompt,
)
from finetune.config import FinetuneConfig, Setting
from finetune.datasets import (
    LabelledClip,
    LabelledSet,
    LabelMap,
    Modality,
    Splits,
    read_labelled,
    split_clips,
)
from finetune.encode import ClipEncoder, Reader, modality_cases, read_once
from finetune.fit import Encodings, Fit, fit
from finetune.metrics import score
from finetune.protocols import Protocol, load_protocol, make_protocol, save_protocol
from finetune.results import (
    Recipe,
    ResultsRow,
    read_row,
    read_rows,
    recipe_digest,
    run_folder,
    write_csv,
    write_recipes,
    write_results,
    write_row,
    write_text,
)
from pretrain.example import collate
from pretrain.model.bert_init import bert_sha256
from pretrain.runtime import git_commit

PRETRAINED_ON = "the checkpoint was pretrained on these very clips, without their labels"
Run = tuple[Setting, int, int]
"""Setting, fold, seed."""


def cross_validate(
    config: FinetuneConfig, accelerator: Accelerator, log: logging.Logger
) -> list[ResultsRow]:
    """Run all that has no row yet; return the rows of this config.

    Everything that can be checked is checked before the first step: labels, folds, overlap,
    label words, passports, the weights of every setting. All processes call it together; the
    first one writes.
    """
    data = config.data
    labels = LabelMap.build(data.labels, data.ignore_labels)
    source = Source.load(config.model, load_passport(data.shards), ", ".join(data.shards))
    encoders = {setting: build_encoder(source, setting, config) for setting in config.settings}
    check_label_words(source, labels.classes, config)
    clips = read_labelled(data.shards, labels)
    for line in clips.summary():
        log.info(line)
    for setting in filter(uses_checkpoint, config.settings):
        for line in beyond_pretraining(source, encoders[setting], clips, data.modalities):
            log.warning(f"{setting}: {line}")
    protocol = _protocol(config, clips)
    folds = _folds(config, protocol)
    splits = {fold: split_clips(clips.clips, protocol, fold, clips.classes) for fold in folds}
    for setting in config.settings:
        _, lines = build_classifier(source, setting, config.seeds[0], clips.classes, config)
        for line in lines:
            log.info(f"{setting}: {line}")
    seen = source.pretrained_on(clips)
    notes = [*_notes(config, clips, splits), *([PRETRAINED_ON] if seen else [])]
    notes_of = {
        setting: [n for n in notes if n != PRETRAINED_ON or uses_checkpoint(setting)]
        for setting in config.settings
    }
    for note in dict.fromkeys(note for of_setting in notes_of.values() for note in of_setting):
        log.warning(note)

    recipes = {
        setting: Recipe(
            recipe=_recipe(config, setting, clips, protocol, source, encoders[setting]),
            classes=clips.classes,
            protocol=f"{protocol.name} v{protocol.version}, sha256 {protocol.sha256[:12]}",
            notes=(*clips.summary(), *notes_of[setting]),
        )
        for setting in config.settings
    }
    runs = [(s, fold, seed) for s in config.settings for fold in folds for seed in config.seeds]
    folders = {run: run_folder(config.output, *run, recipes[run[0]].recipe) for run in runs}
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
        write_recipes(config.output, recipes)
        write_text(Path(config.output) / "config.yaml", dump_config(config))
        save_protocol(protocol, Path(config.output) / "protocol.json")

    number = 0
    for setting, of_setting in itertools.groupby(waiting, key=lambda run: run[0]):
        read = read_once(encoders[setting])
        for run in of_setting:
            number += 1
            _, fold, seed = run
            split = splits[fold]
            log.info(f"run {number}/{len(waiting)}: {setting}, fold {fold}, seed {seed}")
            result = _fit(config, source, clips, split, run, read, accelerator, log)
            if accelerator.is_main_process:
                row = _row(
                    config,
                    source,
                    clips,
                    protocol,
                    split,
                    run,
                    result,
                    recipe=recipes[setting],
                    num_processes=accelerator.num_processes,
                )
                _write_run(folders[run], config, clips.classes, split.test, result, row)
                write_results(config.output)
                log.info(
                    f"test at step {row.step} ({row.selection}): WA {row.wa:.3f} UA {row.ua:.3f} "
                    f"macro-F1 {row.macro_f1:.3f} on {row.num_test} clips"
                )
    if accelerator.is_main_process:
        write_results(config.output)  # also where nothing was left to run
    accelerator.wait_for_everyone()
    wanted = {recipe.recipe for recipe in recipes.values()}
    chosen = {(fold, seed) for _, fold, seed in runs}
    return [
        row
        for row in read_rows(config.output)
        if row.recipe in wanted and (row.fold, row.seed) in chosen
    ]


def _notes(config: FinetuneConfig, clips: LabelledSet, splits: dict[int, Splits]) -> list[str]:
    """What a reader of any setting's results must know."""
    notes = [*clips.notes, *(note for split in splits.values() for note in split.notes)]
    modalities = config.data.modalities
    blind = sum(
        all(getattr(clip.sample, modality) is None for modality in modalities)
        for clip in clips.clips
    )
    if blind:
        notes.append(f"{blind} clips have none of {', '.join(modalities)}: judged unseen")
    return list(dict.fromkeys(notes))


def _fit(
    config: FinetuneConfig,
    source: Source,
    clips: LabelledSet,
    split: Splits,
    run: Run,
    read: Reader,
    accelerator: Accelerator,
    log: logging.Logger,
) -> Fit:
    """Train and judge one run."""
    setting, _, seed = run
    plan = config.plans.of(setting)
    encode = functools.partial(_encode, read, config.data.modalities)
    classifier, _ = build_classifier(source, setting, seed, clips.classes, config)
    return fit(
        classifier,
        train=encode(split.train, plan.modality_cases),
        dev=encode(split.dev, "full"),
        test=encode(split.test, "full"),
        collate=functools.partial(collate, pad_id=source.tokenizer.pad_token_id),
        num_classes=len(clips.classes),
        plan=plan,
        optim=config.optim,
        selection=config.selection,
        eval_every_steps=config.eval_every_steps,
        seed=seed,
        accelerator=accelerator,
        log=log,
    )


def _row(
    config: FinetuneConfig,
    source: Source,
    clips: LabelledSet,
    protocol: Protocol,
    split: Splits,
    run: Run,
    result: Fit,
    *,
    recipe: Recipe,
    num_processes: int,
) -> ResultsRow:
    """Scores of one run, and all that says what was run."""
    setting, fold, seed = run
    scores = score(
        np.array([clip.label for clip in split.test]),
        result.test.prediction_N,
        len(clips.classes),
        num_resamples=config.num_resamples,
        seed=seed,
    )
    intervals = {
        "wa": scores.wa_interval,
        "ua": scores.ua_interval,
        "macro_f1": scores.macro_f1_interval,
    }
    ends = {
        f"{name}_{end}": None if interval is None else interval[i]
        for name, interval in intervals.items()
        for i, end in enumerate(("low", "high"))
    }
    notes = [*split.notes, *([PRETRAINED_ON] if PRETRAINED_ON in recipe.notes else [])]
    return ResultsRow(
        corpus=clips.corpus,
        protocol=f"{protocol.name} v{protocol.version}",
        fold_file_sha256=protocol.sha256,
        fold=fold,
        setting=setting,
        head="prompt" if uses_prompt(setting) else "linear",
        modalities="+".join(config.data.modalities),
        seed=seed,
        wa=scores.wa,
        ua=scores.ua,
        macro_f1=scores.macro_f1,
        **ends,
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
        num_processes=num_processes,
        recipe=recipe.recipe,
        notes="; ".join(notes),
    )


def _protocol(config: FinetuneConfig, clips: LabelledSet) -> Protocol:
    if config.data.protocol is not None:
        return load_protocol(config.data.protocol)
    deal = config.data.deal
    return make_protocol(
        clips.clips,
        name=f"{clips.corpus}-{deal.by}{deal.folds}",
        by=deal.by,
        num_folds=deal.folds,
        dev=deal.dev,
        allow_shared_speakers=deal.allow_shared_speakers,
        seed=deal.seed,
    )


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
    encoder: ClipEncoder,
) -> str:
    """Digest of all that decides a result but fold, seed, code and number of processes."""
    facts: dict[str, Any] = {
        "setting": setting,
        "labels": config.data.labels,
        "ignore_labels": config.data.ignore_labels,
        "classes": clips.classes,  # in their order, which a digest of the labels does not keep
        "modalities": config.data.modalities,
        # As they came out: a limit of null takes the checkpoint's.
        "limits": [encoder.max_pieces, encoder.max_faces, encoder.max_speech],
        "data_sha256": clips.sha256,
        "fold_file_sha256": protocol.sha256,
        "shape": source.shape,
        "plan": dataclasses.asdict(config.plans.of(setting)),
        "optim": dataclasses.asdict(config.optim),
        "selection": config.selection,
        "eval_every_steps": config.eval_every_steps,
        "num_resamples": config.num_resamples,
        "checkpoint_sha256": source.checkpoint_sha256 if uses_checkpoint(setting) else "",
        "bert_sha256": bert_sha256(source.bert) if setting == "bert_direct" else "",
        "tokenizer_sha256": source.tokenizer_sha256,
        "prompt": dataclasses.asdict(config.prompt) if uses_prompt(setting) else "",
    }
    return recipe_digest(facts)


def _encode(
    read: Reader,
    modalities: tuple[Modality, ...],
    clips: list[LabelledClip],
    cases: str,
) -> Encodings:
    return Encodings(
        cases_KN=[
            [read(clip, case) for clip in clips] for case in modality_cases(modalities, cases)
        ],
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
