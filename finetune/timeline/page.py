"""The timeline as one HTML page, pictures inside: what was recognized, person by person."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from data_pipeline.files.atomic import atomic_file
from finetune.timeline.files import clock, subtitle_names
from finetune.timeline.strip import Picture, jpeg_url, strip_of
from finetune.timeline.utterance import Timeline, Utterance, Video

COLORS = {
    "neutral": "#8a96a3",
    "happy": "#e0a100",
    "sad": "#3f74b8",
    "anger": "#c8372d",
    "angry": "#c8372d",
    "fear": "#7a4fb0",
    "disgust": "#4f8a3c",
    "surprise": "#d9702f",
}
OTHER_COLORS = ("#1b8a8a", "#9c5a2c", "#b04f86", "#5a6b1f", "#444b9c")
NOBODY = "nobody speaks"
SOMEBODY = "somebody speaks"
PIXELS_PER_SECOND = 6.0
"""Of a lane that is longer than the page is wide: it scrolls."""
PIXELS_A_TICK = 360
"""A minute."""


@dataclass(frozen=True, kw_only=True)
class Lane:
    """The utterances of one person in one video."""

    name: str
    utterances: list[Utterance]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the page shows of one video."""

    video: Video
    name: str
    subtitles: str
    strip: list[Picture]
    lanes: list[Lane]
    utterances: list[Utterance]
    width: int
    """Least pixels of its lanes."""

    @property
    def ticks(self) -> list[float]:
        """Seconds that its axis names, evenly from its start to its end."""
        count = max(2, round(self.width / PIXELS_A_TICK))
        return [n / count * self.video.seconds for n in range(count + 1)]

    def share(self, seconds: float) -> float:
        """Percent of the video's length."""
        return 100 * seconds / self.video.seconds if self.video.seconds else 0.0


def write_timeline_page(path: Path, timeline: Timeline, faces: Mapping[str, np.ndarray]) -> Path:
    """Write the page. faces: id of an utterance to the face of who speaks, uint8 [H, W]."""
    template = timeline_environment().get_template("timeline.html")
    with atomic_file(path) as file:
        html = template.render(timeline_shown(timeline, faces))
        file.write(html.encode("utf-8", errors="backslashreplace"))
    return path


def timeline_environment() -> jinja2.Environment:
    """Of all pages that show a timeline."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("finetune", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["clock"] = short_clock
    environment.filters["counted"] = lambda count, what: f"{count} {what}{'s' * (count != 1)}"
    return environment


def timeline_shown(timeline: Timeline, faces: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What timeline_body.html reads."""
    names = subtitle_names(timeline)
    return {
        "videos": [_shown(timeline, video, names[video.path]) for video in timeline.videos],
        "colors": colors_of(timeline.classes),
        "faces": {name: jpeg_url(face_HW) for name, face_HW in faces.items()},
        "classes": timeline.classes,
        "recognizer": timeline.recognizer,
        "num_named": sum(u.emotion is not None for u in timeline),
        "num_utterances": len(timeline),
    }


def colors_of(classes: tuple[str, ...]) -> dict[str, str]:
    """A color a class; those of one's own take the others in turn."""
    others = iter(OTHER_COLORS * (1 + len(classes) // len(OTHER_COLORS)))
    return {name: COLORS.get(name) or next(others) for name in classes}


def _shown(timeline: Timeline, video: Video, subtitles: str) -> Shown:
    utterances = list(timeline.of(video))
    lanes: dict[str, list[Utterance]] = {}
    for u in utterances:
        somebody = SOMEBODY if {"speech", "text"} & set(u.modalities) or u.text else NOBODY
        lanes.setdefault(u.person or somebody, []).append(u)
    last = [name for name in (SOMEBODY, NOBODY) if name in lanes]
    order = [name for name in lanes if name not in last] + last
    return Shown(
        video=video,
        name=Path(video.path).name,
        subtitles=subtitles,
        strip=strip_of(video),
        lanes=[Lane(name=name, utterances=lanes[name]) for name in order],
        utterances=utterances,
        width=round(video.seconds * PIXELS_PER_SECOND),
    )


def short_clock(seconds: float) -> str:
    """1:02.5, or 1:00:02.5 from an hour on."""
    hours, minutes, rest = clock(round(seconds, 1)).split(":")
    start = f"{int(hours)}:{minutes}" if int(hours) else str(int(minutes))
    return f"{start}:{rest[:4]}"
