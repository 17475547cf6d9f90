import random

import numpy as np
import pytest
from tokenizers import pre_tokenizers
from transformers import BertTokenizerFast

from pretrain.data.words import by_the_clip, word_pieces

WORDS = [
    *("I am unbelievable! don't go, o'clock 3.14 naïve Ünïcödé 東京 e-mail @you #1 ...").split(),
    *(
        "[SEP] [MASK] [CLS] [UNK] [PAD] x[MASK]y ##ing [unused1] <b> 🙂 A\u0301 \u200b \u00ad"
    ).split(),
    *("", " ", "two words", "a" * 300, "\u4e00\u4e8c", "ＦＵＬＬ", "ﬁne", "\x00", "tab\tbed"),
]


def test_word_by_word_is_what_one_call_gives(bert_tokenizer):
    rng = random.Random(0)
    for size in range(60):
        words = rng.choices(WORDS, k=size + 1)
        for found, expected in zip(
            word_pieces(bert_tokenizer, words), by_the_clip(bert_tokenizer, words), strict=True
        ):
            assert found.dtype == expected.dtype == np.int64
            assert found.tolist() == expected.tolist(), words


def test_a_tokenizer_that_is_not_berts_is_asked_for_the_clip(monkeypatch):
    """As of one that joins a word to the one before it."""
    tokenizer = BertTokenizerFast(vocab={p: i for i, p in enumerate("[UNK] [CLS] [SEP] a".split())})
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    asked = []
    monkeypatch.setattr(
        "pretrain.data.words.by_the_clip", lambda tokenizer, words: asked.append(words)
    )
    word_pieces(tokenizer, ["a", "a"])
    assert asked == [["a", "a"]]


@pytest.mark.parametrize("lower", [True, False])
def test_a_tokenizer_keeps_its_own_words(lower):
    vocabulary = {p: i for i, p in enumerate("[PAD] [UNK] [CLS] [SEP] [MASK] am Am".split())}
    tokenizer = BertTokenizerFast(vocab=vocabulary, do_lower_case=lower)
    assert word_pieces(tokenizer, ["Am"])[0].tolist() == [2, 5 if lower else 6, 3]
