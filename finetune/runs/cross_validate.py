"""Settings x folds x seeds: one results row each; what has a row already is not run again.

In three acts: gather what all runs share, plan every run (whatever can fail, fails there), act.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from data_pipeline.config import dump_config
from data_pipeline.schema import slug
from finetune.build import build_folds, build_protocol, build_systems, left_out
from finetune.card import Origin
from finetune.clips.labelled import LabelledSet, LabelMap, read_labelled
from finetune.clips.portions import few_labels, train_and_dev
from finetune.clips.pretrained import clips_seen, num_seen, seen_notes
from finetune.clips.reader import modality_cases
from finetune.config import FinetuneConfig
from finetune.protocols import Protocol, Splits, save_protocol, split_clips
from finetune.recognizer import write_card
from finetune.runs.judge import judged_cases, main_row, row_of, write_run
from finetune.runs.recipe import build_recipe
from finetune.runs.results import (
    Recipe,
    ResultsRow,
    read_row,
    read_rows,
    run_folder,
    write_recipe,
    write_results,
)
from finetune.systems import GoesOn, System
from finetune.training.fit import Fit
from finetune.training.state import TrainingState
from pretrain.data.seen import Found
from pretrain.runtime import git_commit

ORACLE = "selection=oracle: each step is chosen by the test clips themselves, so no number of it "
ORACLE += "is an honest one; use selection=dev for any but a comparison with papers that did so"


@dataclass(frozen=True, kw_only=True, eq=False)
class Gathered:
    """What all runs share."""

    systems: dict[str, System]
    """Setting to its system."""
    clips: LabelledSet
    protocol: Protocol
    folds: list[int]
    seen: dict[str, Found | None]
    """Setting to the clips that its checkpoint was pretrained on, see finetune.clips.pretrained."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One setting, fold and seed."""

    setting: str
    system: System
    fold: int
    seed: int
    splits: Splits
    """The clips that it may use."""
    recipe: Recipe
    folder: Path
    facts: dict[str, Any]
    """What its row says that is known before it is run."""


def cross_validate(
    config: FinetuneConfig, accelerator: Accelerator, log: logging.Logger
) -> list[ResultsRow]:
    """Run all of this task's share that has no row yet; return the rows of this config.

    Everything that can be checked is checked before the first step: labels, folds, overlap,
    label words, passports, the weights of every setting. All processes call it together; the
    first one writes.
    """
    share = config.array.share()
    gathered = gather(config, accelerator, log)
    runs = plan(config, gathered, log)
    act(
        runs,
        gathered.protocol,
        output=Path(config.output),
        share=share,
        overwrite=config.overwrite,
        write=_writer(config, gathered),
        accelerator=accelerator,
        log=log,
    )
    wanted = {(run.recipe.recipe, run.fold, run.seed) for run in runs}
    rows = read_rows(config.output)
    return [row for row in rows if (row.recipe, row.fold, row.seed) in wanted]


def gather(config: FinetuneConfig, accelerator: Accelerator, log: logging.Logger) -> Gathered:
    """Models, clips and folds. What needs no clip is checked before any is read."""
    data = config.data
    labels = LabelMap.build(data.labels, data.ignore_labels)
    systems = build_systems(config, accelerator, log)
    streams = dict.fromkeys(name for system in systems.values() for name in system.streams)
    clips = read_labelled(data.shards, labels, tuple(streams), data.label_column)
    for line in clips.summary():
        log.info(line)
    for name, system in systems.items():
        for line in system.warnings(clips):
            log.warning(f"{name}: {line}")
    protocol = build_protocol(data, clips)
    folds = build_folds(config, protocol, clips)
    return Gathered(
        systems=systems,
        clips=clips,
        protocol=protocol,
        folds=folds,
        seen={name: clips_seen(system.checkpoint, clips) for name, system in systems.items()},
    )


