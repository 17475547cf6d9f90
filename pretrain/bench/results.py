"""Numbers of the benchmark, as a CSV and as a page."""

import csv
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data_pipeline.markdown import markdown_table

COLUMNS = ("part", "setting", "measure", "median", "least", "most", "repeats", "hardware")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measure, over its repeats."""

    part: str
    setting: str
    measure: str
    median: float
    least: float
    most: float
    repeats: int

    @classmethod
    def of(cls, part: str, setting: str, measure: str, values: Sequence[float]) -> "Row":
        return cls(
            part=part,
            setting=setting,
            measure=measure,
            median=statistics.median(values),
            least=min(values),
            most=max(values),
            repeats=len(values),
        )


def hardware(device: torch.device) -> str:
    """What it ran on, in one line."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        named = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
        model = named[0] if named else model
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{model}, {os.cpu_count()} cores, {capability}, torch {torch.__version__}"


def write_csv(path: Path, rows: Sequence[Row], on: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for r in rows:
            numbers = [f"{value:.4g}" for value in (r.median, r.least, r.most)]
            writer.writerow((r.part, r.setting, r.measure, *numbers, r.repeats, on))


def as_markdown(rows: Sequence[Row]) -> str:
    """A table for each part: a line a measure, a column a setting."""
    text = []
    for part in dict.fromkeys(row.part for row in rows):
        settings = list(dict.fromkeys(row.setting for row in rows if row.part == part))
        measures = dict.fromkeys(row.measure for row in rows if row.part == part)
        cells = {(row.setting, row.measure): row for row in rows if row.part == part}
        table = [(m, *(_cell(cells.get((s, m))) for s in settings)) for m in measures]
        text.append(markdown_table((part, *settings), table))
    return "\n\n".join(text)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row.repeats == 1:
        return f"{row.median:.3g}"
    return f"{row.median:.3g} ({row.least:.3g} to {row.most:.3g})"
