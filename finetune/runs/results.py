"""Result rows: one finished run (setting x fold x seed) each, kept so that nothing can be lost.

    recipes/SETTING-RECIPE.json           how a setting was run, a file a recipe
    protocols/NAME-SHA256.json            the folds, a file a protocol
    runs/SETTING/foldF-seedS-RECIPE/      config.yaml, curve.csv, predictions.csv, with
                                          evaluate_cases=seven cases.json and case_predictions.csv,
                                          then row.json, which marks the run as done; until
                                          then state/, see finetune.training.state
    results.csv                           every row there is, built from all row.json each time

The tasks of an array (array.count) write the folders of their own runs alone, the first one the
recipes and protocols too; `python -m finetune.collect` builds the rest. Other launches may work on
one output folder at once: each file above belongs to one recipe or one run, and what is built from
all rows is built again until it holds all that are there (`settled`). Two launches of the very same
run do it twice.
"""

import csv
import dataclasses
import datetime
import hashlib
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from data_pipeline.errors import UserError
from data_pipeline.shards import atomic_file

Built = TypeVar("Built")


class ResultsError(UserError):
    """A results folder that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class ResultsRow:
    """One split and modality case of one fold x seed of one setting. Shares are 0 to 1."""

    corpus: str
    protocol: str
    """Name and version."""
    fold_file_sha256: str
    fold: int
    setting: str
    system: str = "memobert"
    head: str
    modalities: str
    """What the model may see, in training and in test."""
    case: str = ""
    """What it saw of them here; all of them but for evaluate_cases=seven."""
    split: str = "test"
    """What the scores are of: test, or with evaluate_cases=seven dev too."""
    seed: int
    wa: float
    ua: float
    """Over the classes that the split has, see classes_in_test."""
    macro_f1: float
    wa_low: float | None
    """Bootstrap interval over the split's clips, 95 %; empty for a single clip."""
    wa_high: float | None
    ua_low: float | None
    ua_high: float | None
    macro_f1_low: float | None
    macro_f1_high: float | None
    num_classes: int | None = None
    classes_in_test: int | None = None
    """Classes that have clips in the row's split. Of fewer than num_classes a guess is right more
    often: saying one class always has a UA of 1 / classes_in_test."""
    selection: str
    """How the step was chosen: dev, oracle (on test itself) or last."""
    step: int
    """The step that is reported."""
    selection_ua: float | None
    """UA there on the split that chose; empty for last."""
    oracle_step: int | None = None
    """With selection=dev the step that the test clips would have chosen, by UA, in the training
    that `wa`, `ua` and `macro_f1` are of: with train_on=train+dev the second one, up to `step`.
    Like all of the oracle's it is never an honest number; empty without judge_oracle, with another
    selection, for what learns without steps, and in rows of dev or of fewer modalities."""
    oracle_wa: float | None = None
    oracle_ua: float | None = None
    oracle_macro_f1: float | None = None
    """What test comes to at oracle_step."""
    oracle_gain_ua: float | None = None
    """oracle_ua - ua: by how much a figure chosen on test flatters."""
    train_on: str = "train"
    """train, or train+dev."""
    label_share: float = 1.0
    """Share of the labels of train and dev in use."""
    num_train: int
    """Clips trained on, those of dev among them with train_on=train+dev."""
    num_dev: int
    num_test: int
    shared_speakers: bool
    """True: a speaker may be in training and test; such a row shows mechanics, not accuracy."""
    num_test_pretrained: int | None = None
    """Test clips that the checkpoint was pretrained on, without their labels; empty where it does
    not tell, and for settings that start without one."""
    checkpoint_sha256: str
    """Of the pretrained weights; empty for settings that start without."""
    data_sha256: str
    git_commit: str
    num_processes: int
    recipe: str
    """Digest of everything above that a rerun would have to share, and of the settings."""
    notes: tuple[str, ...] = ()
    """What a reader must know of this fold."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one setting was run, and what a reader of its rows must know beside them."""

    recipe: str
    """Digest of `facts`, as in the rows."""
    setting: str
    variant: str = ""
    """In what it differs from the plain run of its setting: "20 % of the labels"."""
    classes: tuple[str, ...]
    """In the order of the class numbers."""
    protocol: str
    notes: tuple[str, ...]
    """The same for every fold; what is of one fold stands in its rows."""
    facts: dict[str, Any]
    """All that decides a result but fold, seed, code and number of processes."""
    runs: tuple[tuple[int, int], ...] = ()
    """Fold and seed of each run that was asked for last."""
    asked_by: str = ""
    """Digest of the config that asked for them, see finetune.config.config_digest."""
    launched: str = ""
    """UTC, when it was asked for last: of two recipes of a setting the later one is reported."""


def read_recipes(output: str | Path) -> list[Recipe]:
    """The latest recipe of each setting and variant that was run. Raises ResultsError."""
    latest: dict[tuple[str, str], Recipe] = {}
    for recipe in read_every_recipe(output):
        known = latest.setdefault((recipe.setting, recipe.variant), recipe)
        if recipe.launched > known.launched:
            latest[recipe.setting, recipe.variant] = recipe
    return list(latest.values())


def read_every_recipe(output: str | Path) -> list[Recipe]:
    """Those that later ones took the place of too. Raises ResultsError."""
    found = []
    for path in sorted(Path(output).glob("recipes/*.json")):
        try:
            found.append(TypeAdapter(Recipe).validate_json(path.read_bytes()))
        except ValidationError as error:
            raise ResultsError(
                f"{path} is cut, or of another version: {error.errors()[0]['msg']}; remove it and "
                "run again, finished runs are kept"
            ) from error
    return found


