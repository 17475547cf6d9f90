"""Toy voices: who speaks is heard in one mel bin, the emotion in another."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import toys

from data_pipeline.schema import ClipSample, FeatureSpec, Passport, Stream
from data_pipeline.shards import write_shard

LABELS = ("anger", "happy", "neutral")
BINS = 8
SPEC: FeatureSpec = dataclasses.replace(
    toys.passport()["speech"], name="toy_fbank", weights_sha256="", rate_hz=100.0, width=BINS
)


def make_voices(
    *, num_speakers: int, per_speaker: int, corpus: str = "toy", first: int = 0, seed: int = 0
) -> list[ClipSample]:
    """Frames of noise, louder and quieter in the bin of the emotion and in that of the speaker:
    what stays when the clip's mean is taken off."""
    rng = np.random.default_rng(seed)
    clips = []
    for number in range(num_speakers * per_speaker):
        speaker, label = first + number // per_speaker, number % len(LABELS)
        values_NM = rng.normal(size=(rng.integers(20, 40), BINS)) - 8
        at_N = np.arange(len(values_NM))
        values_NM[:, label] += 6 * np.sign(np.sin(at_N))
        values_NM[:, len(LABELS) + speaker % (BINS - len(LABELS))] += 3 * np.sign(np.sin(at_N / 3))
        clips.append(
            ClipSample(
                id=f"{corpus}-{speaker}-{number:03d}",
                streams={"fbank": stream_of(values_NM)},
                meta={
                    "corpus": corpus,
                    "speaker": str(speaker),
                    "recording": f"r{speaker}",
                    "label": LABELS[label],
                },
            )
        )
    return clips


def stream_of(values_NM: np.ndarray) -> Stream:
    seconds_N = SPEC.seconds(len(values_NM))
    return Stream(values_ND=values_NM.astype(np.float16), seconds_N=seconds_N)


@pytest.fixture
def write_voices(tmp_path) -> Callable[..., Path]:
    """write_voices(clips, name="voices", passport=...) -> folder."""

    def write(
        clips: list[ClipSample], name: str = "voices", passport: Passport | None = None
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        half = len(clips) // 2
        for index, part in enumerate((clips[:half], clips[half:])):
            write_shard(folder, index, part, [], passport or {"fbank": SPEC}, {}, "toy")
        return folder

    return write
