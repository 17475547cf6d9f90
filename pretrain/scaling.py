"""What many shards cost: start-up, memory, quality of the shuffle, work of each rank.

    python -m pretrain.scaling
    python -m pretrain.scaling --clips 10000000 --shards 100000 --repeats 1

It writes a folder of manifests as an extraction leaves them (the tars are empty, nobody opens
them), surveys it as rank 0 does, hands the index to a fresh process as to another rank, and removes
the folder. Beside it stands what each rank did before there was an index: three readings of every
manifest, every id as a string, and an order of two numbers a clip. Then it lays out two epochs and
holds the order against a uniform shuffle of the same clips.
"""

import argparse
import csv
import hashlib
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.errors import UserError
from data_pipeline.markdown import markdown_table
from data_pipeline.schema import FeatureSpec, ShardManifest, passport_to_json
from data_pipeline.shards import list_shards, load_passport, read_manifest, shard_name
from pretrain.config import DataSettings
from pretrain.data.clip_index import DIGEST_BYTES, ClipIndex
from pretrain.data.order import ClipOrder
from pretrain.data.shuffle import Pool, quality, reads_by_last_use, spread, whole_epoch
from pretrain.data.survey import RunClips, survey_shards

CLIPS_PER_RECORDING = 1000
"""As of a film."""
LAYOUTS = ((1, 32, 640), (8, 32, 640), (8, 640, 640), (64, 64, 640), (512, 512, 4096))
"""Ranks, lanes, clips of a step: the reference's, on one and eight; with a lane for every clip of a
step; on as many ranks as lanes; and on so many that a step must be larger."""
SEED = 1


