"""`yamnet`: embeddings of YAMNet (Plakal and Ellis 2019), which tells 521 kinds of sound of
AudioSet, from a TensorFlow Lite file.

One row is the mean of the last feature map of 0.96 s of sound, and one begins every 0.48 s. As in
YAMNet's own code the sound ends in zeros where the last window is not full, so all of it is heard,
and of a shorter one there is one row.

Shapes: T samples, N windows, W samples of a window, D width.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.features.extractors import Evidence
from data_pipeline.files.weights import WeightsError, sha256_of
from data_pipeline.paths import PathText
from data_pipeline.schema import SAMPLE_RATE, FeatureSpec, Stream

NEEDS = frozenset({"sound"})
STREAMS = ("yamnet",)
HOP = 7_680
"""Samples from one window to the next."""
WINDOW = 15_600
"""Of 96 frames of 25 ms, one every 10 ms."""
WIDTH = 1024
EMBEDDING = "global_average_pooling2d/Mean"
"""The end of the name of the tensor that is taken."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    weights: PathText
    """The file yamnet.tflite, of TensorFlow's own release."""


class Yamnet:
    """`yamnet` [N, 1024] float16."""

    def __init__(self, settings: Settings) -> None:
        path = Path(settings.weights)
        self.interpreter = _interpreter(path)
        self.input, self.embedding = _tensors(self.interpreter, path)
        spec = FeatureSpec(
            name="yamnet",
            weights_sha256=sha256_of(path),
            layer=-1,
            pooling=1,
            rate_hz=SAMPLE_RATE / HOP,
            width=WIDTH,
            preprocessing="16k-mono-window0.975-hop0.48-zeros-at-the-end",
        )
        self.passport = {"yamnet": spec}

    def __call__(self, evidence: Evidence) -> dict[str, Stream]:
        windows_NW = windows(evidence.sound_T)
        values_ND = np.empty((len(windows_NW), WIDTH), np.float16)
        for n, window_W in enumerate(windows_NW):
            self.interpreter.set_tensor(self.input, window_W[None])
            self.interpreter.invoke()
            values_ND[n] = self.interpreter.get_tensor(self.embedding)[0]
        if not len(values_ND):
            return {}
        seconds_N = self.passport["yamnet"].seconds(len(values_ND))
        return {"yamnet": Stream(values_ND=values_ND, seconds_N=seconds_N)}


def windows(sound_T: np.ndarray) -> np.ndarray:
    """[N, W] float32: all of the sound, the last window filled up with zeros; none of no sound."""
    if not len(sound_T):
        return np.empty((0, WINDOW), np.float32)
    count = 1 + math.ceil(max(0, len(sound_T) - WINDOW) / HOP)
    padded = np.zeros(WINDOW + (count - 1) * HOP, np.float32)
    padded[: len(sound_T)] = sound_T
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]


def _interpreter(path: Path):
    """Of one thread, as the workers are the parallelism; with the tensors between."""
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise WeightsError(
            f"streams.yamnet runs a TensorFlow Lite file, and {error.name} is not installed; "
            "pip install -e .[stories]"
        ) from error
    if not path.is_file():
        raise WeightsError(f"streams.yamnet.weights={path}: no such file; expected yamnet.tflite")
    try:
        interpreter = Interpreter(
            str(path),
            num_threads=1,
            experimental_preserve_all_tensors=True,
            # Delegates would take the tensors between for their own.
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise WeightsError(
            f"streams.yamnet.weights={path} is no whole TensorFlow Lite file: {error}; expected "
            "yamnet.tflite"
        ) from error
    return interpreter


def _tensors(interpreter, path: Path) -> tuple[int, int]:
    """Numbers of input and embedding. Raises WeightsError where they are not YAMNet's."""
    inputs = interpreter.get_input_details()
    named = [t for t in interpreter.get_tensor_details() if t["name"].endswith(EMBEDDING)]
    found = [tuple(t["shape"]) for t in inputs], [tuple(t["shape"]) for t in named]
    if found != ([(1, WINDOW)], [(1, WIDTH)]):
        raise WeightsError(
            f"streams.yamnet.weights={path} is another model: its inputs are {found[0]}, its "
            f"tensors {EMBEDDING} {found[1]}; expected [(1, {WINDOW})] and [(1, {WIDTH})]"
        )
    return inputs[0]["index"], named[0]["index"]


def load(settings: Settings, device: str) -> Yamnet:
    return Yamnet(settings)
