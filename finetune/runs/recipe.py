"""The recipe of one setting: all that decides its results, under one digest."""

from finetune.clips.labelled import LabelledSet
from finetune.config import FinetuneConfig, config_digest
from finetune.protocols import Protocol
from finetune.runs.results import Recipe, recipe_digest
from finetune.systems import System


def build_recipe(
    config: FinetuneConfig,
    name: str,
    system: System,
    clips: LabelledSet,
    protocol: Protocol,
    notes: tuple[str, ...],
    folds: list[int],
) -> Recipe:
    """How one setting is run: all that decides a result but fold, seed, code and number of
    processes."""
    column = config.data.label_column
    facts = {
        "setting": name,
        "labels": config.data.labels,
        "ignore_labels": config.data.ignore_labels,
        "long_texts": [config.data.long_texts, config.data.max_judged_pieces],
        "label_share": config.label_share,
        "num_resamples": config.num_resamples,
        "data_sha256": clips.sha256,
        "fold_file_sha256": protocol.sha256,
        **({} if column == "label" else {"label_column": column}),
        **system.facts(),
    }
    variant = []
    if config.label_share < 1:
        variant.append(f"{100 * config.label_share:g} % of the labels")
    if config.train_on != "train":
        variant.append("train and dev")
    return Recipe(
        recipe=recipe_digest(facts),
        setting=name,
        variant=", ".join(variant),
        classes=clips.classes,
        protocol=f"{protocol.name} v{protocol.version}, sha256 {protocol.sha256[:12]}",
        notes=notes,
        facts=facts,
        runs=tuple((fold, seed) for fold in folds for seed in config.seeds),
        asked_by=config_digest(config),
    )
