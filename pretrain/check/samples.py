"""Made clips with labels, in shards, and a BERT's tokenizer: what the checked runs read.

Nothing is fetched, and no extra is needed.
"""

from pathlib import Path

import numpy as np

from data_pipeline.schema import EXPRESSIONS, ClipSample, FeatureSpec, Passport, Stream
from data_pipeline.shards import write_shard

NUM_CLIPS, NUM_SHARDS, NUM_SPEAKERS = 32, 4, 4
LABELS = ("anger", "happy", "neutral", "sad")
WORDS = "bin blue at two now place red by nine please set green in white again soon".split()
SPEECH_WIDTH = 24


def passport() -> Passport:
    """Of streams that no encoder made."""

    def spec(name: str, rate_hz: float, width: int, clock: str | None) -> FeatureSpec:
        return FeatureSpec(
            name=name,
            weights_sha256="0" * 64,
            layer=-1,
            pooling=1,
            rate_hz=rate_hz,
            width=width,
            clock=clock,
        )

    return {
        "face": spec("made_face", 10.0, 342, "face"),
        "face_probs": spec("made_face", 10.0, len(EXPRESSIONS), "face"),
        "speech": spec("made_speech", 50 / 3, SPEECH_WIDTH, None),
    }


def write_clips(folder: Path) -> Path:
    """Four shards of clips of a second or two, of all three modalities."""
    folder.mkdir(parents=True)
    clips = [_clip(number) for number in range(NUM_CLIPS)]
    for shard in range(NUM_SHARDS):
        write_shard(folder, shard, clips[shard::NUM_SHARDS], [], passport(), {}, f"made-{shard}")
    return folder


def _clip(number: int) -> ClipSample:
    rng = np.random.default_rng(number)
    frames, states = int(rng.integers(6, 18)), int(rng.integers(8, 24))
    seconds = {name: spec.seconds(frames) for name, spec in passport().items()}
    seconds["speech"] = passport()["speech"].seconds(states)
    values = {
        "face": rng.standard_normal((frames, 342)),
        "face_probs": rng.dirichlet(np.ones(len(EXPRESSIONS)), size=frames),
        "speech": rng.standard_normal((states, SPEECH_WIDTH)),
    }
    words = list(map(str, rng.choice(WORDS, size=6)))
    return ClipSample(
        id=f"made-{number:03d}",
        text=" ".join(words),
        words=words,
        streams={
            name: Stream(values_ND=values_ND.astype(np.float16), seconds_N=seconds[name])
            for name, values_ND in values.items()
        },
        meta={
            "corpus": "made",
            "speaker": f"s{number % NUM_SPEAKERS}",
            "recording": f"r{number}",
            "label": LABELS[number // NUM_SPEAKERS % len(LABELS)],
        },
    )


def write_bert(folder: Path) -> Path:
    """Tokenizer and config of a BERT that knows those words; it has no weights."""
    from transformers import BertConfig, BertTokenizerFast

    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS, *LABELS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(str(folder))
    BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64).save_pretrained(folder)
    return folder