class ScalingError(UserError):
    """Sizes that make no folder of shards."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number."""

    part: str
    setting: str
    measure: str
    value: float
    spread: float = 0.0
    """Largest less smallest of the repeats."""


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="scaling")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m pretrain.scaling",
        "Start-up, memory, shuffle and spread of work of many shards, as a table and a CSV.",
        "python -m pretrain.scaling --clips 10000000 --shards 100000 --repeats 1",
    )
    parser.add_argument("--clips", type=int, default=1_000_000, help="of all shards together")
    parser.add_argument("--shards", type=int, default=10_000, help="at most a million")
    parser.add_argument(
        "--repeats", type=int, default=3, help="of what is timed; the median counts"
    )
    parser.add_argument(
        "--in-memory", action="store_true", help="write and read no manifest: no start-up times"
    )
    parser.add_argument(
        "--csv", type=Path, default=Path("runs/scaling.csv"), help="where the numbers go"
    )
    options = parser.parse_args(argv)
    if not 1 <= options.shards <= min(options.clips // 2, 10**6) or options.repeats < 1:
        raise ScalingError(
            f"--clips {options.clips} --shards {options.shards} --repeats {options.repeats}: "
            "expected at least one shard and one repeat, two clips a shard, and no more than a "
            "million shards"
        )
    counts_S = draw_counts(options.clips, options.shards)
    rows = [] if options.in_memory else start_up(counts_S, options.repeats)
    rows += memory(counts_S) if options.in_memory else []
    rows += mixing(counts_S) + work(counts_S)
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    write_csv(options.csv, rows)
    print(as_markdown(options, rows))
    return 0


def draw_counts(num_clips: int, num_shards: int) -> np.ndarray:
    """[S] int32: clips of each shard, within a fifth of the mean: an extraction has rejects."""
    mean = num_clips // num_shards
    rng = np.random.default_rng(SEED)
    counts_S = rng.integers(max(1, mean - mean // 5), mean + 1, size=num_shards)
    missing = num_clips - int(counts_S.sum())
    counts_S += missing // num_shards
    counts_S[: missing % num_shards] += 1
    return counts_S.astype(np.int32)


def write_manifests(folder: Path, counts_S: np.ndarray) -> None:
    """Manifests of about 60 bytes a clip, as write_shard leaves them, and empty tars."""
    spec = FeatureSpec(
        name="scaling",
        weights_sha256="0" * 64,
        layer=-1,
        pooling=3,
        rate_hz=50 / 3,
        width=768,
    )
    manifest = ShardManifest(
        num_samples=0,
        num_bytes=0,
        sha256="@sha256",
        task="scaling",
        passport=passport_to_json(dict.fromkeys(("face", "face_probs", "speech"), spec)),
        versions={"torch": "2"},
        samples=["@ids"],
        rejects=[],
        digests=["@digests"],
    )
    text = manifest.to_json()  # once: json writes indented text at a hundredth of the disk's speed
    rng = np.random.default_rng(SEED)
    clip = 0
    for number, count in enumerate(counts_S.tolist()):
        numbers = (divmod(n, CLIPS_PER_RECORDING) for n in range(clip, clip + count))
        ids = [f"scaling-film{film:06d}-{1000 * second:06d}" for film, second in numbers]
        digests, clip = rng.bytes(8 * count).hex(), clip + count
        hexes = [digests[at : at + 16] for at in range(0, len(digests), 16)]
        name = shard_name(number)
        filled = text.replace("@sha256", hashlib.sha256(name.encode()).hexdigest())
        filled = filled.replace("@ids", '",\n  "'.join(ids))
        filled = filled.replace("@digests", '",\n  "'.join(hexes))
        (folder / f"{name}.json").write_text(filled)
        (folder / f"{name}.tar").touch()


def start_up(counts_S: np.ndarray, repeats: int) -> list[Row]:
    """Old and new by turns, each in a process of its own."""
    old: list[dict[str, float]] = []
    new: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        shards = Path(folder) / "shards"
        shards.mkdir()
        write_manifests(shards, counts_S)
        for _ in range(repeats):
            new.append(apart(survey_once, str(shards), str(Path(folder) / "index.npz")))
            new[-1] |= apart(hold_index, str(Path(folder) / "index.npz"))
            old.append(apart(every_id, str(shards)))
    return _rows("before: every id", old) + _rows("index", new)


def _rows(setting: str, found: list[dict[str, float]]) -> list[Row]:
    """Of the repeats of one measurement."""
    rows = []
    for measure in found[0]:
        values = [one[measure] for one in found]
        about = {"part": "start-up", "setting": setting, "measure": measure}
        width = max(values) - min(values)
        rows.append(Row(**about, value=statistics.median(values), spread=width))
    return rows


def memory(counts_S: np.ndarray) -> list[Row]:
    """Of an index of such shards that no manifest stands behind."""
    num_shards = len(counts_S)
    none = np.zeros(0, dtype=np.int32)
    digests = np.random.default_rng(SEED).bytes(DIGEST_BYTES * num_shards)
    index = ClipIndex(
        folders=("scaling",),
        folder_S=np.zeros(num_shards, dtype=np.uint16),
        number_S=np.arange(num_shards, dtype=np.int32),
        counts_S=counts_S,
        digests_SD=np.frombuffer(digests, dtype=np.uint8).reshape(num_shards, DIGEST_BYTES),
        parts_P=none,
        rows_R=none,
    )
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        path = str(Path(folder) / "index.npz")
        np.savez(path, **RunClips(train=index, held_out=index, passport={}).to_arrays())
        return _rows("index", [apart(hold_index, path)])


def apart(work: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """`work(*arguments)` in a fresh process, whose memory nothing else has been in."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(work, *arguments).result()


def survey_once(folder: str, index_path: str) -> dict[str, float]:
    """Rank 0's start; the index is left in `index_path`."""
    before, began, busy = peak_mb(), time.perf_counter(), time.process_time()
    survey = survey_shards(DataSettings(shards=[folder]), {"face", "speech"})
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    arrays = survey.clips.to_arrays()
    np.savez(index_path, **arrays)
    return {
        "s, rank 0 to its index": seconds,
        "s of a CPU for it": busy,
        "MB, rank 0 at its peak": peak_mb() - before,
        "MB, to each other rank": sum(array.nbytes for array in arrays.values()) / 1e6,
    }


def hold_index(index_path: str) -> dict[str, float]:
    """Another rank's index, two epochs' orders, and the time of a place."""
    before, began = resident_mb(), time.perf_counter()
    with np.load(index_path, allow_pickle=False) as arrays:
        clips = RunClips.from_arrays(dict(arrays))
    seconds, index_mb = time.perf_counter() - began, resident_mb() - before
    order = ClipOrder(clips.train.counts_S, SEED)
    for epoch in (0, 1):
        order.shards(epoch)
    both_mb = resident_mb() - before
    began = time.perf_counter()
    places = min(20_000, order.num_clips)
    for position in range(places):
        order.place(0, position)
    return {
        "s, another rank to its index": seconds,
        "MB, index on a rank": index_mb,
        "MB, orders of two epochs": both_mb - index_mb,
        "us, a clip's place": 1e6 * (time.perf_counter() - began) / places,
    }


def every_id(folder: str) -> dict[str, float]:
    """What each rank did before, its choice of held-out clips aside: the plain twin of survey_once
    and hold_index."""
    before, began, busy = resident_mb(), time.perf_counter(), time.process_time()
    load_passport([folder], {"face", "speech"})
    shards = []
    for tar in list_shards(folder):
        ids = read_manifest(tar.with_suffix(".json")).samples
        shards.append((tar, np.arange(len(ids)), ids))
    sha256 = {read_manifest(tar.with_suffix(".json")).sha256 for tar, _, _ in shards}
    assert len(sha256) == len(shards)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    index_mb = resident_mb() - before
    hashlib.sha256(json.dumps([ids for _, _, ids in shards]).encode()).hexdigest()
    began = time.perf_counter()
    orders = []
    for epoch in (0, 1):
        rng = np.random.default_rng((SEED, epoch))
        parts = []
        for shard in rng.permutation(len(shards)):
            inside = rng.permutation(len(shards[shard][2]))
            parts.append(np.stack([np.full_like(inside, shard), inside], axis=1))
        orders.append(np.concatenate(parts))
    del parts
    return {
        "s, every rank to its index": seconds,
        "s of a CPU for it": busy,
        "MB, index on a rank": index_mb,
        "MB, orders of two epochs": sum(order.nbytes for order in orders) / 1e6,
        "s, to draw them": time.perf_counter() - began,
    }


def resident_mb() -> float:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_mb() -> float:
    """Of this process, at most so far. Not ru_maxrss: a process takes its parent's over."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def mixing(counts_S: np.ndarray) -> list[Row]:
    """Ours and a uniform shuffle, for each layout that an epoch has a step of."""
    pool, order = Pool.of(counts_S, CLIPS_PER_RECORDING), ClipOrder(counts_S, SEED)
    ours = [whole_epoch(order, epoch) for epoch in (0, 1)]
    rng = np.random.default_rng(SEED)
    uniform = [rng.permutation(order.num_clips).astype(np.int32) for _ in range(2)]
    rows = []
    for lanes, batch in dict.fromkeys((lanes, batch) for _, lanes, batch in LAYOUTS):
        if order.num_clips < 2 * batch:
            continue
        for name, epochs in (("ours", ours), ("uniform", uniform)):
            setting = f"{lanes} lanes, {batch} a step: {name}"
            for measure, value in quality(*epochs, pool, lanes, batch).items():
                rows.append(Row(part="shuffle", setting=setting, measure=measure, value=value))
    return rows


def work(counts_S: np.ndarray) -> list[Row]:
    """Of each layout whose ranks all have a shard and whose lanes all have a step's clips."""
    order = ClipOrder(counts_S, SEED)
    rows = []
    for ranks, lanes, batch in LAYOUTS:
        if ranks > len(counts_S) or batch > order.num_clips:
            continue
        found = spread(order, 0, lanes, ranks)
        before = reads_by_last_use(order, 0, lanes, ranks, batch)
        found["before: shards read by rank 0"] = before
        setting = f"{ranks} ranks, {lanes} lanes"
        rows += [Row(part="work", setting=setting, measure=m, value=v) for m, v in found.items()]
    return rows


def write_csv(path: Path, rows: list[Row]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("part", "setting", "measure", "value", "spread"))
        for row in rows:
            numbers = (f"{row.value:.6g}", f"{row.spread:.3g}")
            writer.writerow((row.part, row.setting, row.measure, *numbers))


def as_markdown(options: argparse.Namespace, rows: list[Row]) -> str:
    """A table for each part: a line a measure, a column a setting."""
    text = [
        f"# {options.clips} clips in {options.shards} shards",
        "",
        f"{os.cpu_count()} CPUs ({platform.machine()}), {options.repeats} repeats: the median, "
        "and half of what lies between least and most. Fresh processes; MB are 10^6 bytes.",
    ]
    for part in dict.fromkeys(row.part for row in rows):
        settings = dict.fromkeys(row.setting for row in rows if row.part == part)
        measures = dict.fromkeys(row.measure for row in rows if row.part == part)
        cells = {(row.setting, row.measure): row for row in rows if row.part == part}
        table = [(m, *(_cell(cells.get((s, m))) for s in settings)) for m in measures]
        text += ["", markdown_table((part, *settings), table)]
    return "\n".join(text)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    number = f"{row.value:.0f}" if row.value >= 1000 else f"{row.value:.4g}"
    return number + (f" ± {row.spread / 2:.2g}" if row.spread else "")


if __name__ == "__main__":
    sys.exit(main())
