"""Entry of the data stage: clips in, shards out.

python -m data_pipeline.extract --config configs/data/default.yaml clips=my/videos output=runs/x
"""

import errno
import functools
import logging
import os
import sys
from pathlib import Path

from data_pipeline.clips import ClipTableError, load_clips
from data_pipeline.command_line import config_from_command_line
from data_pipeline.config import ConfigError, dump_config
from data_pipeline.extract_config import DataConfig, num_workers
from data_pipeline.ledger import Summary
from data_pipeline.schema import Reject, SchemaError
from data_pipeline.worker_pool import ExtractionError

log = logging.getLogger(__name__)


def run(config: DataConfig) -> Summary:
    """Extract what `config` asks for; the summary says how the clips add up."""
    rejects: list[Reject] = []
    clips = load_clips(config.clips, rejects)
    # Torch takes seconds: a slip in config or table is told before, and Ctrl-C is heard meanwhile.
    from data_pipeline.clip_extractor import load_extractor
    from data_pipeline.doctor import check_quickly
    from data_pipeline.executor import execute

    workers = num_workers(config)
    findings = list(check_quickly(config, clips, workers))
    for finding in findings:
        log.info("%s", finding)
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        raise ExtractionError(f"{len(errors)} of the checks above failed")
    try:
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
            array_index=config.array.index,
            array_count=config.array.count,
            clips_from=Path(config.clips).expanduser(),
        )
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ExtractionError(
            f"the disk of {config.output} is full ({error.strerror}); make room there, and the "
            "same command goes on from here"
        ) from error


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Read when the workers load numpy and torch.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        config = config_from_command_line(
            DataConfig,
            argv,
            command="python -m data_pipeline.extract",
            about="Clips in, feature shards out. Killed, the same command goes on where it was.\n"
            "`bash launch/extract.sh` is the same, and takes its share of a Slurm array.",
            example="python -m data_pipeline.extract --config configs/data/default.yaml \\\n"
            "      clips=my/videos output=runs/mine require=[speech]",
        )
        summary = run(config)
    except KeyboardInterrupt:
        print("extract: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (ConfigError, ClipTableError, ExtractionError, SchemaError, OSError) as error:
        print(f"extract: {error}", file=sys.stderr)
        return 1
    print(describe(summary, config.output))
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
    sys.exit(main())
