"""Stories as rows, and models on them: the equations written a second time."""

import dataclasses
import zipfile

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from data_pipeline.errors import UserError
from data_pipeline.schema import ClipSample
from finetune.clips.labelled import DatasetError, LabelledClip
from finetune.systems.stories import kept, models
from finetune.systems.stories.models import (
    LEAST,
    MODELS,
    inner_folds,
    log_probabilities,
    raw_scores,
    search,
    temperature_of,
)
from finetune.systems.stories.story import group_of, row_of, stories_of, story_of

from .test_stories import HEARD, PASSPORT, SAID, stream


def clip(number, *, heard=None, said=None, seconds=1.0, label=0, **meta):
    rows = {"heard": (heard, HEARD), "said": (said, SAID)}
    streams = {n: stream(np.array(v), spec) for n, (v, spec) in rows.items() if v is not None}
    told = {"corpus": "toy", "recording": "r", "speaker": "s", "start": 1.0, "end": 1.0 + seconds}
    sample = ClipSample(
        id=f"c{number}", text="so", words=["so"], streams=streams, meta={**told, **meta}
    )
    return LabelledClip(sample=sample, label=label)


@pytest.mark.parametrize(
    ("weighting", "heard", "said"),
    [("duration", [3 / 4, 1 / 4], 1.0), ("uniform", [0.5, 0.5], 1.0)],
)
def test_a_story_is_the_weighted_sum_of_its_clips(weighting, heard, said):
    """Golden: 3 s of rows 1 and 3, whose mean is 2, and 1 s of 6; the second alone says words."""
    clips = [
        clip(0, heard=[[1.0] * 6, [3.0] * 6], seconds=3.0),
        clip(1, heard=[[6.0] * 6], said=[[4.0] * 5], seconds=1.0),
    ]
    (story,) = stories_of(clips, "recording", weighting, ["low", "high"])
    assert story.sample.streams["heard"].values_ND.tolist() == [[heard[0] * 2 + heard[1] * 6] * 6]
    assert story.sample.streams["said"].values_ND.tolist() == [[4.0] * 5]
    assert (story.sample.text, story.sample.words) == ("so so", ["so", "so"])
    assert (story.sample.meta["speaker"], story.label) == ("s", 0)
    story.sample.check(PASSPORT)  # to whoever reads it, it is a clip
    expected = [heard[0] * 2 + heard[1] * 6] * 6 + [4.0] * 5
    assert row_of(story.sample, PASSPORT).tolist() == expected
    alone = row_of(clips[0].sample, PASSPORT)
    assert alone[:6].tolist() == [2.0] * 6 and np.isnan(alone[6:]).all()


def test_two_speakers_of_a_story_are_none_and_names_that_slug_alike_stay_apart():
    clips = [clip(0, said=[[1.0] * 5]), clip(1, said=[[1.0] * 5], speaker="t")]
    (story,) = stories_of(clips, "recording", "uniform", ["low"])
    assert story.sample.meta["speaker"] is None
    clips = [clip(n, said=[[1.0] * 5], recording=name) for n, name in enumerate(("a b", "a_b"))]
    assert len({s.sample.id for s in stories_of(clips, "recording", "uniform", ["low"])}) == 2
    with pytest.raises(DatasetError, match="names no speaker, or several, and options.groups"):
        group_of(story, "speaker")
    assert (group_of(story, "story"), group_of(story, "recording")) == (story.sample.id, "toy/r")
    alone = stories_of(clips, "clip", "duration", ["low"])
    assert [story.sample.id for story in alone] == ["c0", "c1"]
    with pytest.raises(DatasetError, match="c0 has no recording"):
        stories_of([clip(0, recording=None)], "recording", "uniform", ["low"])


def rows(n=90, *, seed=0, missing=0):
    rng = np.random.default_rng(seed)
    label_N = np.arange(n) % 3
    row_NE = rng.normal(size=(n, 7)) * 3 + 5
    row_NE[np.arange(n), label_N] += 4
    row_NE[:missing, 4:] = np.nan
    group_N = np.array([f"g{i // 10}" for i in range(n)])
    return row_NE, label_N, group_N


def test_normalised_filled_and_normalised_again_by_the_equations():
    row_NE, label_N, _ = rows(missing=20)
    pipeline = models.fit("logistic", {"C": 0.1}, row_NE, label_N, seed=0)
    mean_E, sd_E = np.nanmean(row_NE, 0), np.nanstd(row_NE, 0)
    filled = np.nan_to_num((row_NE - mean_E) / sd_E, nan=0.0)
    again = (filled - filled.mean(0)) / filled.std(0)
    np.testing.assert_allclose(pipeline[:-1].transform(row_NE), again, atol=1e-12)
    weight_N = (len(label_N) / 3 / np.bincount(label_N))[label_N]
    plain = LogisticRegression(C=0.1, max_iter=2000).fit(again, label_N, sample_weight=weight_N)
    found = softmax(raw_scores(pipeline, row_NE, 3), axis=1)
    np.testing.assert_allclose(found, plain.predict_proba(again), atol=1e-8)


