"""Toy clips, shards and model sizes for the tests of all stages: random features, no media."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.schema import EXPRESSIONS, ClipSample, FeatureSpec, Passport, Stream, clip_id
from data_pipeline.shards import list_shards, read_manifest, read_shard, write_shard

SPEECH_WIDTH = 24
FACE_HZ, SPEECH_HZ = 10.0, 50 / 3
WORDS = "bin blue at f two now place red by a nine please set green in white again soon".split()

FAST = [
    "seeds=[1]",
    "data.deal.folds=3",
    "eval_every_steps=8",
    "num_resamples=50",
    "optim.batch_size=8",
    *(
        f"plans.{setting}.{key}"
        for setting in ("direct", "pretrain_finetune", "pretrain_prompt")
        for key in ("num_steps=16", "warmup_steps=0", "learning_rate=1e-2")
    ),
]
"""Settings of finetuning on toy clips that take seconds."""


def passport(*, speech_width: int = SPEECH_WIDTH, face: bool = True) -> Passport:
    """Of face, face_probs and speech."""
    spec = FeatureSpec(
        name="toy_face",
        weights_sha256="f" * 64,
        layer=-1,
        pooling=1,
        rate_hz=FACE_HZ,
        width=342,
        clock="face",
    )
    speech = dataclasses.replace(
        spec,
        name="toy_speech",
        weights_sha256="5" * 64,
        pooling=3,
        rate_hz=SPEECH_HZ,
        width=speech_width,
        clock=None,
    )
    probs = dataclasses.replace(spec, width=len(EXPRESSIONS))
    return ({"face": spec, "face_probs": probs} if face else {}) | {"speech": speech}


def model_sizes(*, speech_width: int = SPEECH_WIDTH, face: bool = True) -> dict[str, Any]:
    """The arguments of MEmoBert that a passport like the one above fixes."""
    streams = [{"name": "face", "width": 342, "rate_hz": FACE_HZ}] if face else []
    streams += [{"name": "speech", "width": speech_width, "rate_hz": SPEECH_HZ}]
    of_face = {"span_mvfr": 342, "span_mvfc_kl": len(EXPRESSIONS)} if face else {}
    return {"streams": streams, "objectives": of_face | {"span_mafr": speech_width}}


def face_streams(rng: np.random.Generator, frames: int) -> dict[str, Stream]:
    """`face` and `face_probs` of so many frames; nothing for none."""
    if not frames:
        return {}
    seconds_F = (np.arange(frames) / FACE_HZ).astype(np.float32)
    face = rng.standard_normal((frames, 342)).astype(np.float16)
    probs = rng.dirichlet(np.ones(len(EXPRESSIONS)), size=frames).astype(np.float16)
    return {
        "face": Stream(values_ND=face, seconds_N=seconds_F),
        "face_probs": Stream(values_ND=probs, seconds_N=seconds_F),
    }


def speech_stream(
    rng: np.random.Generator, states: int, width: int = SPEECH_WIDTH
) -> dict[str, Stream]:
    """`speech` of so many states; nothing for none."""
    if not states:
        return {}
    values = rng.standard_normal((states, width)).astype(np.float16)
    seconds_S = passport()["speech"].seconds(states)
    return {"speech": Stream(values_ND=values, seconds_N=seconds_S)}


def sample(
    name: str,
    text: str | None = "bin blue at two",
    *,
    faces: int = 8,
    states: int = 12,
    width: int = SPEECH_WIDTH,
    seed: int = 0,
    **meta: object,
) -> ClipSample:
    """A clip of this size; 0 or None leaves a modality out."""
    rng = np.random.default_rng([seed, *name.encode()])
    return ClipSample(
        id=name,
        text=text or None,
        words=(text or "").split(),
        streams=face_streams(rng, faces) | speech_stream(rng, states, width),
        meta=meta,
    )


def numbered(number: int, *, text: str | None = "", face: bool = True) -> ClipSample:
    """Clip `number`, the same in every process; `text` "" draws six words."""
    rng = np.random.default_rng(number)
    words = list(map(str, rng.choice(WORDS, size=6))) if text == "" else (text or "").split()
    frames, states = int(rng.integers(6, 18)), int(rng.integers(8, 24))
    return ClipSample(
        id=clip_id("toy", f"rec{number:03d}", 0),
        text=" ".join(words) or None,
        words=words,
        streams=face_streams(rng, frames if face else 0) | speech_stream(rng, states),
    )


def write_shards(folder: Path, clips: list[ClipSample], num_shards: int) -> Path:
    """`clips` in so many shards, with the passport above."""
    folder.mkdir(parents=True)
    for index, part in enumerate(np.array_split(np.arange(len(clips)), num_shards)):
        write_shard(folder, index, [clips[i] for i in part], [], passport(), {}, f"toy-{index}")
    return folder


def flip_bit(path: Path, at: int = 2000) -> None:
    """Of one byte, as a disk or a copy does it."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def add_stream(
    folder: Path,
    spec: FeatureSpec,
    values_of: Callable[[ClipSample], np.ndarray | None],
    name: str = "fbank",
) -> None:
    """A stream beside each shard of `folder`; a clip whose values are None has none of it."""
    for index, tar in enumerate(list_shards(folder)):
        added = []
        for clip in read_shard(tar):
            if (values_ND := values_of(clip)) is not None:
                stream = Stream(values_ND=values_ND, seconds_N=spec.seconds(len(values_ND)))
                added.append(ClipSample(id=clip.id, streams={name: stream}))
        beside = read_manifest(tar.with_suffix(".json")).sha256
        write_shard(folder, index, added, [], {name: spec}, {}, "toy", added=name, beside=beside)
