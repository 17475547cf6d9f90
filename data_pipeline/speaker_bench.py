"""Scores the choice of the speaking face on asd_composites, whose truth is exact.

    python -m data_pipeline.speaker_bench PATH_TO_asd_composites --table active_speaker.csv

Each turn of a video is an utterance of its own: it is cut out by the times of labels.json, goes
through decoder, face finder, voice activity and choose_speaker, and is right when the chosen face
lies in the panel of the person who speaks, or when nobody is chosen where the voice comes from
off-screen. Beside the two strategies stand a guess among the visible faces (nobody included) and
the face whose mouth moves most.
"""

import csv
import json
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from data_pipeline.active_speaker import SpeakerChoice, SpeakerSettings, choose_speaker
from data_pipeline.command_line import command_parser
from data_pipeline.faces import FaceFinder, TrackedFace
from data_pipeline.media import open_clip
from data_pipeline.paths import new_file_argument, path_argument
from data_pipeline.schema import Clip
from data_pipeline.settings import STRATEGIES
from data_pipeline.voice import voice_activity

METHODS = (*STRATEGIES, "loudest_mover")
OUTSIDE = -1  # a face in none of the panels: never right, not even where nobody is
Z = 1.96  # two-sided 95 %


class BenchError(ValueError):
    """The folder is not what labels.json of asd_composites describes."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of one video, and what was answered."""

    video: str
    kind: str
    start: float
    """Seconds."""
    end: float
    """Seconds."""
    truth: int | None
    """Panel of the speaker; None is nobody in the picture."""
    num_panels: int
    num_faces: int
    """Tracks found."""
    answers: dict[str, int | None]
    """Method to panel."""
    choice: SpeakerChoice
    """Of the first strategy."""

    def right(self, method: str) -> bool:
        return self.answers[method] == self.truth

    @property
    def chance(self) -> float:
        """Of a guess among the visible people and nobody."""
        return 1 / (self.num_panels + 1)


def read_labels(folder: Path) -> list[dict]:
    """The videos of labels.json, each with the path to its file under "path".

    Raises BenchError: no labels, a file that is not there, an entry without its picture's width.
    """
    path = folder / "labels.json"
    if not path.is_file():
        raise BenchError(f"no {path}; expected the folder asd_composites, with labels.json")
    videos = json.loads(path.read_text(encoding="utf-8"))
    for video in videos:
        places = [
            p for p in (folder / "clips" / video["file"], folder / video["file"]) if p.is_file()
        ]
        if not places:
            raise BenchError(f"{path} names {video['file']}, which is not under {folder}")
        video["path"] = places[0]
        if not isinstance(video.get("width"), int) or video["width"] < 1:
            raise BenchError(
                f"{path}: {video['file']} has width {video.get('width')!r}; expected the pixels "
                "that x0 and x1 of its panels count in"
            )
    return videos


def panel_of(face: TrackedFace, frame_width: int, video: dict) -> int:
    """The panel that holds the middle of the face, or OUTSIDE.

    Boxes are in pixels of the frames as decoded, which are scaled down where the file is tall, and
    panels in pixels of the file: both are brought to shares of the picture's width.
    """
    box_4 = face.track.boxes_F4.mean(axis=0)
    middle = float(box_4[0] + box_4[2]) / 2 / frame_width
    for panel in video["panels"]:
        if panel["x0"] <= middle * video["width"] < panel["x1"]:
            return panel["panel"]
    return OUTSIDE


