"""Shards of made clips and a tokenizer for their words, where there is no data and no weight."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.special import softmax
from transformers import BertTokenizerFast, PreTrainedTokenizerBase

from data_pipeline.schema import ClipSample, FeatureSpec, Passport, Stream, clip_id
from data_pipeline.shards import write_shard
from pretrain.bench.clips import RATES_HZ, VOCABULARY, WIDTHS
from pretrain.bench.lengths import WHOLE, draw_lengths

SHARDS = 8
WIDTH_OF = {**WIDTHS, "face_probs": 8}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@lru_cache(maxsize=1)
def word_tokenizer() -> PreTrainedTokenizerBase:
    """BERT's kind, of as many pieces; w0, w1 and on are words of one."""
    pieces = [*SPECIAL, *(f"w{n}" for n in range(VOCABULARY - len(SPECIAL)))]
    return BertTokenizerFast(vocab={piece: number for number, piece in enumerate(pieces)})


def passport() -> Passport:
    """Faces keep their own times, as those of a real clip; states are evenly spaced."""
    clocks = {"face": "face", "face_probs": "face", "speech": None}
    return {
        name: FeatureSpec(
            name="bench",
            weights_sha256="",
            layer=-1,
            pooling=1,
            rate_hz=RATES_HZ["speech" if clock is None else clock],
            width=WIDTH_OF[name],
            clock=clock,
        )
        for name, clock in clocks.items()
    }


def make_shards(folder: Path, num_clips: int) -> None:
    """Whole utterances of MELD's lengths, in SHARDS shards of equally many."""
    lengths_N3, specs = draw_lengths(WHOLE, num_clips, seed=2), passport()
    rng = np.random.default_rng(3)
    samples = [_sample(n, *map(int, lengths), rng) for n, lengths in enumerate(lengths_N3)]
    for number, some in enumerate(np.array_split(np.arange(num_clips), SHARDS)):
        write_shard(folder, number, [samples[n] for n in some], [], specs, {}, "bench")


def _sample(
    number: int, pieces: int, faces: int, states: int, rng: np.random.Generator
) -> ClipSample:
    # Of the words of speech few are common and most are rare (Zipf).
    ranks = np.minimum(rng.zipf(1.3, size=max(1, pieces - 2)), VOCABULARY - len(SPECIAL)) - 1
    words = [f"w{rank}" for rank in ranks]
    face_seconds_F = (np.arange(faces) / RATES_HZ["face"]).astype(np.float32)
    state_seconds_F = (np.arange(states) / RATES_HZ["speech"]).astype(np.float32)
    seconds = {"face": face_seconds_F, "face_probs": face_seconds_F, "speech": state_seconds_F}
    values = {
        name: rng.standard_normal((len(seconds_F), WIDTH_OF[name]), dtype=np.float32)
        for name, seconds_F in seconds.items()
    }
    values["face_probs"] = softmax(values["face_probs"], axis=1)
    streams = {
        name: Stream(values_ND=values[name].astype(np.float16), seconds_N=seconds_F)
        for name, seconds_F in seconds.items()
    }
    return ClipSample(
        id=clip_id("bench", f"film{number // 100}", 3.0 * (number % 100)),
        text=" ".join(words),
        words=words,
        streams=streams,
    )
