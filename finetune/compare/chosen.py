"""What A and B of a comparison stand for: the finished runs of one setting.

Both are given as SETTING, or the digest of its recipe, of a results folder, or as FOLDER:SETTING.
"""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.paths import expanded
from finetune.runs.results import (
    Recipe,
    ResultsRow,
    read_every_recipe,
    read_recipes,
    read_rows,
    run_folder,
)

Key = tuple[int, int]
"""Fold and seed."""


class CompareError(UserError):
    """Two systems that cannot be compared."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What A or B stands for."""

    folder: Path
    """Of results."""
    recipe: Recipe
    row_of: dict[Key, ResultsRow]

    @property
    def name(self) -> str:
        variant = f" ({self.recipe.variant})" if self.recipe.variant else ""
        return self.recipe.setting + variant

    def said(self, key: Key) -> dict[str, tuple[str, str]]:
        """Clip to truth and prediction, of one run."""
        row = self.row_of[key]
        folder = run_folder(self.folder, row.setting, row.fold, row.seed, row.recipe)
        with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
            return {r["clip"]: (r["truth"], r["prediction"]) for r in csv.DictReader(file)}


def choose(name: str, results: Path) -> Chosen:
    """The runs that `name` stands for: a setting, or digest of a recipe, of the folder `results`,
    or of a folder of its own before a colon. Raises CompareError."""
    folder, _, wanted = name.rpartition(":")
    folder = expanded(Path(folder)) if folder else results
    if not (folder / "recipes").is_dir():
        raise CompareError(
            f"{name}: {folder} holds no finetuning results (no recipes/ in it); give the `output` "
            "of a finetuning by --results FOLDER, or before the name, FOLDER:SETTING"
        )
    recipes = read_recipes(folder)
    found = [r for r in recipes if r.setting == wanted]
    found = [r for r in found if not r.variant] or found  # the plain run bears the bare name
    if not found and len(wanted) >= 6:
        found = [r for r in read_every_recipe(folder) if r.recipe.startswith(wanted)]
    if len(found) != 1:
        known = ", ".join(
            f"{r.setting} ({', '.join(filter(None, (r.variant, r.recipe)))})" for r in recipes
        )
        what = "no setting" if not found else "more than one variant"
        raise CompareError(
            f"{name}: {what} of that name in {folder}; there are: {known}. Give the name of a "
            "setting or, where it was run in several ways, the digest of one (recipes/)"
        )
    (recipe,) = found
    rows = [row for row in read_rows(folder) if row.recipe == recipe.recipe]
    if not rows:
        raise CompareError(f"{name}: no run of it in {folder} is finished; run it first")
    row_of = {(row.fold, row.seed): row for row in rows}
    return Chosen(folder=folder, recipe=recipe, row_of=row_of)


def told_apart(several: Sequence[Chosen]) -> tuple[str, ...]:
    """Their names; with the folder where there are several, with the recipe where names agree."""
    one_folder = len({x.folder for x in several}) == 1
    names = [x.name if one_folder else f"{x.folder}:{x.name}" for x in several]
    count = Counter(names)
    return tuple(
        f"{name} {x.recipe.recipe[:8]}" if count[name] > 1 else name
        for name, x in zip(names, several, strict=True)
    )