def test_inner_folds_hold_out_whole_groups_and_each_story_once():
    _, label_N, group_N = rows()
    folds = inner_folds(label_N, group_N, 4, seed=0)
    assert len(folds) == 4
    assert sorted(np.concatenate([held for _, held in folds])) == list(range(90))
    for taught, held in folds:
        assert not set(group_N[taught]) & set(group_N[held])
        assert len(taught) + len(held) == 90
    assert len(inner_folds(label_N[:20], group_N[:20], 4, seed=0)) == 2  # there are two groups
    few = np.array([0, 0, 0, 0, 1, 2])
    assert all(len(set(few[t])) > 1 for t, _ in inner_folds(few, np.arange(6), 4, seed=0))
    for label, group in ((label_N[:10], group_N[:10]), (np.arange(3), np.arange(3))):
        with pytest.raises(DatasetError, match="the inner search cannot hold out whole groups"):
            inner_folds(label, group, 4, seed=0)


def test_the_search_takes_the_best_of_the_grid_on_held_out_rows():
    row_NE, label_N, group_N = rows()
    folds = inner_folds(label_N, group_N, 3, seed=0)
    learned = search("logistic", row_NE, label_N, 3, folds, seed=0)
    ua = {}
    for c in MODELS["logistic"][1][0]["C"]:
        hits = {0: [], 1: [], 2: []}
        for taught, held in folds:
            mean, sd = row_NE[taught].mean(0), row_NE[taught].std(0)
            one = LogisticRegression(C=c, max_iter=2000, class_weight="balanced")
            one.fit((row_NE[taught] - mean) / sd, label_N[taught])
            for truth, said in zip(
                label_N[held], one.predict((row_NE[held] - mean) / sd), strict=True
            ):
                hits[truth].append(truth == said)
        ua[c] = np.mean([np.mean(found) for found in hits.values()])
    assert learned.inner_ua == pytest.approx(max(ua.values()))
    assert ua[learned.parameters["C"]] == pytest.approx(max(ua.values()))
    again = search("logistic", row_NE, label_N, 3, folds, seed=0)
    assert np.array_equal(again.scores(row_NE), learned.scores(row_NE))


def test_the_temperature_is_that_of_the_labels():
    """Labels drawn from softmax(scores / 2.5) are fitted best by 2.5."""
    rng = np.random.default_rng(0)
    score_NC = rng.normal(size=(20_000, 3)) * 6
    said_NC = softmax(score_NC / 2.5, axis=1)
    label_N = (rng.random((len(said_NC), 1)) > said_NC.cumsum(1)).sum(1)
    assert temperature_of(score_NC, label_N) == pytest.approx(2.5, rel=0.05)
    found_NC = log_probabilities(score_NC, 2.5)
    np.testing.assert_allclose(found_NC, np.maximum(log_softmax(score_NC / 2.5, 1), LEAST))
    assert np.array_equal(found_NC.argmax(1), score_NC.argmax(1))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shown", [(0, 1, 2), (0, 2)])
def test_each_model_is_written_and_read_to_the_bit(tmp_path, name, shown):
    """Also one that was never shown a class, which it then never says."""
    row_NE, label_N, group_N = rows(missing=10)
    taught = np.isin(label_N, shown)
    folds = inner_folds(label_N[taught], group_N[taught], 2, seed=0)
    learned = search(name, row_NE[taught], label_N[taught], 3, folds, seed=0)
    kept.write(tmp_path, learned)
    told = {"head": name, "classes": ["a", "b", "c"], **kept.told_of(learned)}
    found_NC = kept.read(tmp_path, told).scores(row_NE)
    assert np.array_equal(found_NC, learned.scores(row_NE))
    assert set(found_NC.argmax(1)) <= set(shown) and np.isfinite(found_NC).all()
    # A support vector machine has no probabilities of its own, and its scores decide as it does.
    assert np.array_equal(found_NC.argmax(1), learned.pipeline.predict(row_NE))
    with zipfile.ZipFile(tmp_path / kept.FILE) as file:
        assert all(part.endswith((".json", ".npy")) for part in file.namelist())


def test_a_file_with_another_type_in_it_is_refused(tmp_path):
    row_NE, label_N, group_N = rows()
    folds = inner_folds(label_N, group_N, 2, seed=0)
    learned = search("logistic", row_NE, label_N, 3, folds, seed=0)
    learned.pipeline.memory = stories_of  # what is no estimator
    kept.write(tmp_path, learned)
    told = {"head": "logistic", "classes": ["a", "b", "c"], **kept.told_of(learned)}
    with pytest.raises(TypeError, match="stories_of"):
        kept.read(tmp_path, told)


def test_without_skops_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skops", None)
    monkeypatch.setitem(__import__("sys").modules, "skops.io", None)
    with pytest.raises(UserError, match=r"pip install -e .\[stories\]"):
        kept.skops_io()


def test_story_of_one_clip_asks_for_no_duration():
    one = clip(0, said=[[1.0] * 5]).sample
    timeless = dataclasses.replace(one, meta={"corpus": "toy"})
    assert story_of("toy/r", [timeless], "duration").has("said")
