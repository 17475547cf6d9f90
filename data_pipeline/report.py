"""Pictures and tables of an extraction, from what it left in its folder.

python -m data_pipeline.report runs/mine      # tables; pictures in runs/mine/previews/

report = data_report("runs/mine")             # for a page: plain rows, and paths of pictures
"""

import csv
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

from data_pipeline.command_line import command_parser, run_command  # noqa: E402
from data_pipeline.files.atomic import atomic_file  # noqa: E402
from data_pipeline.paths import path_argument  # noqa: E402
from data_pipeline.runs.ledger import read_summary  # noqa: E402
from data_pipeline.runs.worker_pool import ExtractionError  # noqa: E402
from data_pipeline.shards import list_shards, load_passport, read_shard  # noqa: E402

log = logging.getLogger(__name__)

SPEAKER_COLOR, OTHER_COLOR, SOUND_COLOR = "#00a86b", "#e0a030", "#5b7a99"
MAX_REJECT_ROWS = 50
WIDTH_INCHES = 4.8
"""Of the pictures: so narrow that their letters are still read on a phone."""


@dataclass(frozen=True, kw_only=True)
class RejectRow:
    clip: str
    stage: str
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class StageRow:
    stage: str
    seconds: float
    """Of all clips together, over all workers."""
    seconds_per_clip: float
    """Mean over the clips that came to this stage."""


@dataclass(frozen=True, kw_only=True)
class YieldRow:
    """What the samples hold of the text, or of one stream."""

    modality: str
    samples: int
    """Samples that have it."""
    rows: int
    """Words, or rows of the stream, in all of them."""


@dataclass(frozen=True, kw_only=True)
class ClipPreview:
    title: str
    caption: str
    pictures: list[Path]


@dataclass(frozen=True, kw_only=True)
class DataReport:
    folder: Path
    num_clips: int
    num_samples: int
    num_rejects: int
    reasons: list[tuple[str, int]]
    """Reject reason and count, most frequent first."""
    rejects: list[RejectRow]
    """The first MAX_REJECT_ROWS of them."""
    stages: list[StageRow]
    yields: list[YieldRow]
    clips_per_second: float | None
    """Of the last run that had clips to do; None if that is not known."""
    workers: int | None
    media_seconds: float
    """Length of all clips together."""
    passport: dict[str, Any]
    previews: list[ClipPreview]


def data_report(folder: str | Path) -> DataReport:
    """Read an extraction folder and draw its previews. Raises ExtractionError if it is none."""
    folder = Path(folder)
    summary = read_summary(folder)
    rejects = _read(folder / "rejects.csv", _reject_rows)
    stages = [
        StageRow(stage=name, seconds=s["total"], seconds_per_clip=s["mean"])
        for name, s in summary.stage_seconds.items()
    ]
    last = summary.last_run
    return DataReport(
        folder=folder,
        num_clips=summary.num_clips,
        num_samples=summary.num_samples,
        num_rejects=summary.num_rejects,
        reasons=list(summary.reasons.items()),
        rejects=rejects[:MAX_REJECT_ROWS],
        stages=stages,
        yields=_yields(folder),
        clips_per_second=last["clips_per_second"] if last else None,
        workers=int(last["workers"]) if last else None,
        media_seconds=summary.media_seconds,
        passport=_read(folder / "passport.json", json.loads),
        previews=[*_previews(folder / "previews")],
    )


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    """A file that every extraction writes."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise ExtractionError(
            f"cannot read {path}: {error}; the same extraction command writes it again"
        ) from error


def _reject_rows(text: str) -> list[RejectRow]:
    return [RejectRow(**row) for row in csv.DictReader(io.StringIO(text, newline=""))]


def _previews(folder: Path) -> Iterator[ClipPreview]:
    """Each clip's pictures; what cannot be drawn costs itself only."""
    for path in sorted(folder.glob("*.json")):
        try:
            yield draw_preview(path)
        except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            log.warning("left out a preview, %s cannot be drawn: %r", path, error)


