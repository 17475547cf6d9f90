"""Scores the choice of the speaking face on turns whose truth is exact.

    python -m data_pipeline.speaker.bench PATH_TO_asd_composites --table active_speaker.csv
    python -m data_pipeline.speaker.bench runs/speaker_turns --table turns.csv \\
        --network weights/light_asd/pretrain_AVA_CVPR.model

The folder holds videos and labels.json: asd_composites, or what data_pipeline.speaker.turns makes.
Each turn of a video is an utterance of its own: it is cut out by the times of labels.json, goes
through decoder, face finder, voice activity and choose_speaker, and is right when the chosen face
lies in the panel of the person who speaks, or when nobody is chosen where the voice comes from
off-screen. Beside the two strategies stand a guess among the visible faces (nobody included), the
face whose mouth moves most, and, for each --network, that network alone at its own zero and the
two evidences together.
"""

import csv
import json
import os
import platform
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binomtest

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.errors import UserError
from data_pipeline.faces.finder import FaceFinder, TrackedFace
from data_pipeline.markdown import markdown_table
from data_pipeline.media.clip_media import open_clip
from data_pipeline.paths import new_file_argument, path_argument
from data_pipeline.schema import Clip
from data_pipeline.settings import STRATEGIES, SpeakerSettings
from data_pipeline.speaker.active_speaker import (
    FaceCounts,
    SpeakerChoice,
    count_face,
    decide,
    network_log_odds,
)
from data_pipeline.speaker.network import load_evidence
from data_pipeline.speaker.voice import VoiceActivity, voice_activity

METHODS = (*STRATEGIES, "loudest_mover")
OUTSIDE = -1  # a face in none of the panels: never right, not even where nobody is


class BenchError(UserError):
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
    panels: list[int]
    """Of each face."""
    people: list[str]
    """Of each panel, left to right."""
    voice: str = ""
    """Who is heard, where the labels say."""
    group: str = ""
    networks: dict[str, list[float | None]]
    """Network to the log odds of each face."""

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
    if not any(video.get("segments") for video in videos):
        raise BenchError(f"{path} has no turn; expected a list of videos with segments")
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


def run_turn(
    video: dict, segment: dict, finder: FaceFinder, networks: dict[str, str] | None = None
) -> Turn:
    """Decode, find, measure and judge one turn; `networks` is name to weights."""
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
    return judge(video, segment, faces, panels, voice, media.sound_T, networks or {})


def judge(
    video: dict,
    segment: dict,
    faces: list[TrackedFace],
    panels: list[int],
    voice: VoiceActivity,
    sound_T: np.ndarray | None,
    networks: dict[str, str],
) -> Turn:
    """What each method answers; each face is measured once."""
    counts = [count_face(face, voice, sound_T, SpeakerSettings()) for face in faces]
    choices = {s: decide(counts, voice, sound_T, SpeakerSettings(strategy=s)) for s in STRATEGIES}
    chosen = {s: c.index for s, c in choices.items()}
    chosen["loudest_mover"] = max(range(len(faces)), key=lambda i: counts[i].movement, default=None)
    odds: dict[str, list[float | None]] = {}
    for name, path in networks.items():
        settings = SpeakerSettings(network=path)
        heard = [
            replace(c, network=network_log_odds(face, voice, sound_T, path))
            for c, face in zip(counts, faces, strict=True)
        ]
        odds[name] = [c.network for c in heard]
        chosen[name] = network_alone(heard)
        chosen[f"synchrony+{name}"] = decide(heard, voice, sound_T, settings).index
    return Turn(
        video=video["file"],
        kind=video["kind"],
        start=segment["turn_start"],
        end=segment["turn_end"],
        truth=segment["active_panel"],
        num_panels=len(video["panels"]),
        num_faces=len(faces),
        answers={m: None if i is None else panels[i] for m, i in chosen.items()},
        choice=choices[STRATEGIES[0]],
        panels=panels,
        people=[p["person"] for p in video["panels"]],
        voice=segment.get("voice_person", ""),
        group=segment.get("group", ""),
        networks=odds,
    )


