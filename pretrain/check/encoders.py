"""The frozen encoders, and the whole way of a clip, on the device against the CPU.

What differs there mixes features of two kinds in one training. TF32 would show here.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pretrain.check.table import CheckError, Place, Row, difference

TOLERANCE = 0.02
"""Of features."""
CLIP_TOLERANCE = 0.05
"""Of a clip's: a face that is found a pixel beside is cut a pixel beside."""
FIX = (
    "features of the two devices must not be mixed: extract all clips on one, and report the GPU, "
    "torch's version and this figure"
)


def face(place: Place) -> Iterator[Row]:
    """Features and probabilities of the expression encoder that ships, on 70 random crops."""
    from data_pipeline.features.expression import load_expression_encoder

    crops_NHW = np.random.default_rng(2).integers(0, 256, (70, 48, 48), dtype=np.uint8)

    def encode(device: torch.device) -> tuple[np.ndarray, np.ndarray]:
        return load_expression_encoder(device=str(device))(crops_NHW)

    names = ("features", "probabilities")
    for name, expected, found in zip(names, *place.pair(encode), strict=True):
        figure = difference(found, expected)
        yield Row.judged(f"face, {name}: {place.twins}", figure, TOLERANCE, FIX)


def speech(place: Place) -> Iterator[Row]:
    """States of the speech encoder that ships, of forty seconds, so that windows are joined."""
    from transformers.utils.logging import disable_progress_bar

    from data_pipeline.features.wav2vec2 import load_speech_encoder

    disable_progress_bar()
    steps_T = np.random.default_rng(1).normal(size=40 * 16_000)
    sound_T = (np.cumsum(steps_T) / 1000).astype(np.float32)
    sound_T -= sound_T.mean()
    expected, found = place.pair(lambda device: load_speech_encoder(device=str(device))(sound_T))
    yield Row.judged(f"speech: {place.twins}", difference(found, expected), TOLERANCE, FIX)


def extraction(place: Place) -> Iterator[Row]:
    """One of the sample clips, from the file to its streams."""
    from data_pipeline.config import load_config
    from data_pipeline.extraction.clip_extractor import ClipExtractor
    from data_pipeline.extraction.config import DataConfig
    from data_pipeline.table.clips import load_clips

    table = Path(__file__).parents[2] / "data_pipeline/assets/samples/clips.csv"
    config = load_config(DataConfig, None, [f"clips={table}", f"output={place.folder / 'clips'}"])
    clip = load_clips(table, [])[0]

    def extract(device: torch.device) -> dict[str, np.ndarray]:
        done = ClipExtractor(config, device=str(device))(clip)
        if done.sample is None:
            raise CheckError(f"{clip.id} is a reject on {device}: {done.reject}")
        return {name: stream.values_ND for name, stream in done.sample.streams.items()}

    expected, found = place.pair(extract)
    for name in expected:
        figure = difference(found[name], expected[name])
        yield Row.judged(
            f"extraction, {name}: {place.twins}",
            figure,
            CLIP_TOLERANCE,
            "the devices find other faces, or other features of them (see face, above); " + FIX,
        )
