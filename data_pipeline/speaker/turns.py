"""Makes turns whose speaker is known, from clips of single people who talk.

    python -m data_pipeline.speaker.turns docs/results/active_speaker/talks.csv \\
        --root ../shared/data --output runs/speaker_turns
    python -m data_pipeline.speaker.bench runs/speaker_turns

Four kinds, three turns of each for everybody in the table:

  own_voice     one face, its own voice
  muted_talker  one face that talks, muted; the voice of another person, whom nobody sees
  both_lips     two faces that talk, the voice of one of them
  small_faces   one turn of each kind above, with faces of 48 pixels instead of 112

A turn of 1.8 to 3 s is drawn from where its person talks: in at least half of it the voice
detector hears the voice that belongs to the lips, heard or muted. Every turn is a file of its own
(H.264, AAC), and labels.json says who is where, in the format of asd_composites. Two runs with one
seed write the same labels.json and the same sound; pictures may differ by a grey level, which the
conversion to YUV rounds one way or the other.

The table has the columns video (relative to --root; sound alone will do for a voice), start, end
(seconds; empty is the whole file), speaker, and group: people of two groups never meet in a turn,
so that those kept out of a fit stay out.
"""

import csv
import json
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from data_pipeline.command_line import command_parser, run_command
from data_pipeline.errors import UserError
from data_pipeline.faces.finder import FaceFinder
from data_pipeline.media.clip_media import MediaError, open_clip
from data_pipeline.paths import path_argument
from data_pipeline.schema import SAMPLE_RATE, Clip
from data_pipeline.speaker.voice import VoiceActivity, voice_activity

KINDS = ("own_voice", "muted_talker", "both_lips", "small_faces")
TURNS = 3  # of each kind and person
FPS = 25
PANEL_WIDTH, PANEL_HEIGHT = 320, 288
FACE_PIXELS, SMALL_FACE_PIXELS = 112, 48
SHORTEST_SECONDS, LONGEST_SECONDS = 1.8, 3.0
MIN_VOICED = 0.5
DRAWS = 200
COLUMNS = ("video", "start", "end", "speaker", "group")


