"""python -m finetune.systems.speech_resnet table --ravdess FOLDER --emodb FOLDER --grid FOLDER

What SpecAugment and transfer are worth, on RAVDESS and on EmoDB, judged on speakers that nobody
learned from. It is a list of commands that a user could give, and a page made of what they leave;
each goes on where it was, so a table that was stopped is given again. It goes seed by seed, all
settings and folds of one before the next, and the page is written after each. About four hours
of one CPU core.
"""

import csv
import io
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.command_line import command_parser, run_shell
from data_pipeline.errors import UserError
from data_pipeline.files.atomic import atomic_file
from data_pipeline.paths import path_argument

if TYPE_CHECKING:
    from finetune.compare.comparison import Comparison

COMMAND = "python -m finetune.systems.speech_resnet table"
RUNS = "runs/speech_resnet"
CONFIG = "configs/finetune/speech_resnet.yaml"
SEEDS = (1, 2, 3, 4, 5)
SETTINGS = ("scratch", "augmented", "transfer", "both")
PAIRS = (
    ("augmented", "scratch"),
    ("transfer", "scratch"),
    ("both", "scratch"),
    ("both", "augmented"),
    ("both", "transfer"),
)
"""Which are compared, the one expected to be better first."""
SHAPE = "shape.width=8 shape.stem_stride=4 embedding=64"


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """One that is judged, and whose speakers the trunk learned."""

    title: str
    protocol: str
    labels: str
    others: tuple[str, ...]
    """Corpora of the trunk."""
    folds: int
    """Of the protocol, those that have clips."""
    steps: int
    """Of each training."""


CORPORA = {
    "ravdess": Corpus(
        title="RAVDESS, eight emotions",
        protocol="ravdess-actor",
        labels="{neutral: [neutral], calm: [calm], happy: [happy], sad: [sad], angry: [angry], "
        "fearful: [fearful], disgust: [disgust], surprised: [surprised]}",
        others=("emodb", "grid"),
        folds=5,
        steps=800,
    ),
    "emodb": Corpus(
        title="EmoDB, seven emotions",
        protocol="emodb-speaker10",
        labels="{anger: [anger], boredom: [boredom], disgust: [disgust], fear: [fear], "
        "happy: [happiness], neutral: [neutral], sad: [sadness]}",
        others=("ravdess", "grid"),
        folds=8,
        steps=500,
    ),
}


def shard_commands(name: str, root: Path) -> list[str]:
    """From a release to shards of `fbank` alone."""
    table, shards = f"{RUNS}/{name}.csv", f"{RUNS}/shards/{name}"
    return [
        f"python -m data_pipeline.corpora {name} {shlex.quote(str(root))} --output {table}",
        f"python -m data_pipeline.extract clips={table} output={shards} 'streams={{face: false, "
        "speech: false, fbank: {}}' 'require=[fbank]' speaker=none previews=0 workers=1",
    ]


def trunk_command(name: str) -> str:
    """Stage 1, on the speakers of the other corpora."""
    shards = ", ".join(f"{RUNS}/shards/{other}" for other in CORPORA[name].others)
    return (
        f"python -m finetune.systems.speech_resnet pretrain 'shards=[{shards}]' "
        f"output={RUNS}/trunk_for_{name} {SHAPE} steps=1200 warmup_steps=60 learning_rate=3e-3 "
        "save_every_steps=100"
    )


def finetune_command(name: str, seeds: tuple[int, ...]) -> str:
    """Stage 2: all settings and folds of these seeds."""
    corpus = CORPORA[name]
    plan = f"{{num_steps: {corpus.steps}, learning_rate: 3e-3, warmup_steps: {corpus.steps // 10}}}"
    own = [f"'own_settings.{setting}.plan={plan}'" for setting in SETTINGS]
    own += [
        f"own_settings.{setting}.options.trunk={RUNS}/trunk_for_{name}"
        for setting in ("transfer", "both")
    ]
    return (
        f"accelerate launch --quiet finetune/run.py --config {CONFIG} output={RUNS}/{name} "
        f"'data.shards=[{RUNS}/shards/{name}]' data.protocol={corpus.protocol} "
        f"'data.labels={corpus.labels}' {' '.join(own)} selection=dev "
        f"eval_every_steps={corpus.steps // 4} optim.batch_size=16 optim.precision=bf16 "
        f"save_recognizers=false 'seeds={list(seeds)}'"
    )