def draw_preview(path: Path) -> ClipPreview:
    """Draw the pictures of a preview, beside its JSON at `path`: frames, crops, sound."""
    about = json.loads(path.read_text(encoding="utf-8"))
    pictures = []
    if about["frames"]:
        pictures.append(_draw_strip(about, path))
    if about.get("crops"):  # an extraction of an earlier version kept none
        pictures.append(_draw_crops(about, path))
    pictures.append(_draw_sound(about, path))
    kept = about["outcome"] == "sample"
    tracks = f"{len(about['tracks'])} face track{'s' * (len(about['tracks']) != 1)}"
    caption = [f"{about['duration']:.1f} s", tracks]
    if about["label"]:
        caption.insert(0, f"label {about['label']}")
    if about.get("region"):  # an extraction of an earlier version knew none
        caption.append(f"region {about['region']}")
    if about["text"]:
        caption.append(f"“{about['text']}”")
    caption.append("sample" if kept else f"reject, {about['outcome']}")
    return ClipPreview(title=about["clip"], caption=" · ".join(caption), pictures=pictures)


def _draw_strip(about: dict[str, Any], path: Path) -> Path:
    """The kept frames side by side, each face boxed, the chosen speaker's in green."""
    images = [
        plt.imread(path.with_name(f"{path.stem}-{n}.jpg")) for n in range(len(about["frames"]))
    ]
    height, width = images[0].shape[:2]
    columns = min(3, len(images))  # what a phone can still show
    num_rows = -(-len(images) // columns)
    size = WIDTH_INCHES / columns
    figure, axes = plt.subplots(
        num_rows,
        columns,
        figsize=(WIDTH_INCHES, (size * height / width + 0.3) * num_rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set_axis_off()
    frames = zip(axes.flat, images, about["frames"], strict=False)  # the last row may not be full
    for n, (axis, image, frame) in enumerate(frames):
        axis.imshow(image)
        axis.set_title(f"{frame['seconds']:.1f} s", fontsize=10)
        for t, track in enumerate(about["tracks"]):
            if str(n) not in track["boxes"]:
                continue
            x0, y0, x1, y1 = track["boxes"][str(n)]
            speaks = t == about["speaker"]
            color = SPEAKER_COLOR if speaks else OTHER_COLOR
            box = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=color, lw=2 + speaks)
            axis.add_patch(box)
            name = f"{t} speaks" if speaks else f"{t}"
            style = {"color": "white", "fontsize": 8, "backgroundcolor": color, "clip_on": True}
            axis.text(x0, max(y0, 0.06 * height), name, va="bottom", **style).get_bbox_patch().set(
                boxstyle="square,pad=0.15", edgecolor=color
            )
    return _save(figure, path.with_name(f"{path.stem}-strip.png"))


def _draw_crops(about: dict[str, Any], path: Path) -> Path:
    """The speaker's face as the encoders read it, at the times of the frames."""
    strip_HW = plt.imread(path.with_name(f"{path.stem}-{len(about['frames'])}.jpg"))
    size, seconds = about["crops"]["size"], about["crops"]["seconds"]
    figure, axes = plt.subplots(
        1,
        len(seconds),
        figsize=(WIDTH_INCHES, WIDTH_INCHES / max(6, len(seconds)) + 0.55),
        squeeze=False,
        layout="constrained",
    )
    for n, (axis, at) in enumerate(zip(axes[0], seconds, strict=True)):
        crop_HW = strip_HW[:, n * size : (n + 1) * size]
        axis.imshow(crop_HW, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(f"{at:.1f} s", fontsize=9)
        axis.set_axis_off()
    figure.suptitle(f"what the encoders of faces read: {size} x {size} pixels", fontsize=9)
    return _save(figure, path.with_name(f"{path.stem}-crops.png"))


def _draw_sound(about: dict[str, Any], path: Path) -> Path:
    """Waveform with the voice shaded, and the mouth movement of each face below it."""
    ratios = (3, 2) if about["tracks"] else (3,)
    figure, axes = plt.subplots(
        len(ratios),
        1,
        figsize=(WIDTH_INCHES, 0.4 + 0.55 * sum(ratios)),
        sharex=True,
        squeeze=False,
        layout="constrained",
        height_ratios=ratios,
    )
    names = ("sound", "movement")[: len(ratios)]
    sound, mouth = axes[0, 0], axes[-1, 0]  # one and the same where there is no face
    wave = about["waveform"]
    if wave is None:
        sound.text(0.5, 0.5, "no sound", transform=sound.transAxes, ha="center", va="center")
    else:
        peak = np.array(wave["peak"])
        sound.fill_between(wave["seconds"], -peak, peak, color=SOUND_COLOR, lw=0, label="sound")
    for n, (start, end) in enumerate(about["voice"]):
        label = "voice" if n == 0 else None
        sound.axvspan(start, end, color=SPEAKER_COLOR, alpha=0.18, lw=0, label=label)
    for t, track in enumerate(about["tracks"]):
        speaks = t == about["speaker"]
        mouth.plot(
            *_with_gaps(track["seconds"], track["mouth_movement"]),
            color=SPEAKER_COLOR if speaks else OTHER_COLOR,
            lw=1.6 if speaks else 1.0,
            ls="-" if speaks else ("-", "--", ":", "-.")[t % 4],
            label=f"mouth of face {t}" + (", who speaks" if speaks else ""),
        )
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name, fontsize=9)
        axis.set_yticks([])
        axis.spines[["top", "right", "left"]].set_visible(False)
        handles, labels = axis.get_legend_handles_labels()
        if handles:
            axis.legend(
                handles[:4],
                labels[:4],
                loc="lower right",
                bbox_to_anchor=(1, 0.95),
                ncols=2,
                fontsize=8,
                frameon=False,
            )
    mouth.set_xlim(0, about["duration"])
    mouth.set_xlabel("seconds", fontsize=9)
    return _save(figure, path.with_name(f"{path.stem}-sound.png"))


def _with_gaps(seconds: list[float], values: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """The curve, cut where no frame was for half a second."""
    x, y = np.array(seconds), np.array(values)
    gaps = np.flatnonzero(np.diff(x) > 0.5) + 1
    return np.insert(x, gaps, np.nan), np.insert(y, gaps, np.nan)


def _save(figure: Any, path: Path) -> Path:
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=110)
    plt.close(figure)
    return path


def _yields(folder: Path) -> list[YieldRow]:
    samples = {"text": 0} | dict.fromkeys(load_passport(folder), 0)
    rows = dict(samples)
    for tar in list_shards(folder):
        for sample in read_shard(tar):
            held = {name: len(stream) for name, stream in sample.streams.items()}
            if sample.words:
                held["text"] = len(sample.words)
            for name, count in held.items():
                samples[name] += 1
                rows[name] += count
    return [YieldRow(modality=name, samples=samples[name], rows=rows[name]) for name in samples]


def describe(report: DataReport) -> str:
    """The tables of a report as text."""
    lines = [
        f"clips {report.num_clips} = samples {report.num_samples} + rejects {report.num_rejects}",
        "",
        f"{'modality':<16}{'samples':>9}{'rows':>10}",
        *(f"{y.modality:<16}{y.samples:>9}{y.rows:>10}" for y in report.yields),
        "",
        f"{'stage':<16}{'seconds':>9}{'a clip':>10}",
        *(f"{s.stage:<16}{s.seconds:>9.1f}{s.seconds_per_clip:>10.3f}" for s in report.stages),
    ]
    if report.clips_per_second is not None:
        lines.append(f"{report.clips_per_second:.2f} clips/s with {report.workers} workers")
    if report.reasons:
        lines += ["", f"{'reject':<28}{'clips':>6}"]
        lines += [f"{reason:<28}{count:>6}" for reason, count in report.reasons]
    if report.previews:
        lines += ["", f"pictures of {len(report.previews)} clips in {report.folder / 'previews'}"]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="report")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m data_pipeline.report",
        "Tables of an extraction; its pictures go to the folder's previews/.",
        "python -m data_pipeline.report runs/mine",
    )
    parser.add_argument("folder", type=path_argument, help="output= of an extraction")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    print(describe(data_report(args.folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