class TurnsError(UserError):
    """A table that no turns can be made from."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Talk:
    """One person who talks: N frames, or none where there is only the sound."""

    speaker: str
    group: str
    video: str
    frames_NHW3: np.ndarray | None
    seconds_N: np.ndarray
    box_4: np.ndarray | None
    """Of the face, in pixels: the median over some frames."""
    sound_T: np.ndarray
    voice: VoiceActivity


@dataclass(frozen=True, kw_only=True, eq=False)
class Span:
    """A piece of a talk in which there is enough voice."""

    talk: Talk
    start: float

    def sound(self, seconds: float) -> np.ndarray:
        first = round(self.start * SAMPLE_RATE)
        return self.talk.sound_T[first : first + round(seconds * SAMPLE_RATE)]


def read_talks(table: Path, root: Path) -> list[dict]:
    """The rows, with the path under "path". Raises TurnsError."""
    if not table.is_file():
        raise TurnsError(f"no table {table}; expected a CSV with {', '.join(COLUMNS)}")
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    missing = [c for c in COLUMNS if not rows or c not in rows[0]]
    if missing:
        raise TurnsError(f"{table} has no {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    for row in rows:
        row["path"] = root / row["video"]
        if not row["path"].is_file():
            raise TurnsError(f"no {row['path']}, which {table} names; --root is where it looks")
        for name in ("start", "end"):
            try:
                row[name] = float(row[name]) if row[name] else None
            except ValueError:
                found = f"{row['video']} has {name} {row[name]!r}"
                raise TurnsError(f"{table}: {found}; expected seconds, or nothing") from None
    return rows


def load_talk(row: dict, finder: FaceFinder) -> Talk:
    """Decode one row. Raises TurnsError when it has no sound, or a picture without a face."""
    clip = Clip(
        id="talk",
        video=str(row["path"]),
        start=row["start"] or 0.0,
        end=row["end"],
    )
    try:
        media = open_clip(clip, frames_per_second=FPS)
        if media.sound_T is None:
            raise TurnsError(f"{row['video']} has no sound")
        frames_NHW3, seconds_N, box_4 = None, np.zeros(0), None
        if media.has_video:
            windows = list(media.windows())
            frames_NHW3 = np.concatenate([w.frames_NHW3 for w in windows])
            seconds_N = np.concatenate([w.seconds_N for w in windows])
            box_4 = _face_box(frames_NHW3, finder, row["video"])
    except MediaError as error:
        raise TurnsError(f"{row['video']}: {error.detail}") from error
    return Talk(
        speaker=row["speaker"],
        group=row["group"],
        video=row["video"],
        frames_NHW3=frames_NHW3,
        seconds_N=seconds_N,
        box_4=box_4,
        sound_T=media.sound_T,
        voice=voice_activity(media.sound_T),
    )


def _face_box(frames_NHW3: np.ndarray, finder: FaceFinder, name: str) -> np.ndarray:
    boxes = []
    for k in np.linspace(0, len(frames_NHW3) - 1, 5).astype(int):
        ((box_D4, _, _),) = finder.detect([frames_NHW3[k]])
        if len(box_D4) == 1:
            boxes.append(box_D4[0])
    if not boxes:
        raise TurnsError(f"{name}: expected one face, found none, or several in every frame")
    return np.median(boxes, axis=0)


class _Draw:
    """Everything that is drawn, from one generator in one order."""

    def __init__(self, talks: list[Talk], seed: int) -> None:
        self.talks = talks
        self.rng = np.random.default_rng(seed)

    def seconds(self) -> float:
        return round(float(self.rng.uniform(SHORTEST_SECONDS, LONGEST_SECONDS)) * FPS) / FPS

    def span(self, seconds: float, talks: list[Talk]) -> Span:
        """A piece of one of these talks with enough voice. Raises TurnsError."""
        for _ in range(DRAWS):
            talk = talks[self.rng.integers(len(talks))]
            room = len(talk.sound_T) / SAMPLE_RATE - seconds
            if talk.frames_NHW3 is not None:
                room = min(room, float(talk.seconds_N[-1]) + 1 / FPS - seconds)
            if room < 0:
                continue
            start = round(float(self.rng.uniform(0, room)) * FPS) / FPS
            at_N = start + np.arange(0, seconds, 0.01)
            if talk.voice.voiced_at(at_N).mean() >= MIN_VOICED and start <= room + 1e-6:
                return Span(talk=talk, start=start)
        names = sorted({talk.speaker for talk in talks})
        raise TurnsError(
            f"no {seconds:.2f} s in which {', '.join(names)} talk for half of it; add longer clips"
        )

    def own(self, speaker: str, seconds: float) -> Span:
        return self.span(seconds, [t for t in self.seen if t.speaker == speaker])

    def other(self, speaker: str, seconds: float, *, seen: bool) -> Span:
        """Of another person of the group, each person as likely as the next."""
        group = next(t.group for t in self.seen if t.speaker == speaker)
        talks = self.seen if seen else self.talks
        talks = [t for t in talks if t.group == group and t.speaker != speaker]
        if not talks:
            raise TurnsError(f"group {group} has nobody beside {speaker}; expected two or more")
        people = sorted({t.speaker for t in talks})
        for _ in range(DRAWS):  # some have no talk of that length
            chosen = people[self.rng.integers(len(people))]
            try:
                return self.span(seconds, [t for t in talks if t.speaker == chosen])
            except TurnsError:
                continue
        raise TurnsError(f"group {group}: nobody beside {speaker} talks for {seconds:.2f} s")

    @property
    def seen(self) -> list[Talk]:
        return [t for t in self.talks if t.frames_NHW3 is not None]


def plan(talks: list[Talk], seed: int) -> list[dict]:
    """Every turn: kind, small or not, seconds, the faces left to right, the voice, the truth."""
    draw, turns = _Draw(talks, seed), []
    for kind in KINDS:
        for speaker in sorted({t.speaker for t in draw.seen}):
            for k in range(TURNS):
                what = KINDS[k % 3] if kind == "small_faces" else kind
                turns.append({"kind": kind, "small": kind == "small_faces"})
                turns[-1] |= _plan_turn(draw, what, speaker)
    return turns


def _plan_turn(draw: _Draw, what: str, speaker: str) -> dict:
    for _ in range(DRAWS):
        seconds = draw.seconds()
        try:
            face = draw.own(speaker, seconds)
            break
        except TurnsError as error:
            failure = error
    else:
        raise failure
    if what == "own_voice":
        return {"seconds": seconds, "faces": [face], "voice": face, "active": 0}
    if what == "muted_talker":
        voice = draw.other(speaker, seconds, seen=False)
        return {"seconds": seconds, "faces": [face], "voice": voice, "active": None}
    rival = draw.other(speaker, seconds, seen=True)
    place = int(draw.rng.integers(2))
    faces = [face, rival] if place == 0 else [rival, face]
    return {"seconds": seconds, "faces": faces, "voice": face, "active": place}


def panel_frames(span: Span, seconds: float, face_pixels: int) -> np.ndarray:
    """[N, 288, 320, 3] uint8: the frame nearest to each tick, its face in the middle.

    What lies outside the source repeats its border.
    """
    talk = span.talk
    x0, y0, x1, y1 = talk.box_4
    scale = face_pixels / (x1 - x0)
    height, width = talk.frames_NHW3.shape[1:3]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Rows and columns of the scaled source, clipped where the panel reaches beyond it.
    left = round((x0 + x1) / 2 * scale - PANEL_WIDTH / 2)
    top = round((y0 + y1) / 2 * scale - PANEL_HEIGHT / 2)
    columns = np.clip(np.arange(left, left + PANEL_WIDTH), 0, size[0] - 1)
    rows = np.clip(np.arange(top, top + PANEL_HEIGHT), 0, size[1] - 1)
    ticks_N = span.start + np.arange(round(seconds * FPS)) / FPS
    panels = []
    for at in np.abs(ticks_N[:, None] - talk.seconds_N).argmin(axis=1):
        source = Image.fromarray(talk.frames_NHW3[at])
        scaled = np.asarray(source.resize(size, Image.Resampling.BICUBIC))
        panels.append(scaled[rows[:, None], columns])
    return np.stack(panels)


def write_video(path: Path, frames_NHW3: np.ndarray, sound_T: np.ndarray) -> None:
    """H.264 and AAC, on one thread."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.height, video.width = frames_NHW3.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.options = {"crf": "20", "preset": "veryfast", "threads": "1"}
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        audio.bit_rate = 64_000
        for k, frame_HW3 in enumerate(frames_NHW3):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HW3), format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        level_1T = np.clip(np.round(sound_T * 32767), -32768, 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(level_1T, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(audio.encode(piece))
        container.mux(audio.encode(None))


def make_turn(turn: dict, number: int, folder: Path) -> dict:
    """Write one turn; its entry in labels.json."""
    seconds, faces, voice = turn["seconds"], turn["faces"], turn["voice"]
    size = SMALL_FACE_PIXELS if turn["small"] else FACE_PIXELS
    name = f"{turn['kind']}_{number:03d}.mp4"
    frames_NHW3 = np.concatenate([panel_frames(f, seconds, size) for f in faces], axis=2)
    write_video(folder / name, frames_NHW3, voice.sound(seconds))
    return {
        "file": name,
        "kind": turn["kind"],
        "fps": FPS,
        "n_frames": len(frames_NHW3),
        "width": frames_NHW3.shape[2],
        "height": PANEL_HEIGHT,
        "panels": [
            {
                "panel": k,
                "x0": k * PANEL_WIDTH,
                "x1": (k + 1) * PANEL_WIDTH,
                "person": face.talk.speaker,
                "source": face.talk.video,
                "source_start": face.start,
            }
            for k, face in enumerate(faces)
        ],
        "segments": [
            {
                "turn_start": 0.0,
                "turn_end": seconds,
                "active_panel": turn["active"],
                "lip_moving_distractor_panels": [
                    k for k in range(len(faces)) if k != turn["active"]
                ],
                "voice_person": voice.talk.speaker,
                "voice_source": voice.talk.video,
                "voice_start": voice.start,
                "group": voice.talk.group,
            }
        ],
    }


def main(argv: list[str] | None = None) -> int:
    return run_command(_main, argv, name="turns")


def _main(argv: list[str] | None) -> int:
    parser = command_parser(
        "python -m data_pipeline.speaker.turns",
        __doc__.splitlines()[0],
        "python -m data_pipeline.speaker.turns talks.csv --output runs/turns",
    )
    parser.add_argument("table", type=path_argument, help=f"CSV with {', '.join(COLUMNS)}")
    parser.add_argument(
        "--root", type=path_argument, default=Path(), help="folder the videos lie under"
    )
    parser.add_argument(
        "--output", type=path_argument, required=True, help="folder for turns and labels"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what meets whom, and where")
    args = parser.parse_args(argv)
    finder = FaceFinder()
    talks = [load_talk(row, finder) for row in read_talks(args.table, args.root)]
    turns = plan(talks, args.seed)
    folder = args.output / "clips"
    folder.mkdir(parents=True, exist_ok=True)
    labels = [make_turn(turn, k, folder) for k, turn in enumerate(turns)]
    text = json.dumps(labels, indent=1)
    (args.output / "labels.json").write_text(text + "\n", encoding="utf-8")
    people = sorted({p["person"] for video in labels for p in video["panels"]})
    print(f"{len(labels)} turns of {len(people)} people in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
