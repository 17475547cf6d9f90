"""python -m finetune.systems.stories table --data FOLDER --yamnet FILE

What sound, words and both are worth to the system: on composed stories
(data_pipeline.recipes.stories), judged on actors that nobody learned from, and words alone on
MELD's dialogues. It is a list of commands that a user could give, and a page made of what they
leave; each goes on where it was, so a table that was stopped is given again. About 12 minutes of
one CPU core.
"""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.command_line import command_parser, run_shell
from data_pipeline.errors import UserError
from data_pipeline.markdown import markdown_table
from data_pipeline.paths import path_argument

if TYPE_CHECKING:
    from finetune.compare.several import Several

COMMAND = "python -m finetune.systems.stories table"
RUNS = "runs/stories"
CONFIG = "configs/finetune/stories.yaml"
TARGETS = ("valence", "arousal")
SETTINGS = {
    "acoustic": ("yamnet",),
    "linguistic": ("sentence",),
    "both": ("yamnet", "sentence"),
}
"""Name to streams."""
RATED = "{label_column: %s, labels: {low: [low], medium: [medium], high: [high]}}"
OF_STORIES = f"{{valence: {RATED % 'valence'}, arousal: {RATED % 'arousal'}}}"
OF_MELD = (
    "{valence: {label_column: sentiment, labels: {low: [negative], medium: [neutral], "
    "high: [positive]}}, arousal: {labels: {low: [sadness], medium: [disgust, neutral], "
    "high: [anger, fear, joy, surprise]}}}"
)


def data_commands(data: Path, yamnet: Path) -> list[str]:
    """From releases to shards, and the folds of the composed stories."""
    return [
        f"python -m data_pipeline.recipes.stories compose {shlex.quote(str(data))} "
        f"--output {RUNS}/clips.csv",
        f"python -m data_pipeline.extract clips={RUNS}/clips.csv output={RUNS}/shards "
        "'streams={face: false, speech: false, yamnet: {weights: "
        f"{shlex.quote(str(yamnet))}}}, sentence: {{}}}}' 'require=[yamnet, sentence]' "
        "speaker=none previews=0 workers=1",
        f"python -m data_pipeline.recipes.stories meld {shlex.quote(str(data / 'text/meld'))} "
        f"--output {RUNS}/meld_text",
        f"python -m finetune.protocols make --config {CONFIG} --shards {RUNS}/shards "
        f"--by speaker --folds 5 --output {RUNS}/folds.json 'targets={OF_STORIES}'",
    ]


def finetune_commands() -> list[str]:
    """All settings, each for both targets."""
    composed = [
        _finetune(
            name,
            "story: recording, groups: speaker, models: [svm, logistic, forest, boosting]",
            f"output={RUNS}/composed 'data.shards=[{RUNS}/shards]' "
            f"data.protocol={RUNS}/folds.json 'data.modalities=[{', '.join(streams)}]' "
            f"'targets={OF_STORIES}'",
        )
        for name, streams in SETTINGS.items()
    ]
    meld = _finetune(
        "linguistic",
        "story: story, groups: recording, models: [logistic], weighting: uniform",
        f"output={RUNS}/meld 'data.shards=[{RUNS}/meld_text]' data.protocol=meld-official "
        f"'data.modalities=[sentence]' 'targets={OF_MELD}'",
    )
    return [*composed, meld]


def _finetune(name: str, options: str, words: str) -> str:
    return (
        f"accelerate launch --quiet finetune/run.py --config {CONFIG} 'settings=[{name}]' "
        f"'own_settings.{name}={{system: stories, options: {{{options}}}}}' {words} "
        "selection=dev 'seeds=[1]' save_recognizers=false"
    )


def main(argv: list[str]) -> int:
    """Run all that is missing, and write the page."""
    parser = command_parser(
        COMMAND,
        "What sound, words and both are worth: runs what is missing and writes\n"
        "docs/results/stories.md.",
        f"{COMMAND} --data ../shared/data --yamnet yamnet.tflite",
    )
    parser.add_argument(
        "--data", type=path_argument, help="folder of ravdess_audio/ and text/meld/"
    )
    parser.add_argument("--yamnet", type=path_argument, help="yamnet.tflite")
    parser.add_argument(
        "--publish", action="store_true", help="run nothing: the page of what there is"
    )
    parser.add_argument("--output", type=path_argument, default=Path("docs/results"), help="folder")
    args = parser.parse_args(argv)
    if not args.publish:
        if args.data is None or args.yamnet is None:
            parser.error("--data and --yamnet are both needed, or --publish")
        Path(RUNS).mkdir(parents=True, exist_ok=True)
        for command in (*data_commands(args.data, args.yamnet), *finetune_commands()):
            run_shell(command)
    print(publish(args.output))
    return 0


