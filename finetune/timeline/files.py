"""A timeline as files: timeline.json, timeline.csv, and subtitles of each video (WebVTT)."""

from collections import Counter
from pathlib import Path

from data_pipeline.files.atomic import atomic_file
from data_pipeline.schema import slug
from finetune.timeline.utterance import Timeline, Utterance


def write_files(timeline: Timeline, folder: Path) -> list[Path]:
    """Write all of them into `folder`; their paths."""
    names = subtitle_names(timeline)
    content = {
        "timeline.json": timeline.to_json(),
        "timeline.csv": timeline.to_frame().to_csv(index=False, lineterminator="\n"),
    }
    for video in timeline.videos:
        if not video.problem:
            content[names[video.path]] = subtitles(list(timeline.of(video)))
    for name, text in content.items():
        with atomic_file(folder / name) as file:
            file.write(text.encode("utf-8", errors="backslashreplace"))
    return [folder / name for name in content]


def subtitle_names(timeline: Timeline) -> dict[str, str]:
    """Video to the name of its subtitle file: its own, numbered where two have one name."""
    taken: Counter[str] = Counter()
    names = {}
    for video in timeline.videos:
        stem = slug(Path(video.path).stem) or "video"
        taken[stem] += 1
        number = f"-{taken[stem]}" if taken[stem] > 1 else ""
        names[video.path] = f"{stem}{number}.vtt"
    return names


def subtitles(utterances: list[Utterance]) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1): a cue an utterance, with person, emotion, words."""
    cues = ["WEBVTT"]
    for u in utterances:
        said = f"{u.emotion} {u.confidence:.2f}" if u.emotion else "no emotion named"
        words = _escaped(u.text or "")
        voice = f"<v {u.person}>" if u.person else ""
        cues.append(f"{clock(u.start)} --> {clock(u.end)}\n{voice}[{said}] {words}".rstrip())
    return "\n\n".join(cues) + "\n"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def clock(seconds: float) -> str:
    """00:00:00.000, as WebVTT has it."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"
