"""Part 6: from a folder of manifests to the index of a run, and what it takes."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from pretrain.bench.results import Row
from pretrain.scaling import apart, draw_counts, survey_once, write_manifests

CLIPS, SHARDS = 1_000_000, 4_000


def start_up(repeats: int) -> Iterator[Row]:
    """Of rank 0, in a fresh process each time; `python -m pretrain.scaling` tells more."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        shards = Path(folder) / "shards"
        shards.mkdir()
        write_manifests(shards, draw_counts(CLIPS, SHARDS))
        found = [apart(survey_once, str(shards), f"{folder}/index.npz") for _ in range(repeats)]
    for measure in found[0]:
        yield Row.of(
            part="start-up",
            setting=f"{CLIPS:,} clips in {SHARDS:,} shards",
            measure=measure,
            values=[one[measure] for one in found],
        )