def plan(config: FinetuneConfig, gathered: Gathered, log: logging.Logger) -> list[Run]:
    """Every run of the config, with its clips, recipe and folder; whatever can fail, fails here."""
    clips, protocol = gathered.clips, gathered.protocol
    notes = [*_notes(config, clips), *left_out(config, protocol, clips)]
    whole = {
        (name, fold): system.usable(split_clips(clips.clips, protocol, fold, clips.classes), fold)
        for name, system in gathered.systems.items()
        for fold in gathered.folds
    }
    for name, system in gathered.systems.items():
        for line in system.start(config.seeds[0]):
            log.info(f"{name}: {line}")
    of_checkpoints = {
        name: seen_notes(gathered.seen[name], system.checkpoint, clips)
        for name, system in gathered.systems.items()
    }
    of_folds = [note for splits in whole.values() for note in splits.notes]
    said = [*notes, *(n for told in of_checkpoints.values() for n in told), *of_folds]
    for note in dict.fromkeys(said):
        log.warning(note)
    if config.selection == "oracle":
        log.warning(ORACLE)
    runs = []
    for name, system in gathered.systems.items():
        told = (*clips.summary(), *notes, *of_checkpoints[name])
        recipe = build_recipe(config, name, system, clips, protocol, told, gathered.folds)
        for fold in gathered.folds:
            for seed in config.seeds:
                splits = _portion(config, whole[name, fold], seed, fold)
                runs.append(
                    Run(
                        setting=name,
                        system=system,
                        fold=fold,
                        seed=seed,
                        splits=splits,
                        recipe=recipe,
                        folder=run_folder(config.output, name, fold, seed, recipe.recipe),
                        facts=_facts(config, gathered, name, splits, fold)
                        | {"setting": name, "seed": seed, "recipe": recipe.recipe},
                    )
                )
    return runs


def act(
    runs: list[Run],
    protocol: Protocol,
    *,
    output: Path,
    share: tuple[int, int],
    overwrite: bool,
    write: Callable[[Run, Fit, int], ResultsRow],
    accelerator: Accelerator,
    log: logging.Logger,
) -> None:
    """Fit the runs of this share, (index, count), that have no row yet, with `overwrite` all, and
    `write` each as it ends."""
    index, count = share
    log.info(
        f"{len(runs)} runs: {len({run.setting for run in runs})} settings x "
        f"{len({run.fold for run in runs})} folds x {len({run.seed for run in runs})} seeds"
    )
    mine = runs[index::count]
    waiting = _waiting(mine, overwrite, accelerator)
    of_task = f" of the {len(mine)} of task {index} of {count}" if count > 1 else ""
    log.info(f"{len(mine) - len(waiting)}{of_task} have results already")
    for run in mine:
        if run not in waiting:  # killed when its row was written
            _state(run, accelerator, log).remove()
    if accelerator.is_main_process and index == 0:
        for recipe in {run.recipe.recipe: run.recipe for run in runs}.values():
            write_recipe(output, recipe)
        name = f"{slug(protocol.name)}-{protocol.sha256[:12]}.json"
        save_protocol(protocol, output / "protocols" / name)
    for number, run in enumerate(waiting, 1):
        log.info(f"run {number}/{len(waiting)}: {run.setting}, fold {run.fold}, seed {run.seed}")
        state = _state(run, accelerator, log)
        for other in state.of_other_recipes():
            log.info(f"{other}: a training by another recipe, not ended and not gone on with here")
        if isinstance(run.system, GoesOn):
            result = run.system.go_on(run.splits, run.seed, state)
        else:
            result = run.system.fit(run.splits, run.seed)
        if number == len(waiting) or waiting[number].system is not run.system:
            run.system.forget()
        if accelerator.is_main_process:
            row = write(run, result, accelerator.num_processes)
            if count == 1:
                write_results(output)
            log.info(
                f"test at step {row.step} ({row.selection}): WA {row.wa:.3f} UA {row.ua:.3f} "
                f"macro-F1 {row.macro_f1:.3f} on {row.num_test} clips" + _of_oracle(row)
            )
        state.remove()
    if accelerator.is_main_process and count == 1:
        write_results(output)  # also where nothing was left to run
    accelerator.wait_for_everyone()


def _state(run: Run, accelerator: Accelerator, log: logging.Logger) -> TrainingState:
    """Where the run keeps how far its training is."""
    facts = {"recipe": run.recipe.recipe, "fold": run.fold, "seed": run.seed}
    return TrainingState.of_run(run.folder, facts, accelerator, log)