def publish(output: Path) -> Path:
    """Write the page, its numbers and its pictures. Raises UserError where results are missing."""
    from finetune.compare.chosen import choose
    from finetune.compare.several import compare_several
    from finetune.runs.results import write_csv, write_text

    found: dict[str, Several] = {}
    lines = []
    for target in TARGETS:
        folder = Path(RUNS, "composed", target)
        found[target] = compare_several([choose(name, folder) for name in SETTINGS])
        found[target].plot(output / f"stories_{target}.png")
        lines += [{"target": target, **line} for line in found[target].lines()]
    write_csv(output / "stories.csv", list(lines[-1]), lines)
    parts = [HEAD, _in_short(found)]
    for target, several in found.items():
        parts += [f"## {target.capitalize()}", several.text(), f"![](stories_{target}.png)"]
    parts += ["## Words alone, on MELD's dialogues", MELD, *map(_of_meld, TARGETS)]
    write_text(output / "stories.md", "\n\n".join(parts) + "\n")
    return output / "stories.md"


def _in_short(found: "dict[str, Several]") -> str:
    """UA of each setting for both targets, and their mean, as the challenge ranked by."""
    lines = []
    for name in SETTINGS:
        of_name = [
            list(standing.chosen.row_of.values())
            for target in TARGETS
            for standing in found[target].standings
            if standing.name == name
        ]
        ua = [np.mean([row.ua for row in rows]) for rows in of_name]
        oracle = [np.mean([row.oracle_ua for row in rows]) for rows in of_name]
        shown = (*ua, np.mean(ua), np.mean(oracle))
        lines.append((name, *(f"{100 * value:.1f}" for value in shown)))
    table = markdown_table(("UA in %", *TARGETS, "mean", "mean, by oracle"), lines)
    return f"{table}\n\nChance is 33.3. By oracle: had the test stories chosen among the models."


def _of_meld(target: str) -> str:
    path = Path(RUNS, "meld", target, "table.md")
    if not path.is_file():
        raise UserError(f"no {path}; give --data and --yamnet, without --publish")
    lines = path.read_text(encoding="utf-8").strip().splitlines()
    return f"### {target.capitalize()}\n\n" + "\n".join(x for x in lines if x[:2] != "# ").strip()


HEAD = f"""# Stories: what is heard, what is said, and both

Boateng and Kowatsch (ICMI 2020) tell valence and arousal of elderly people's stories by YAMNet's
embeddings of the sound, sentence embeddings of the words, and both, under classical models: words
alone were best, and fusion did not help. Their corpus cannot be had, so the stories here are
**composed** (`data_pipeline/recipes/stories/composed.py`). Real are the voices, of 22 RAVDESS
actors, and the sentences, of MELD; what joins them is an emotion that both have. A story is two
such clips; there are 438. **Derived**, not rated, are valence and arousal, from the emotion: low
valence is anger, disgust, fear and sadness, medium neutral and surprise, high happy; low arousal is
sadness, medium disgust and neutral, high the others. So the acted voices are stronger than in life,
sound and words err independently, which is the best case for fusion, and the figures are not to be
compared with the paper's.

```sh
{COMMAND} --data ../shared/data --yamnet ../shared/data/weights/yamnet/yamnet.tflite
```

Five folds by actor: test actors, their takes, sentences and dialogues are in no other split. Each
model's parameters come from an inner search that holds out whole actors of train; dev chooses among
the four models."""

MELD = """What one speaker says in a dialogue with one emotion and sentiment is a story here: real
words with labels that were rated, the sentiment as valence; arousal is derived from the emotion as
above. Since labels say which utterances are a story, as they do where a story is given one label,
the figures are above those of single utterances. MELD's own split, which shares speakers and short
sentences; logistic regression on the sentence embeddings; no sound is there."""