def main(argv: list[str]) -> int:
    """Run all that is missing, and write the page."""
    parser = command_parser(
        COMMAND,
        "What SpecAugment and transfer are worth, on RAVDESS and EmoDB: runs what is missing and\n"
        "writes docs/results/speech_resnet.md.",
        f"{COMMAND} --ravdess RAVDESS --emodb EMODB --grid GRID",
    )
    for name in ("ravdess", "emodb", "grid"):
        parser.add_argument(f"--{name}", type=path_argument, help=f"folder of {name}'s release")
    parser.add_argument(
        "--publish", action="store_true", help="run nothing: the page of what there is"
    )
    parser.add_argument("--output", type=path_argument, default=Path("docs/results"), help="folder")
    args = parser.parse_args(argv)
    if not args.publish:
        roots = {name: getattr(args, name) for name in ("ravdess", "emodb", "grid")}
        if absent := [f"--{name}" for name, root in roots.items() if root is None]:
            parser.error(f"{', '.join(absent)} is not given")
        Path(RUNS).mkdir(parents=True, exist_ok=True)
        for name, root in roots.items():
            for command in shard_commands(name, root):
                run_shell(command)
        for name in CORPORA:
            run_shell(trunk_command(name))
        for count in range(1, len(SEEDS) + 1):
            for name in CORPORA:
                run_shell(finetune_command(name, SEEDS[:count]))
                publish(args.output)
    print(publish(args.output))
    return 0


def publish(output: Path) -> Path:
    """Write the page of all that is there, its rows and its pictures. Raises UserError where there
    is nothing."""
    there = [name for name in CORPORA if Path(RUNS, name, "table.csv").is_file()]
    if not there:
        raise UserError(f"no results in {RUNS}; give the folders of the corpora, without --publish")
    output.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, str]] = []
    parts = [_head()]
    for name in there:
        folder = Path(RUNS, name)
        with open(folder / "table.csv", newline="", encoding="utf-8") as file:
            lines += [{"corpus": name, **line} for line in csv.DictReader(file)]
        parts += _part(name, folder)
        if (folder / "settings.png").is_file():  # of two settings or more
            picture = output / f"speech_resnet_{name}.png"
            picture.write_bytes((folder / "settings.png").read_bytes())
    told = io.StringIO()
    writer = csv.DictWriter(told, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    pages = {"speech_resnet.csv": told.getvalue(), "speech_resnet.md": "\n\n".join(parts) + "\n"}
    for page, text in pages.items():
        with atomic_file(output / page) as file:
            file.write(text.encode())
    return output / "speech_resnet.md"


def _head() -> str:
    return (
        "# ResNet34 over log-mel: SpecAugment and transfer\n\n"
        "Padi, Sadjadi, Sriram and Manocha (ICMI 2021) report that transfer from speaker "
        "identification and SpecAugment each help, and both most; their corpus is IEMOCAP, their "
        "trunk learned from the thousands of speakers of VoxCeleb. Here the network is the same in "
        "its blocks, an eighth as wide and with a first convolution of stride 4, for CPUs, and the "
        "trunk knows but the few speakers of "
        "the other open corpora: the figures say what each part is worth at this size, and do not "
        "compare with the paper's. `augmented` is scratch with SpecAugment, `transfer` starts from "
        "the trunk, all of which learns on, `both` has both.\n\n"
        f"```sh\n{COMMAND} --ravdess RAVDESS --emodb EMODB --grid GRID\n```\n\n"
        "RAVDESS and EmoDB are those that were to be had: 22 of 24 actors, 9 of 10 speakers, EmoDB "
        "cut or padded to 2.0 s by who put it up. Speakers of test and dev are never trained on."
    )


def _part(name: str, folder: Path) -> list[str]:
    """What there is to say of one corpus."""
    from finetune.compare.chosen import choose  # with pandas and scipy
    from finetune.compare.comparison import compare
    from finetune.runs.results import read_rows
    from finetune.systems.speech_resnet.trunk import Trunk

    trunk = Trunk.load(f"{RUNS}/trunk_for_{name}")
    told = trunk.provenance["metrics"]
    rows = read_rows(folder)
    there = {row.setting for row in rows}
    pairs = [pair for pair in PAIRS if there.issuperset(pair)]  # all, once a seed is done
    found = [compare(choose(a, folder), choose(b, folder)) for a, b in pairs]
    corpus = CORPORA[name]
    at_end = sum(row.step == corpus.steps for row in rows)
    asked = len(SETTINGS) * corpus.folds * len(SEEDS)
    table = (folder / "table.md").read_text(encoding="utf-8").strip()
    return [
        f"## {corpus.title}",
        f"The trunk learned {len(trunk.speakers)} speakers of "
        f"{' and '.join(trunk.provenance['corpora'])} in {told['step']} steps, and tells the "
        f"speaker of {told['held_out_accuracy']:.1%} of {told['held_out_clips']} held-out clips.",
        "\n".join(line for line in table.splitlines() if not line.startswith("# ")),
        f"Of {len(rows)} runs dev chose the last of {corpus.steps} steps in {at_end}."
        + (f" **{asked - len(rows)} of {asked} runs are missing.**" if len(rows) < asked else ""),
        *([f"![](speech_resnet_{name}.png)"] if (folder / "settings.png").is_file() else []),
        *(_verdicts(found) if found else []),
    ]


def _verdicts(found: "list[Comparison]") -> list[str]:
    notes = [f"Note: {note}." for note in dict.fromkeys(n for c in found for n in c.notes)]
    verdicts = [f"- {comparison.verdict}" for comparison in found]
    return ["### Is one better than the other?", "\n".join(verdicts), *notes]
