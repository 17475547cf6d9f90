"""python -m finetune.export RECOGNIZER_OR_CHECKPOINT FOLDER

A folder fit for the Hugging Face hub, of a recognizer or of a pretraining checkpoint: weights
(safetensors), tokenizer, config, and a model card with the hub's front matter. Training state stays
behind. What is read from the folder is to the bit what is read from its source:

    load_recognizer("OWNER/NAME")                of a recognizer
    MEmoBert.from_pretrained("OWNER/NAME")       of a checkpoint
"""

import logging
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.errors import UserError
from data_pipeline.files.atomic import sync_folder
from data_pipeline.paths import STAGE_FILES, path_argument

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

CARD = "README.md"
CHECKPOINT_SUFFIXES = {".json", ".safetensors", ".txt", ".yaml"}
"""Of weights, tokenizer, passport, settings and the clips that it has seen."""
FRONT_MATTER = ("license", "library_name", "pipeline_tag", "tags")
"""What the hub reads of a card; a card that lacks one gets it, and what says otherwise stays."""
WHERE_RECOGNIZERS_LIE = ("recognizer", "runs/*/*/recognizer", "*/runs/*/*/recognizer")
"""Of a run's folder, that of a finetuning, and what several stages left in one."""


class ExportError(UserError):
    """A source that cannot be exported, or a folder that cannot take it."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is to be exported, read and found whole."""

    kind: str
    folder: Path
    files: tuple[str, ...]
    """All that a reader needs of it, but the card."""
    card: str
    """What is known of it, where no card lies beside it."""
    load: str
    """How it is read from the hub."""


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 where the source is neither, or the folder is not empty."""
    return run_command(_main, argv, name="finetune.export")


def _main(argv: list[str] | None) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    parser = command_parser(
        "python -m finetune.export",
        "A folder fit for the Hugging Face hub, of a recognizer or of a pretraining checkpoint:\n"
        "weights, tokenizer, config and model card, without training state.",
        "python -m finetune.export runs/mine/pretrain runs/mine/hub",
    )
    parser.add_argument(
        "source", type=path_argument, help="a recognizer's folder, a checkpoint's, or a run's"
    )
    parser.add_argument("folder", type=path_argument, help="to make; it must be new or empty")
    arguments = parser.parse_args(argv)
    source = export(arguments.source, arguments.folder)
    for path in sorted(arguments.folder.iterdir()):
        print(f"{path.stat().st_size / 1e3:12,.1f} kB  {path.name}")
    print(f"{source.kind} in {arguments.folder}. To publish it: read {CARD}, then")
    print(f"  hf upload OWNER/NAME {arguments.folder}")
    print(f"and to use it from there: {source.load}")
    return 0


def export(source: Path, folder: Path) -> Source:
    """Make `folder`, whole or not at all, and read it again. Raises ExportError, or the source's
    own error where a file of it is gone, cut or altered."""
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{folder} is a file; name a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:3])
        raise ExportError(f"{folder} is not empty (it holds {there}); name a new folder")
    from pretrain.checkpoint.integrity import write_digests

    found = read_source(source)
    card = hub_card(found)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a run that was killed
    try:
        temporary.mkdir(parents=True)
        for name in found.files:
            shutil.copyfile(found.folder / name, temporary / name)
        if found.kind == "a checkpoint":
            write_digests(temporary)  # those beside the source tell of its training state too
        (temporary / CARD).write_text(str(card), encoding="utf-8")
        read_source(temporary)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.parent)
    return found


def read_source(folder: Path) -> Source:
    """What lies in `folder`, loaded once to see that it is whole. Raises ExportError where that is
    neither a recognizer nor a checkpoint."""
    from finetune.recognizer import FILE  # torch takes seconds

    if not folder.is_dir():
        what = f"{folder} is a file" if folder.exists() else f"no folder {folder}"
        raise ExportError(
            f"{what}; expected a recognizer's, as finetuning leaves it beside each "
            "results row, or that of a pretraining run or of a checkpoint"
        )
    if (folder / FILE).exists():
        return _recognizer(folder)
    if any((folder / name).exists() for name in ("config.json", "latest", "checkpoints")):
        return _checkpoint(folder)
    raise ExportError(_neither(folder))


def _recognizer(folder: Path) -> Source:
    from finetune.card import recognizer_card
    from finetune.recognizer import FILE, load_recognizer, told_of

    load_recognizer(folder)
    told = told_of(folder)
    return Source(
        kind="a recognizer",
        folder=folder,
        files=(FILE, *told["digests"]),
        card=recognizer_card(told),
        load='load_recognizer("OWNER/NAME")',
    )


def _checkpoint(folder: Path) -> Source:
    from pretrain.checkpoint.card import model_card
    from pretrain.checkpoint.folder import load_checkpoint
    from pretrain.checkpoint.integrity import DIGESTS

    read = load_checkpoint(folder)
    names = {path.name for path in read.folder.iterdir() if path.suffix in CHECKPOINT_SUFFIXES}
    sizes = read.model._hub_mixin_config or {}
    return Source(
        kind="a checkpoint",
        folder=read.folder,
        files=tuple(sorted(names - {DIGESTS})),
        card=model_card(sizes, read.passport, read.config, read.provenance),
        load='MEmoBert.from_pretrained("OWNER/NAME")',
    )


def hub_card(source: Source) -> "ModelCard":
    """The card beside the source, or what is known, with all that the hub reads."""
    import yaml
    from huggingface_hub import ModelCard

    path, known = source.folder / CARD, ModelCard(source.card)
    if not path.is_file():
        return known
    try:
        card = ModelCard(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ExportError(
            f"{path} has a head that the hub cannot read: {error}; mend it, or remove the file: "
            "then one is made of what is known"
        ) from error
    missing = [name for name in FRONT_MATTER if not card.data.get(name)]
    if "license" in missing:
        missing.append("license_name")
    for name in missing:
        setattr(card.data, name, known.data.get(name))
    return card


def _neither(folder: Path) -> str:
    """What was found instead, and what to name."""
    files = sorted(path.name for path in folder.iterdir())
    found = f"it holds {', '.join(files[:5])}" if files else "it is empty"
    inside = [path for deep in WHERE_RECOGNIZERS_LIE for path in sorted(folder.glob(deep))]
    if inside:
        return f"{folder} is no recognizer, but has {len(inside)}; name one: {inside[0]}"
    for what, names in STAGE_FILES.items():
        if any((folder / name).exists() for name in names):
            found = f"it is {what}"
    return (
        f"{folder} is neither a recognizer (recognizer.json) nor a checkpoint (config.json, "
        f"model.safetensors): {found}"
    )


if __name__ == "__main__":
    sys.exit(main())