def _of_oracle(row: ResultsRow) -> str:
    if row.oracle_ua is None:
        return ""
    return f"; chosen on test itself, step {row.oracle_step}, UA would be {row.oracle_ua:.3f}"


def _waiting(runs: list[Run], overwrite: bool, accelerator: Accelerator) -> list[Run]:
    """Those to be run, as the first process sees it."""
    numbers = [
        [i for i, run in enumerate(runs) if overwrite or read_row(run.folder) is None]
        if accelerator.is_main_process
        else None
    ]
    return [runs[i] for i in broadcast_object_list(numbers)[0]]


def _origin(config: FinetuneConfig, gathered: Gathered, run: Run, row: ResultsRow) -> Origin:
    """What a recognizer's card says of its run."""
    fold = gathered.protocol.folds[run.fold]
    bert = config.model.bert if run.system.facts().get("weights") == "bert" else ""
    return Origin(
        row=row,
        clips=gathered.clips.summary(),
        num_shards=len(gathered.clips.shards_sha256),
        group=gathered.protocol.group,
        units={"train": fold.train, "dev": fold.dev, "test": fold.test},
        checkpoint=run.system.checkpoint,
        bert=bert,
    )


def _writer(config: FinetuneConfig, gathered: Gathered) -> Callable[[Run, Fit, int], ResultsRow]:
    """All files of one run, from what it came to; the recognizer before row.json."""
    cases = modality_cases(config.data.modalities, config.evaluate_cases)
    text = dump_config(config)

    def write(run: Run, result: Fit, num_processes: int) -> ResultsRow:
        facts = run.facts | {
            "step": result.step,
            "selection_ua": result.selection_ua,
            "num_processes": num_processes,
        }
        judged = judged_cases(result, run.splits, cases)
        row = main_row(judged[0], result, config.num_resamples, facts)
        case_rows = [row_of(case, config.num_resamples, facts) for case in judged[1]]
        if config.save_recognizers:
            run.system.save(run.folder / "recognizer", result)
            write_card(run.folder / "recognizer", _origin(config, gathered, run, row))
        classes, curve = run.recipe.classes, result.curve
        write_run(run.folder, text, classes, judged, curve, row, case_rows)
        return row

    return write


def _portion(config: FinetuneConfig, splits: Splits, seed: int, fold: int) -> Splits:
    """The labels of a fold that one run may use."""
    splits = few_labels(splits, config.label_share, seed)
    if config.train_on == "train+dev" and config.selection != "dev":
        splits = train_and_dev(splits, fold)
    return splits


def _notes(config: FinetuneConfig, clips: LabelledSet) -> list[str]:
    """What a reader of any setting's and fold's results must know."""
    notes = list(clips.notes)
    modalities = config.data.modalities
    blind = sum(not any(map(clip.sample.has, modalities)) for clip in clips.clips)
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


def _facts(
    config: FinetuneConfig, gathered: Gathered, name: str, splits: Splits, fold: int
) -> dict[str, Any]:
    """What every row of a setting's run says and is known before it is run."""
    clips, protocol, system = gathered.clips, gathered.protocol, gathered.systems[name]
    trained = train_and_dev(splits, fold) if system.refits else splits
    seen = None if system.checkpoint is None else gathered.seen[name]
    return {
        "corpus": clips.corpus,
        "protocol": f"{protocol.name} v{protocol.version}",
        "fold_file_sha256": protocol.sha256,
        "fold": fold,
        "system": system.name,
        "head": system.head,
        "modalities": "+".join(config.data.modalities),
        "num_classes": len(clips.classes),
        "selection": config.selection,
        "train_on": config.train_on,
        "label_share": config.label_share,
        "num_train": len(trained.train),
        "num_dev": len(splits.dev),
        "num_test": len(splits.test),
        "shared_speakers": protocol.allow_shared_speakers,
        "num_test_pretrained": num_seen(seen, splits.test),
        "checkpoint_sha256": system.checkpoint_sha256,
        "data_sha256": clips.sha256,
        "git_commit": git_commit(),
        "notes": tuple(trained.notes),
    }