def network_alone(counts: list[FaceCounts]) -> int | None:
    """The face with the highest log odds, if they are for it, as the networks' authors decide."""
    best = max(
        (i for i, c in enumerate(counts) if c.network is not None),
        key=lambda i: counts[i].network,
        default=None,
    )
    return best if best is not None and counts[best].network > 0 else None


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927)."""
    if total == 0:
        return 0.0, 1.0
    low, high = binomtest(right, total).proportion_ci(method="wilson")
    return float(low), float(high)


def summary(turns: list[Turn]) -> str:
    """The table by kind, in Markdown."""
    kinds = list(dict.fromkeys(t.kind for t in turns))
    methods = list(turns[0].answers)
    lines = []
    for kind in [*kinds, "all"]:
        some = [t for t in turns if kind in (t.kind, "all")]
        cells = []
        for method in methods:
            right = sum(t.right(method) for t in some)
            low, high = wilson(right, len(some))
            cells.append(f"{right} of {len(some)} ({low:.0%} to {high:.0%})")
        lines.append((kind, len(some), *cells, f"{sum(t.chance for t in some):.1f}"))
    return markdown_table(("kind", "turns", *methods, "chance"), lines)


def write_table(turns: list[Turn], path: Path) -> None:
    """One row per turn; what is measured of several faces stands in one cell, blanks between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    methods, networks = list(turns[0].answers), list(turns[0].networks)
    by_face = ["panel", "open", "change", "match_share", "movement", "synchrony", *networks]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["video", "kind", "group", "people", "voice", "start", "end", "truth", *methods]
            + ["reason", "score", "num_faces", *(f"{name}_by_face" for name in by_face)]
        )
        for t in turns:
            c = t.choice.counts
            writer.writerow(
                [t.video, t.kind, t.group, " ".join(t.people), t.voice, t.start, t.end]
                + [_panel(t.truth), *(_panel(t.answers[m]) for m in methods)]
                + [t.choice.reason, f"{t.choice.score:.3f}", t.num_faces]
                + [" ".join(map(str, t.panels))]
                + [" ".join(str(x.open) for x in c), " ".join(str(x.change) for x in c)]
                + [_numbers([x.match_share for x in c]), _numbers([x.movement for x in c], 4)]
                + [_numbers([x.synchrony for x in c])]
                + [_numbers(t.networks[n]) for n in networks]
            )


def _numbers(values: list[float | None], digits: int = 3) -> str:
    return " ".join("-" if x is None else f"{x:.{digits}f}" for x in values)


def network_name(path: str) -> str:
    """The folder and the file, as both networks' files have the same names."""
    return f"{Path(path).parent.name}/{Path(path).stem}"


def _panel(panel: int | None) -> str:
    return {None: "nobody", OUTSIDE: "outside"}.get(panel, str(panel))


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="bench")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m data_pipeline.speaker.bench",
        __doc__.splitlines()[0],
        "python -m data_pipeline.speaker.bench my/asd_composites --table turns.csv",
    )
    parser.add_argument(
        "folder", type=path_argument, help="asd_composites or others, with labels.json"
    )
    parser.add_argument("--table", type=new_file_argument, help="CSV to write, a row a turn")
    parser.add_argument(
        "--network",
        action="append",
        default=[],
        help="weights of Light-ASD or LR-ASD to judge as well; may be given several times",
    )
    args = parser.parse_args(argv)
    videos = read_labels(args.folder)
    networks = {network_name(path): path for path in args.network}
    for path in networks.values():
        load_evidence(path)
    finder = FaceFinder(pictures=bool(networks))
    turns = [run_turn(v, s, finder, networks) for v in videos for s in v["segments"]]
    print(summary(turns))
    for t in turns:
        if not t.right(METHODS[0]):
            synchrony = _numbers([c.synchrony for c in t.choice.counts], 2)
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
