"""python -m finetune.benchmark [TABLE ...]

The tables of docs/results/composed: what pretraining, prompt and heads are worth on the composed
benchmark (data_pipeline/corpora/composed.py). A table is a list of commands that a user could give,
and a page that is made of what they leave; each command goes on where it was, so a benchmark that
was stopped is given again. Hours of two CPU cores; needs runs/composed, see
configs/pretrain/composed.yaml.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.command_line import command_parser, run_command, run_shell
from data_pipeline.paths import path_argument

PAGES = Path("docs/results/composed")
RUN = "accelerate launch --quiet finetune/run.py --config configs/finetune/composed_"
PRETRAIN = "bash launch/pretrain.sh --config configs/pretrain/composed.yaml"
SHARES = (1.0, 0.6, 0.4, 0.2, 0.1, 0.02)
SYSTEMS = {
    "memobert, memobert_scratch, m3er": "'data.modalities=[text, face, speech]' "
    "optim.precision=bf16",
    "foal_net": "'data.modalities=[face, speech]' optim.precision=bf16",
    "unimse": "'data.modalities=[text, face, speech]'",
    "speech_resnet": "'data.modalities=[fbank]'",
    "stories": "'data.modalities=[yamnet, sentence]'",
    "face": "'data.modalities=[face]'",
}
"""Settings of configs/finetune/composed_systems.yaml to the streams that they read."""
SHORT = "optim.steps=600 optim.warmup_steps=60"  # seven pretrainings are asked for
ABLATIONS = {
    "all": "",
    "without_wwmlm": "objectives.weights.wwmlm=0",
    "without_span_mafr": "objectives.weights.span_mafr=0",
    "without_span_mvfr": "objectives.weights.span_mvfr=0",
    "without_span_mvfc_kl": "objectives.weights.span_mvfc_kl=0",
    "always_masked": "masking.dice=false",
    "random_frames": "masking.span_length=1 masking.ratios.span_mafr=0.5 "
    "masking.ratios.span_mvfr=0.5 masking.ratios.span_mvfc_kl=0.5",
}
"""Pretraining to its changes."""
WITH_LINEAR = ("all", "without_wwmlm")
"""Pretrainings that a head of no words is put on, too: is it the model, or the words' head?"""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One question, the commands that answer it, and which answers are compared."""

    title: str
    commands: tuple[str, ...]
    results: str
    """Folder of the finetuning whose table and rows the page takes."""
    pairs: tuple[tuple[str, str], ...] = ()
    """Settings that are compared, the one expected to be better first."""
    together: tuple[str, ...] = ()
    """Settings of which every pair is compared, with p as Holm corrects it."""
    note: str = ""
    """What a reader of its figures must know."""
    passports: tuple[str, ...] = ()
    """Folders of robustness passports, whose tables and pictures the page takes too."""
    agreements: tuple[str, ...] = ()
    """Folders of what the modality check can tell, likewise."""


def of_ablation(name: str, head: str = "prompt") -> str:
    """The finetuning of one pretraining, under a setting of that name, with another head also of
    its own."""
    plan = "plan: {num_steps: 100, learning_rate: 2e-4, warmup_steps: 10}"
    setting = name if head == "prompt" else f"{name}_{head}"
    own = f"own_settings.{setting}={{weights: checkpoint, head: {head}, {plan}}}"
    return (
        f"{RUN}settings.yaml 'settings=[{setting}]' '{own}' label_share=0.1 "
        f"output=runs/composed/objectives model.checkpoint=runs/composed/pretrained/{name}"
    )


def passport_of(name: str, options: str) -> str:
    """The robustness passport of every recognizer of a finetuning."""
    folder = f"runs/composed/{name}"
    return (
        f"python -m finetune.robustness {folder}/runs/*/*/recognizer "
        f"--shards runs/composed/labelled {options} --output {folder}/passport"
    )