def run_turn(video: dict, segment: dict, finder: FaceFinder) -> Turn:
    clip = Clip(
        id="turn",
        video=str(video["path"]),
        start=segment["turn_start"],
        end=segment["turn_end"],
    )
    media = open_clip(clip)
    faces = finder.find(media)
    voice = voice_activity(media.sound_T)
    panels = [panel_of(face, media.width, video) for face in faces]
    choices = {
        s: choose_speaker(faces, voice, media.sound_T, SpeakerSettings(strategy=s))
        for s in STRATEGIES
    }
    answers = {s: None if c.index is None else panels[c.index] for s, c in choices.items()}
    counts = choices[STRATEGIES[0]].counts
    loudest = max(range(len(faces)), key=lambda i: counts[i].movement, default=None)
    answers["loudest_mover"] = None if loudest is None else panels[loudest]
    return Turn(
        video=video["file"],
        kind=video["kind"],
        start=segment["turn_start"],
        end=segment["turn_end"],
        truth=segment["active_panel"],
        num_panels=len(video["panels"]),
        num_faces=len(faces),
        answers=answers,
        choice=choices[STRATEGIES[0]],
    )


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927)."""
    if total == 0:
        return 0.0, 1.0
    p = right / total
    middle = (p + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z / (1 + Z**2 / total) * (p * (1 - p) / total + Z**2 / (4 * total**2)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def summary(turns: list[Turn]) -> str:
    """The table by kind, in Markdown."""
    kinds = list(dict.fromkeys(t.kind for t in turns))
    lines = [
        "| kind | turns | " + " | ".join(METHODS) + " | chance |",
        "| --- | --- |" + " --- |" * (len(METHODS) + 1),
    ]
    for kind in [*kinds, "all"]:
        some = [t for t in turns if kind in (t.kind, "all")]
        cells = []
        for method in METHODS:
            right = sum(t.right(method) for t in some)
            low, high = wilson(right, len(some))
            cells.append(f"{right} of {len(some)} ({low:.0%} to {high:.0%})")
        chance = sum(t.chance for t in some)
        lines.append(f"| {kind} | {len(some)} | " + " | ".join(cells) + f" | {chance:.1f} |")
    return "\n".join(lines)


def write_table(turns: list[Turn], path: Path) -> None:
    """One row per turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["video", "kind", "start", "end", "truth", *METHODS, "reason", "score", "num_faces"]
            + ["open_by_face", "change_by_face", "match_share_by_face", "synchrony_by_face"]
        )
        for t in turns:
            c = t.choice.counts
            writer.writerow(
                [t.video, t.kind, t.start, t.end, _panel(t.truth)]
                + [_panel(t.answers[m]) for m in METHODS]
                + [t.choice.reason, f"{t.choice.score:.3f}", t.num_faces]
                + [" ".join(str(x.open) for x in c), " ".join(str(x.change) for x in c)]
                + [" ".join(f"{x.match_share:.2f}" for x in c)]
                + [" ".join("-" if x.synchrony is None else f"{x.synchrony:.2f}" for x in c)]
            )


def _panel(panel: int | None) -> str:
    return {None: "nobody", OUTSIDE: "outside"}.get(panel, str(panel))


def main(argv: list[str] | None = None) -> int:
    parser = command_parser(
        "python -m data_pipeline.speaker_bench",
        __doc__.splitlines()[0],
        "python -m data_pipeline.speaker_bench my/asd_composites --table turns.csv",
    )
    parser.add_argument("folder", type=path_argument, help="asd_composites, with labels.json")
    parser.add_argument("--table", type=new_file_argument, help="CSV to write, a row a turn")
    args = parser.parse_args(argv)
    try:
        videos = read_labels(args.folder)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finder = FaceFinder()
    turns = [run_turn(v, s, finder) for v in videos for s in v["segments"]]
    print(summary(turns))
    for t in turns:
        if not t.right(METHODS[0]):
            synchrony = [c.synchrony and round(c.synchrony, 2) for c in t.choice.counts]
            print(
                f"wrong: {t.video} {t.start:g}-{t.end:g} s ({t.kind}): "
                f"chose {_panel(t.answers[METHODS[0]])}, is {_panel(t.truth)}; "
                f"{t.choice.reason}, synchrony of the faces {synchrony}"
            )
    rate = finder.num_detection_frames / max(finder.detection_seconds, 1e-9)
    print(
        f"{len(turns)} turns; MTCNN {finder.num_detection_frames} frames, {rate:.1f} a second; "
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    )
    if args.table:
        write_table(turns, args.table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
