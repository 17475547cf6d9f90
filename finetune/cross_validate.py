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

from data_pipeline.config import ConfigError
from data_pipeline.schema import slug
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
from finetune.judge import judged_cases, write_run
from finetune.portions import few_labels, train_and_dev, without_long_texts
from finetune.pretrained import clips_seen, num_seen, seen_notes
from finetune.protocols import Protocol, load_protocol, make_protocol, save_protocol
from finetune.recipe import build_recipe
from finetune.results import (
    ResultsRow,
    read_row,
    read_rows,
    run_folder,
    write_recipe,
    write_results,
)
from pretrain.example import collate
from pretrain.runtime import git_commit
from pretrain.seen import Found

ORACLE = "selection=oracle: each step is chosen by the test clips themselves, so no number of it "
ORACLE += "is an honest one; use selection=dev for any but a comparison with papers that did so"
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
    splits = {
        (setting, fold): _whole(config, clips, protocol, fold, encoders[setting])
        for setting in config.settings
        for fold in folds
    }
    for setting in config.settings:
        _, lines = build_classifier(source, setting, config.seeds[0], clips.classes, config)
        for line in lines:
            log.info(f"{setting}: {line}")
    seen = clips_seen(source.checkpoint, clips)
    notes, of_checkpoint = _notes(config, clips), seen_notes(seen, source.checkpoint, clips)
    if not any(map(uses_checkpoint, config.settings)):
        of_checkpoint = []
    of_folds = [note for split in splits.values() for note in split.notes]
    for note in dict.fromkeys([*notes, *of_checkpoint, *of_folds]):
        log.warning(note)
    if config.selection == "oracle":
        log.warning(ORACLE)

    recipes = {
        setting: build_recipe(
            config,
            setting,
            clips,
            protocol,
            source,
            encoders[setting],
            (*clips.summary(), *notes, *(of_checkpoint if uses_checkpoint(setting) else ())),
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
        for recipe in recipes.values():
            write_recipe(config.output, recipe)
        name = f"{slug(protocol.name)}-{protocol.sha256[:12]}.json"
        save_protocol(protocol, Path(config.output) / "protocols" / name)

    number = 0
    for setting, of_setting in itertools.groupby(waiting, key=lambda run: run[0]):
        read = read_once(encoders[setting])
        for run in of_setting:
            number += 1
            _, fold, seed = run
            split = _portion(config, splits[setting, fold], seed, fold)
            log.info(f"run {number}/{len(waiting)}: {setting}, fold {fold}, seed {seed}")
            result = _fit(config, source, clips, split, run, read, accelerator, log)
            if accelerator.is_main_process:
                facts = _facts(
                    config,
                    source,
                    clips,
                    protocol,
                    split,
                    run,
                    result,
                    seen=seen if uses_checkpoint(setting) else None,
                    recipe=recipes[setting].recipe,
                    num_processes=accelerator.num_processes,
                )
                cases = modality_cases(data.modalities, config.evaluate_cases)
                judged = judged_cases(result, split, cases)
                row = write_run(folders[run], config, clips.classes, judged, result.curve, facts)
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


def _whole(
    config: FinetuneConfig,
    clips: LabelledSet,
    protocol: Protocol,
    fold: int,
    encoder: ClipEncoder,
) -> Splits:
    """The clips of a fold that one setting may use."""
    data = config.data
    split = split_clips(clips.clips, protocol, fold, clips.classes)
    if data.long_texts == "drop" and "text" in data.modalities:
        split = without_long_texts(
            split,
            lambda clip: encoder.num_pieces(clip.sample),
            fold=fold,
            max_trained=encoder.max_pieces,
            # The official linear runs read dev and test whole.
            max_judged=None if encoder.prompt is None else data.max_judged_pieces,
        )
    return split


def _portion(config: FinetuneConfig, split: Splits, seed: int, fold: int) -> Splits:
    """The labels of a fold that one run may use."""
    split = few_labels(split, config.label_share, seed)
    if config.train_on == "train+dev" and config.selection != "dev":
        split = train_and_dev(split, fold)
    return split


def _notes(config: FinetuneConfig, clips: LabelledSet) -> list[str]:
    """What a reader of any setting's and fold's results must know."""
    notes = list(clips.notes)
    modalities = config.data.modalities
    blind = sum(
        all(getattr(clip.sample, modality) is None for modality in modalities)
        for clip in clips.clips
    )
    if blind:
        notes.append(f"{blind} clips have none of {', '.join(modalities)}: judged unseen")
    if config.train_on == "train+dev":
        chosen_on = {
            "dev": "dev, by a training on train alone; then a new model was trained on train and "
            "dev for as many steps",
            "oracle": "the test clips themselves (MEmoBERT's trnval runs)",
            "last": "nothing: it is the last of the plan",
        }
        notes.append(
            f"trained on train and dev; the step was chosen on {chosen_on[config.selection]}"
        )
    return notes


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
    setting, fold, seed = run
    plan = config.plans.of(setting)
    encode = functools.partial(_encode, read, config.data.modalities)

    def train(split: Splits, selection: str, last_step: int | None = None) -> Fit:
        classifier, _ = build_classifier(source, setting, seed, clips.classes, config)
        return fit(
            classifier,
            train=encode(split.train, plan.modality_cases),
            dev=encode(split.dev, config.evaluate_cases),
            test=encode(split.test, config.evaluate_cases),
            collate=functools.partial(collate, pad_id=source.tokenizer.pad_token_id),
            num_classes=len(clips.classes),
            plan=plan,
            optim=config.optim,
            selection=selection,
            eval_every_steps=config.eval_every_steps,
            seed=seed,
            accelerator=accelerator,
            log=log,
            last_step=last_step,
        )

    chosen = train(split, config.selection)
    if config.train_on != "train+dev" or config.selection != "dev":
        return chosen
    log.info(f"step {chosen.step} was chosen on dev; now a new model on train and dev, up to there")
    both = train(train_and_dev(split, fold), "last", chosen.step)
    return dataclasses.replace(both, selection_ua=chosen.selection_ua, curve=chosen.curve)


def _facts(
    config: FinetuneConfig,
    source: Source,
    clips: LabelledSet,
    protocol: Protocol,
    split: Splits,
    run: Run,
    result: Fit,
    *,
    seen: Found | None,
    recipe: str,
    num_processes: int,
) -> dict[str, Any]:
    """What every row of a run says."""
    setting, fold, seed = run
    refitted = config.train_on == "train+dev" and config.selection == "dev"
    trained = train_and_dev(split, fold) if refitted else split
    return {
        "corpus": clips.corpus,
        "protocol": f"{protocol.name} v{protocol.version}",
        "fold_file_sha256": protocol.sha256,
        "fold": fold,
        "setting": setting,
        "head": "prompt" if uses_prompt(setting) else "linear",
        "modalities": "+".join(config.data.modalities),
        "seed": seed,
        "num_classes": len(clips.classes),
        "selection": config.selection,
        "step": result.step,
        "selection_ua": result.selection_ua,
        "train_on": config.train_on,
        "label_share": config.label_share,
        "num_train": len(trained.train),
        "num_dev": len(split.dev),
        "num_test": len(split.test),
        "shared_speakers": protocol.allow_shared_speakers,
        "num_test_pretrained": num_seen(seen, split.test),
        "checkpoint_sha256": source.checkpoint_sha256 if uses_checkpoint(setting) else "",
        "data_sha256": clips.sha256,
        "git_commit": git_commit(),
        "num_processes": num_processes,
        "recipe": recipe,
        "notes": tuple(trained.notes),
    }


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
    if config.train_on == "train+dev" and without:
        raise ConfigError(
            f"train_on=train+dev, but folds {without} of protocol {protocol.name} have no dev "
            "split; add one, or use train_on=train"
        )
    if config.selection == "dev" and without:
        raise ConfigError(
            f"selection=dev, but folds {without} of protocol {protocol.name} have no dev split; "
            "add one, or use selection=last"
        )
    return folds


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
