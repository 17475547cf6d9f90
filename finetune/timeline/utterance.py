"""What is said of a video: its utterances, each with a person, words and an emotion."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from data_pipeline.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 1


class TimelineError(UserError):
    """A timeline that cannot be made or read."""


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """A piece of a video, and what was recognized in it."""

    id: str
    video: str
    start: float
    end: float
    """Seconds from the start of the video."""
    person: str | None
    """A name of the table, or A, B, ... in order of appearance, by voice and then by face; None
    where neither is told apart."""
    text: str | None
    emotion: str | None
    """The class of the greatest probability; None where the recognizer abstains."""
    probabilities: dict[str, float]
    """Of each class; empty where there was nothing to judge by."""
    modalities: tuple[str, ...]
    """What was there to judge by: text, and the names of streams."""
    abstains: str = ""
    """Why no emotion is named; empty where one is."""
    named_by: str = ""
    """What `person` was named by: table, voice, neighbour (too short to tell whose voice it is: the
    voice beside it) or face; empty where nobody is named."""

    @property
    def confidence(self) -> float | None:
        """Probability of the likeliest class."""
        return max(self.probabilities.values()) if self.probabilities else None


@dataclass(frozen=True, kw_only=True)
class Video:
    """One file that was asked for."""

    path: str
    seconds: float = 0.0
    problem: str = ""
    """Why there is nothing of it; empty where there is."""
    notes: tuple[str, ...] = ()
    """What was odd about it, in sentences."""


@dataclass(frozen=True, kw_only=True)
class Timeline(Sequence[Utterance]):
    """The utterances of some videos, in the order of the videos and of time."""

    classes: tuple[str, ...]
    videos: tuple[Video, ...]
    utterances: tuple[Utterance, ...]
    recognizer: dict[str, Any] = field(default_factory=dict)
    """Which one it was: folder, system, sha256 of its recognizer.json."""

    @overload
    def __getitem__(self, at: int) -> Utterance: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[Utterance, ...]: ...
    def __getitem__(self, at):
        return self.utterances[at]

    def __len__(self) -> int:
        return len(self.utterances)

    def of(self, video: Video) -> Iterator[Utterance]:
        return (u for u in self.utterances if u.video == video.path)

    def to_frame(self) -> "pd.DataFrame":
        """A row an utterance: id, video, start, end, person, named_by, text, emotion, confidence,
        modalities, abstains, and p_CLASS of each class."""
        import pandas as pd

        columns = ["id", "video", "start", "end", "person", "named_by", "text", "emotion"]
        columns += ["confidence", "modalities", "abstains", *(f"p_{name}" for name in self.classes)]
        rows = [
            {
                **asdict(u),
                "confidence": u.confidence,
                "modalities": " ".join(u.modalities),
                **{f"p_{name}": p for name, p in u.probabilities.items()},
            }
            for u in self.utterances
        ]
        return pd.DataFrame(rows, columns=columns)

    def to_json(self) -> str:
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=1) + "\n"


def read_timeline(path: str | Path) -> Timeline:
    """What `Timeline.to_json` wrote. Raises TimelineError."""
    path = Path(path)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told.pop("format_version") != FORMAT_VERSION:
            raise ValueError(f"expected format version {FORMAT_VERSION}")
        told["videos"] = tuple(
            Video(**{**video, "notes": tuple(video["notes"])}) for video in told["videos"]
        )
        told["utterances"] = tuple(
            Utterance(**{**u, "modalities": tuple(u["modalities"])}) for u in told["utterances"]
        )
        told["classes"] = tuple(told["classes"])
        return Timeline(**told)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TimelineError(
            f"{path} is no timeline ({error}); python -m finetune.predict writes timeline.json"
        ) from error
