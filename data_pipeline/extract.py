"""Entry of the data stage: clips in, shards out.

python -m data_pipeline.extract --config configs/data/default.yaml clips=my/videos output=runs/x
python -m data_pipeline.extract 'add=[fbank]' output=runs/x   # one stream more, of the same clips
"""

import contextlib
import dataclasses
import errno
import functools
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.command_line import config_from_command_line, leave, run_command
from data_pipeline.config import dump_config
from data_pipeline.extraction.added_streams import AddConfig
from data_pipeline.extraction.added_streams import run as run_add
from data_pipeline.extraction.config import DataConfig
from data_pipeline.runs.ledger import Summary
from data_pipeline.runs.worker_pool import ExtractionError
from data_pipeline.schema import Reject
from data_pipeline.table.clips import load_clips

log = logging.getLogger(__name__)


def run(config: DataConfig) -> Summary | None:
    """Extract what `config` asks for; the summary says how the clips add up.

    None for a task of an array that ends between the first and the last: those write it.
    """
    array_index, array_count = config.array.share()
    rejects: list[Reject] = []
    clips = load_clips(config.clips, rejects)
    # Torch takes seconds: a slip in config or table is told before, and Ctrl-C is heard meanwhile.
    from data_pipeline.doctor import check_quickly
    from data_pipeline.extraction.clip_extractor import load_extractor
    from data_pipeline.extraction.devices import num_workers, resolve_device
    from data_pipeline.runs.executor import execute

    config = dataclasses.replace(config, device=resolve_device(config.device))
    workers = num_workers(config.workers, config.device)
    findings = list(check_quickly(config, clips, workers))
    for finding in findings:
        log.info("%s", finding)
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        raise ExtractionError(
            f"{len(errors)} of the checks above failed, the first: {errors[0].what}"
        )
    with _disk_of(config.output):
        return execute(
            clips,
            rejects,
            Path(config.output).expanduser(),
            functools.partial(load_extractor, config),
            settings=config.settings(),
            config_text=dump_config(config),
            clips_per_shard=config.clips_per_shard,
            num_workers=workers,
            attempts=config.attempts,
            clip_timeout_seconds=config.clip_timeout_seconds,
            num_previews=config.previews,
            array_index=array_index,
            array_count=array_count,
            clips_from=Path(config.clips).expanduser(),
        )


@contextlib.contextmanager
def _disk_of(output: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ExtractionError(
            f"the disk of {output} is full ({error.strerror}); make room there, and the same "
            "command goes on from here"
        ) from error


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="extract", go_on="the same command goes on from here")


def _main(argv: list[str] | None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Read when the workers load numpy and torch.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    words = sys.argv[1:] if argv is None else argv
    if any(word.removeprefix("--").partition("=")[0] == "add" for word in words):
        return _add(words)
    config = config_from_command_line(
        DataConfig,
        words,
        command="python -m data_pipeline.extract",
        about="Clips in, feature shards out. Killed, the same command goes on where it was.\n"
        "`bash launch/extract.sh` is the same; for Slurm there is launch/slurm/extract.sbatch.\n"
        "add=[NAME] output=FOLDER makes one stream more for a finished folder; its settings: "
        "add=[NAME] --help.",
        example="python -m data_pipeline.extract --config configs/data/default.yaml \\\n"
        "      clips=my/videos output=runs/mine require=[speech]",
    )
    summary = run(config)
    if summary is None:
        print(
            "this task's shards are done; the last task to end says how all clips add up, and "
            f"at any time: python -m data_pipeline.summary {shlex.quote(config.output)}"
        )
    else:
        print(describe(summary, config.output))
    return 0


def _add(words: list[str]) -> int:
    """One stream more for a finished folder."""
    config = config_from_command_line(
        AddConfig,
        words,
        command="python -m data_pipeline.extract",
        about="One stream more for a finished extraction, beside its shards; the others are not "
        "made again.\nKilled, the same command goes on where it was.",
        example="python -m data_pipeline.extract 'add=[fbank]' output=runs/mine",
    )
    with _disk_of(config.output):
        for added in run_add(config):
            print(added)
    return 0


def describe(summary: Summary, folder: str) -> str:
    """The end of a run in a few lines."""
    lines = []
    if summary.stage_seconds:
        means = [f"{name} {s['mean']:.3f}" for name, s in summary.stage_seconds.items()]
        lines.append("seconds per clip: " + ", ".join(means))
    if summary.last_run:
        last = summary.last_run
        lines.append(
            f"the last run that had clips to do: {last['clips']} in {last['wall_seconds']:.1f} s "
            f"with {last['workers']} workers, {last['clips_per_second']:.2f} clips/s"
        )
    if summary.reasons:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.reasons.items())
        lines.append(f"rejects: {reasons}; each with its detail in {folder}/rejects.csv")
    if summary.error_shards:
        again = " ".join(f"{folder}/{name}.json" for name in summary.error_shards)
        lines.append(
            f"{summary.reasons['error']} CLIPS ENDED IN AN UNEXPECTED ERROR, a fault of the "
            f"program rather than theirs. To try them again: rm {again}, then the same command"
        )
    lines.append(str(summary))
    if summary.is_complete and not summary.num_samples:
        lines.append("No clip became a sample, so there is nothing to train on.")
    return "\n".join(lines)


if __name__ == "__main__":
    leave(main())