TABLES = {
    "settings": Table(
        title="The four settings, and few labels",
        commands=tuple(
            f"{RUN}settings.yaml label_share={share:g}"
            + (" judge_oracle=false" if share < 1 else "")
            for share in SHARES
        ),
        results="runs/composed/settings",
        pairs=(
            ("pretrain_prompt", "pretrain_finetune"),
            ("pretrain_finetune", "bert_direct"),
            ("bert_direct", "direct"),
            ("pretrain_prompt", "direct"),
        ),
    ),
    "robustness": Table(
        title="Missing modalities",
        commands=(
            f"{RUN}robustness.yaml",
            passport_of("robustness", "--draws 2"),
        ),
        results="runs/composed/robustness",
        pairs=(("prompt_seven", "prompt_full"), ("prompt_seven", "m3er")),
        passports=("runs/composed/robustness/passport",),
    ),
    "m3er": Table(
        title="M3ER, and noise on one stream",
        commands=(
            f"{RUN}m3er.yaml",
            passport_of("m3er", "--rates 0 --draws 1 --noise speech face --ratios 1,.1,.01"),
            "python -m finetune.robustness.agreement runs/composed/m3er/runs/m3er/fold0-seed1-*"
            "/recognizer --shards runs/composed/labelled --output runs/composed/m3er/agreement",
        ),
        results="runs/composed/m3er",
        pairs=(("m3er", "no_check"), ("m3er", "no_proxies"), ("m3er", "plain")),
        passports=("runs/composed/m3er/passport",),
        agreements=("runs/composed/m3er/agreement",),
    ),
    "foal_net": Table(
        title="Foal-Net's parts",
        commands=(f"{RUN}foal_net.yaml",),
        results="runs/composed/foal_net",
        pairs=(("avel", "base"), ("mem", "base"), ("both", "base")),
    ),
    "objectives": Table(
        title="What pretraining asks",
        commands=tuple(
            command
            for name, changes in ABLATIONS.items()
            for command in (
                f"{PRETRAIN} {SHORT} run.output=runs/composed/pretrained/{name} {changes}".strip(),
                of_ablation(name),
            )
        )
        + tuple(of_ablation(name, "linear") for name in WITH_LINEAR),
        results="runs/composed/objectives",
        note="A row is one pretraining, and its five runs are of finetuning: what another seed of "
        "pretraining would give is not in the spread.",
        pairs=tuple(("all", name) for name in ABLATIONS if name != "all")
        + (tuple(f"{name}_linear" for name in WITH_LINEAR),),
    ),
    "systems": Table(
        title="Every system on the same clips",
        commands=tuple(
            f"{RUN}systems.yaml 'settings=[{settings}]' {streams}"
            for settings, streams in SYSTEMS.items()
        ),
        results="runs/composed/systems",
        together=tuple(name for settings in SYSTEMS for name in settings.split(", ")),
        note="What a system reads is part of it: the sound alone, the face alone, or all three. "
        "What each knew before differs too: memobert and foal_net start from a pretraining on "
        "other composed clips, speech_resnet, unimse and memobert_scratch from nothing, stories "
        "and face read encoders that were trained on other sounds, sentences and faces. All are "
        "small, for CPUs: nothing here ranks the published systems.",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """The command line; 2 where a command of a table fails."""
    return run_command(_main, argv, name="benchmark", go_on="the same command does what is missing")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m finetune.benchmark",
        "Run the tables of the composed benchmark and write their pages.",
        "python -m finetune.benchmark foal_net m3er",
    )
    parser.add_argument(
        "tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}; all by default"
    )
    parser.add_argument("--output", type=path_argument, default=PAGES, help="folder of the pages")
    args = parser.parse_args(argv)
    strange = [name for name in args.tables if name not in TABLES]
    if strange:
        parser.error(f"no table {strange[0]}; there are {', '.join(TABLES)}")
    for name in args.tables or TABLES:
        for command in TABLES[name].commands:
            run_shell(command, f"table {name}: ")
        print(args.output / publish(name, TABLES[name], args.output))
    return 0


def publish(name: str, table: Table, output: Path) -> str:
    """Write the page of a table that was run, its rows and pictures; the page's name."""
    from finetune.robustness.differences import differences, settings_of  # pandas takes a second

    results = Path(table.results)
    (output / f"{name}.csv").parent.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.csv").write_bytes((results / "table.csv").read_bytes())
    parts = [
        f"# {table.title}",
        "Semi-synthetic: real voices, faces and sentences that share nothing but an emotion "
        "(`data_pipeline/corpora/composed.py`). The figures compare methods; they say nothing of "
        "how well emotions are recognised in life.",
        "```sh\n" + "\n".join(table.commands) + "\n```",
        (results / "table.md").read_text(encoding="utf-8").strip(),
        *_verdicts(table, results),
        *_together(name, table, output),
        *([table.note] if table.note else []),
    ]
    for picture in ("settings.png", "label_shares.png"):
        if (results / picture).is_file() and not table.together:  # which has a picture of its own
            (output / f"{name}_{picture}").write_bytes((results / picture).read_bytes())
            parts.append(f"![]({name}_{picture})")
    for folder in map(Path, table.passports):
        picture = f"{name}_{folder.name}.png"
        (output / picture).write_bytes((folder / "robustness.png").read_bytes())
        (output / f"{name}_{folder.name}.csv").write_bytes((folder / "robustness.csv").read_bytes())
        text = (folder / "robustness.md").read_text(encoding="utf-8").strip()
        parts += [text.replace("# Robustness", "## Robustness"), f"![]({picture})"]
        judged = settings_of(folder)
        pairs = [pair for pair in table.pairs if set(pair) <= set(judged)]
        parts += [differences(folder, *pair) for pair in pairs]
    for folder in map(Path, table.agreements):
        (output / f"{name}_agreement.csv").write_bytes((folder / "agreement.csv").read_bytes())
        text = (folder / "agreement.md").read_text(encoding="utf-8").strip()
        parts.append(text.replace("# Agreement", "## Agreement"))
    (output / f"{name}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return f"{name}.md"


def _verdicts(table: Table, results: Path) -> list[str]:
    """Of each pair, in each way that both were run; and what these tests are worth."""
    if not table.pairs:
        return []
    from finetune.compare.chosen import choose
    from finetune.compare.comparison import compare
    from finetune.runs.results import read_recipes, read_rows

    share_of = {row.recipe: row.label_share for row in read_rows(results)}
    recipes = sorted(read_recipes(results), key=lambda r: -share_of.get(r.recipe, 0))
    recipe_of = {(r.setting, r.variant): r.recipe for r in recipes}
    found = [
        compare(choose(recipe, results), choose(recipe_of[b, variant], results))
        for a, b in table.pairs
        for (setting, variant), recipe in recipe_of.items()
        if setting == a and (b, variant) in recipe_of
    ]
    notes = dict.fromkeys(note for comparison in found for note in comparison.notes)
    return [
        "## Is one better than the other?",
        "\n".join(f"- {comparison.verdict}" for comparison in found),
        "\n".join(f"Note: {note}." for note in notes),
    ]


def _together(name: str, table: Table, output: Path) -> list[str]:
    """Every pair's test, and the picture."""
    from finetune.compare.chosen import choose
    from finetune.compare.several import compare_several
    from finetune.runs.results import write_csv

    if not table.together:
        return []
    several = compare_several([choose(one, Path(table.results)) for one in table.together])
    lines = several.lines()
    write_csv(output / f"{name}_pairs.csv", list(lines[-1]), lines)
    several.plot(output / f"{name}_pairs.png")
    return ["## Is one better than the other?", several.text(), f"![]({name}_pairs.png)"]


if __name__ == "__main__":
    sys.exit(main())