def missing_runs(output: str | Path) -> list[Path]:
    """Folders of the runs without a row that the config asked for which was launched last, as tasks
    of an array leave them that were killed. Raises ResultsError."""
    recipes = read_recipes(output)
    last = max(recipes, key=lambda recipe: recipe.launched).asked_by if recipes else ""
    asked = [
        run_folder(output, recipe.setting, fold, seed, recipe.recipe)
        for recipe in recipes
        if recipe.asked_by == last
        for fold, seed in recipe.runs
    ]
    return [folder for folder in asked if not (folder / "row.json").exists()]


def unnoted_runs(output: str | Path) -> list[Path]:
    """Folders of finished runs whose recipe nobody has noted, as the first task of an array does
    before it learns: no table has them."""
    noted = {recipe.recipe for recipe in read_every_recipe(output)}
    return [folder for folder in _finished(output) if folder.name.rpartition("-")[2] not in noted]


def write_recipe(output: str | Path, recipe: Recipe) -> None:
    """Note a recipe that is asked for now. Only the time differs from what others write there."""
    now = datetime.datetime.now(datetime.UTC).isoformat()
    told = dataclasses.asdict(dataclasses.replace(recipe, launched=now))
    path = Path(output) / "recipes" / f"{recipe.setting}-{recipe.recipe}.json"
    write_text(path, json.dumps(told, indent=1, default=str) + "\n")


def recipe_digest(facts: dict[str, Any]) -> str:
    """16 hex digits that change whenever a result could."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_folder(output: str | Path, setting: str, fold: int, seed: int, recipe: str) -> Path:
    """Where one run's files lie."""
    return Path(output) / "runs" / setting / f"fold{fold}-seed{seed}-{recipe}"


def read_row(folder: Path) -> ResultsRow | None:
    """The row of a finished run, None when it is not finished. Raises ResultsError."""
    try:
        (row,) = _read_rows(folder / "row.json")
    except FileNotFoundError:
        return None
    return row


def read_case_rows(folder: Path) -> list[ResultsRow]:
    """The rows that a run with evaluate_cases=seven has beside its row.json; none of another."""
    try:
        return _read_rows(folder / "cases.json")
    except FileNotFoundError:
        return []


def _read_rows(path: Path) -> list[ResultsRow]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        rows = []
        for row in told if isinstance(told, list) else [told]:
            notes = row.pop("notes", ())  # one text before there were rows of cases
            notes = tuple(notes) if isinstance(notes, list) else tuple(filter(None, [notes]))
            rows.append(ResultsRow(**{"case": row.get("modalities", ""), **row}, notes=notes))
        return rows
    except (ValueError, TypeError, AttributeError) as error:
        raise ResultsError(
            f"{path} is no results row: {error}; remove {path.parent} and run again"
        ) from error


def write_row(folder: Path, row: ResultsRow) -> None:
    """Mark the run in `folder` as done."""
    write_text(folder / "row.json", json.dumps(dataclasses.asdict(row), indent=1) + "\n")


def write_case_rows(folder: Path, rows: list[ResultsRow]) -> None:
    """Write the rows beside row.json, before it."""
    text = json.dumps([dataclasses.asdict(row) for row in rows], indent=1)
    write_text(folder / "cases.json", text + "\n")


def read_rows(output: str | Path) -> list[ResultsRow]:
    """One row of each finished run under `output`, by setting, recipe, fold and seed: on test, with
    all modalities in use."""
    rows = [row for row in map(read_row, _finished(output)) if row is not None]
    return sorted(rows, key=_order)


def read_all_rows(output: str | Path) -> list[ResultsRow]:
    """Those of `read_rows`, and those of other splits and modality cases."""
    cases = [row for folder in _finished(output) for row in read_case_rows(folder)]
    return sorted([*read_rows(output), *cases], key=_order)  # sorting keeps a run's own order


def write_results(output: str | Path) -> list[ResultsRow]:
    """Write results.csv from all finished runs; return its rows."""
    names = [field.name for field in dataclasses.fields(ResultsRow)]

    def write(rows: list[ResultsRow]) -> list[ResultsRow]:
        told = ({**dataclasses.asdict(row), "notes": "; ".join(row.notes)} for row in rows)
        write_csv(Path(output) / "results.csv", names, told)
        return rows

    return settled(lambda: read_all_rows(output), write)


def settled(read: Callable[[], Any], build: Callable[[Any], Built]) -> Built:
    """Build from what `read` gives, again until it still gives the same afterwards.

    Whoever replaces a file last, of several at once, has then looked after replacing it: what all
    the others had finished before they replaced it is in there. No lock, which network disks may
    not have.
    """
    found = read()
    while True:
        built = build(found)
        now = read()
        if now == found:
            return built
        found = now


def write_csv(path: Path, names: list[str], rows: Iterable[dict[str, Any]]) -> None:
    """A CSV file, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """A file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(content)


def _finished(output: str | Path) -> list[Path]:
    return sorted(path.parent for path in Path(output).glob("runs/*/*/row.json"))


def _order(row: ResultsRow) -> tuple[str, str, int, int]:
    return row.setting, row.recipe, row.fold, row.seed
