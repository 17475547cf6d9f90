"""The files of one run of a results folder."""

from pathlib import Path

import pandas as pd

from finetune.runs.results import ResultsRow, run_folder


def read_table(folder: Path, row: ResultsRow, name: str) -> pd.DataFrame:
    """A table of one run."""
    path = folder_of(folder, row) / name
    return pd.read_csv(path, keep_default_na=False)  # "None" and "NA" may be classes


def folder_of(folder: Path, row: ResultsRow) -> Path:
    """Of one run of the results folder `folder`."""
    return run_folder(folder, row.setting, row.fold, row.seed, row.recipe)
