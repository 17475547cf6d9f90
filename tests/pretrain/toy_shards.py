"""Shards of random features for tests of training; loaded by path, since tests are no package."""

from pathlib import Path

import numpy as np

from data_pipeline.schema import ClipSample, FeatureSpec, clip_id
from data_pipeline.shards import write_shard

SPEECH_WIDTH = 24
WORDS = "bin blue at f two now place red by a nine please set green in white again soon".split()


def passport(speech_width: int = SPEECH_WIDTH) -> dict[str, FeatureSpec]:
    common = {"weights_sha256": "0" * 64, "layer": -1}
    return {
        "face": FeatureSpec(name="toy_face", pooling=1, rate_hz=10.0, width=342, **common),
        "speech": FeatureSpec(
            name="toy_speech", pooling=3, rate_hz=50 / 3, width=speech_width, **common
        ),
    }


def toy_clip(number: int, *, text: str | None = "", face: bool = True) -> ClipSample:
    """Clip `number`, the same in every process; `text` "" draws six words."""
    rng = np.random.default_rng(number)
    words = list(rng.choice(WORDS, size=6)) if text == "" else (text or "").split()
    frames, states = rng.integers(6, 18), rng.integers(8, 24)
    probs = rng.dirichlet(np.ones(8), size=frames)
    features = {
        "face": rng.standard_normal((frames, 342)).astype(np.float16),
        "face_probs": probs.astype(np.float16),
        "face_seconds": (np.arange(frames) / 10).astype(np.float32),
    }
    return ClipSample(
        id=clip_id("toy", f"rec{number:03d}", 0),
        text=" ".join(map(str, words)) or None,
        words=[str(word) for word in words],
        speech=rng.standard_normal((states, SPEECH_WIDTH)).astype(np.float16),
        **(features if face else {}),
    )


def write_toy_shards(folder: Path, clips: list[ClipSample], num_shards: int) -> Path:
    folder.mkdir(parents=True)
    for index, part in enumerate(np.array_split(np.arange(len(clips)), num_shards)):
        write_shard(folder, index, [clips[i] for i in part], [], passport(), {}, f"toy-{index}")
    return folder
