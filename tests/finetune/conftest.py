"""Toy corpora with a signal, and a toy pretrained model: what the finetuning tests run on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from transformers import BertConfig, BertForPreTraining, BertTokenizerFast

from data_pipeline.schema import ClipSample, Passport, Stream
from data_pipeline.shards import write_shard
from finetune.run import main
from pretrain.checkpoint.folder import save_checkpoint
from pretrain.config import PretrainConfig
from pretrain.model.memobert import MEmoBert

EMOTIONS = ("anger", "happy", "neutral", "sad")
SPEECH_WIDTH = 6
PASSPORT = toys.passport(speech_width=SPEECH_WIDTH)
VOCABULARY = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "!", "i", "am", "it", "was"),
    *("do", "##n", "not", "forget", "a", "jacket", "the", "sur", "##face", "is", "slick"),
    *(*EMOTIONS, "hungry", "an", "##ger", "other", "disgust", "fear", "surprise", "angry"),
)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> BertTokenizerFast:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n")
    return BertTokenizerFast(str(path))


def make_clips(
    *, num_speakers: int, per_speaker: int, signal: float, seed: int = 0, labels=EMOTIONS
) -> list[ClipSample]:
    """Clips whose speech and faces are noise plus `signal` times their emotion's own vector."""
    rng = np.random.default_rng(seed)
    num_emotions = max(len(EMOTIONS), len(labels))
    speech_ED = rng.normal(size=(num_emotions, SPEECH_WIDTH))
    face_E342 = rng.normal(size=(num_emotions, 342)) / 4
    clips = []
    for number in range(num_speakers * per_speaker):
        emotion = number % len(labels)
        speaker = number // per_speaker
        frames, states = rng.integers(3, 7), rng.integers(4, 9)
        face_FC = rng.normal(size=(frames, 342)) + signal * face_E342[emotion]
        probs_FE = rng.dirichlet(np.ones(8), size=frames)
        speech_SD = rng.normal(size=(states, SPEECH_WIDTH)) + signal * speech_ED[emotion]
        words = ["Do", "not", "forget", "a", "jacket."] if number % 2 else ["The", "surface"]
        clips.append(
            ClipSample(
                id=f"toy-s{speaker}-{number:03d}",
                text=" ".join(words),
                words=words,
                streams={
                    "face": _stream("face", face_FC),
                    "face_probs": _stream("face", probs_FE),
                    "speech": _stream("speech", speech_SD),
                },
                meta={
                    "corpus": "toy",
                    "speaker": str(speaker),
                    "recording": f"r{number}",
                    "label": labels[emotion],
                },
            )
        )
    return clips


def _stream(clock: str, values_ND: np.ndarray) -> Stream:
    seconds_N = PASSPORT[clock].seconds(len(values_ND))
    return Stream(values_ND=values_ND.astype(np.float16), seconds_N=seconds_N)


def without_face(clip: ClipSample) -> ClipSample:
    return clip.only(("text", "speech"))


@pytest.fixture
def write_shards(tmp_path) -> Callable[..., Path]:
    """write_shards(clips, name="shards", passport=PASSPORT) -> folder."""

    def write(clips: list[ClipSample], name: str = "shards", passport: Passport = PASSPORT) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        half = len(clips) // 2
        for index, part in enumerate((clips[:half], clips[half:])):
            write_shard(folder, index, part, [], passport, {"numpy": "2"}, "toy")
        return folder

    return write


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tokenizer) -> Path:
    """A model of one narrow layer, with weights as large as so narrow a one would have learned."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    model = MEmoBert(
        vocab_size=len(VOCABULARY),
        width=16,
        num_layers=1,
        num_heads=2,
        ffn_width=32,
        max_text_positions=48,
        max_frame_positions=40,
        **toys.model_sizes(speech_width=SPEECH_WIDTH),
        dropout=0.0,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)  # from a standard deviation of 0.02 to 0.2
    save_checkpoint(folder, model, tokenizer, PASSPORT, PretrainConfig())
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory, tokenizer) -> Path:
    """A BERT of the checkpoint's size, with its tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=48,
    )
    BertForPreTraining(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory, checkpoint) -> tuple[dict[str, Path], Path]:
    """(run folders by setting, shard folder) of a linear and a prompt run on one fold."""
    top = tmp_path_factory.mktemp("trained")
    (top / "shards").mkdir()
    clips = make_clips(num_speakers=3, per_speaker=8, signal=2.0)
    write_shard(top / "shards", 0, clips, [], PASSPORT, {}, "toy")
    arguments = [
        *(f"data.shards=[{top / 'shards'}]", f"model.checkpoint={checkpoint}", "folds=[0]"),
        *("settings=[pretrain_finetune, pretrain_prompt]", f"output={top / 'out'}", *toys.FAST),
    ]
    assert main(arguments) == 0
    folders = {path.parent.name: path for path in top.glob("out/runs/*/*")}
    assert folders.keys() == {"pretrain_finetune", "pretrain_prompt"}
    return folders, top / "shards"
