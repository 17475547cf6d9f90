"""python -m finetune.protocols make --config CONFIG --by speaker --folds 5 --output FILE
python -m finetune.protocols list

Settings of the finetuning config, such as data.labels, can be given as key=value after it.
"""

import logging
import sys

from data_pipeline.command_line import command_parser, parser_style, run_command
from data_pipeline.config import load_config
from data_pipeline.markdown import markdown_table
from data_pipeline.paths import check_distinct, new_file_argument, path_argument
from finetune.clips.labelled import DatasetError, LabelMap, read_labelled
from finetune.config import FinetuneConfig
from finetune.protocols import (
    ProtocolError,
    load_protocol,
    make_protocol,
    save_protocol,
    split_clips,
)
from finetune.protocols.make import other_folds
from finetune.protocols.shipped import shipped_names

log = logging.getLogger("finetune.protocols")

EXAMPLE = """\
python -m finetune.protocols make --shards runs/mine \\
      --by speaker --folds 5 --output runs/folds.json"""


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 for input that cannot be used."""
    return run_command(_main, argv, name="protocols", tell=lambda message, _: log.error(message))


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m finetune.protocols",
        "Fold files: which clips are for training, for choosing a step, and for test.",
        EXAMPLE,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    about = "Deal the labelled clips of some shards into folds, by speaker or recording."
    make = commands.add_parser("make", help=about, **parser_style(about, EXAMPLE))
    make.add_argument(
        "--shards", nargs="+", type=path_argument, help="shard folders; default: the config's"
    )
    make.add_argument("--config", help="finetuning config: its label map and shard folders")
    make.add_argument(
        "--by",
        choices=["speaker", "recording", "clip"],
        default="speaker",
        help="what is never split between training and test",
    )
    make.add_argument("--folds", type=int, default=5, help="how many")
    make.add_argument("--no-dev", action="store_true", help="folds of train and test alone")
    make.add_argument(
        "--allow-shared-speakers",
        action="store_true",
        help="let a speaker be in training and test; such results show mechanics, not accuracy",
    )
    make.add_argument("--seed", type=int, default=0, help="another one deals otherwise")
    make.add_argument("--name", help="of the protocol; default: corpus and grouping")
    make.add_argument("--output", type=new_file_argument, required=True, help="fold file to write")
    about = "The fold files that ship; each is named as data.protocol=NAME."
    commands.add_parser(
        "list", help=about, **parser_style(about, "python -m finetune.protocols list")
    )
    args, settings = parser.parse_known_args(argv)
    if args.command == "list":
        if settings:
            parser.error(f"list takes no {settings[0]}")
        print(shipped_table())
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data = load_config(FinetuneConfig, args.config, settings).of_targets()[0].data
    labels = LabelMap.build(data.labels, data.ignore_labels)
    check_distinct("--shards", args.shards or ())
    found = read_labelled(args.shards or data.shards, labels, (), data.label_column)
    asked = {
        "by": args.by,
        "dev": not args.no_dev,
        "allow_shared_speakers": args.allow_shared_speakers,
        "seed": args.seed,
    }
    name = args.name or f"{found.corpus}-{args.by}{args.folds}"
    try:
        protocol = make_protocol(found.clips, name=name, num_folds=args.folds, **asked)
        folds = range(len(protocol.folds))
        splits = [split_clips(found.clips, protocol, fold, found.classes) for fold in folds]
    except (DatasetError, ProtocolError) as error:
        raise ProtocolError(f"{error}\n{other_folds(found.clips, args.folds, **asked)}") from error
    save_protocol(protocol, args.output)
    for line in found.summary():
        log.info("%s", line)
    for note in dict.fromkeys([*found.notes, *(note for s in splits for note in s.notes)]):
        log.warning("%s", note)
    log.info("%s: %d folds, sha256 %s", args.output, len(protocol.folds), protocol.sha256[:12])
    return 0


def shipped_table() -> str:
    """Every fold file that ships, a row each."""
    rows = []
    for name in shipped_names():
        p = load_protocol(name)
        corpora = {unit.partition("/")[0] for fold in p.folds for unit in fold.test}
        folds = str(len(p.folds))
        rows.append((name, ", ".join(sorted(corpora)), p.group, folds, p.sha256[:12], p.note))
    return markdown_table(("Name", "Corpus", "Group", "Folds", "SHA-256", "Note"), rows)


if __name__ == "__main__":
    sys.exit(main())
