"""The recipe of one setting: all that decides its results, under one digest."""

import dataclasses
from typing import Any

from finetune.build import Source, uses_checkpoint, uses_prompt
from finetune.config import FinetuneConfig, Setting
from finetune.datasets import LabelledSet
from finetune.encode import ClipEncoder
from finetune.protocols import Protocol
from finetune.results import Recipe, recipe_digest
from pretrain.model.bert_init import bert_sha256


def build_recipe(
    config: FinetuneConfig,
    setting: Setting,
    clips: LabelledSet,
    protocol: Protocol,
    source: Source,
    encoder: ClipEncoder,
    notes: tuple[str, ...],
) -> Recipe:
    """How one setting is run: all that decides a result but fold, seed, code and number of
    processes."""
    facts: dict[str, Any] = {
        "setting": setting,
        "labels": config.data.labels,
        "ignore_labels": config.data.ignore_labels,
        "classes": clips.classes,  # in their order, which a digest of the labels does not keep
        "modalities": config.data.modalities,
        # As they came out: a limit of null takes the checkpoint's.
        "limits": [encoder.max_pieces, encoder.max_faces, encoder.max_speech],
        "long_texts": [config.data.long_texts, config.data.max_judged_pieces],
        "data_sha256": clips.sha256,
        "fold_file_sha256": protocol.sha256,
        "shape": source.shape,
        "plan": dataclasses.asdict(config.plans.of(setting)),
        "optim": dataclasses.asdict(config.optim),
        "selection": config.selection,
        "train_on": config.train_on,
        "label_share": config.label_share,
        "evaluate_cases": config.evaluate_cases,
        "eval_every_steps": config.eval_every_steps,
        "num_resamples": config.num_resamples,
        "checkpoint_sha256": source.checkpoint_sha256 if uses_checkpoint(setting) else "",
        "bert_sha256": bert_sha256(source.bert) if setting == "bert_direct" else "",
        "tokenizer_sha256": source.tokenizer_sha256,
        "prompt": dataclasses.asdict(config.prompt) if uses_prompt(setting) else "",
    }
    variant = []
    if config.label_share < 1:
        variant.append(f"{100 * config.label_share:g} % of the labels")
    if config.train_on != "train":
        variant.append("train and dev")
    return Recipe(
        recipe=recipe_digest(facts),
        setting=setting,
        variant=", ".join(variant),
        classes=clips.classes,
        protocol=f"{protocol.name} v{protocol.version}, sha256 {protocol.sha256[:12]}",
        notes=notes,
        facts=facts,
    )
