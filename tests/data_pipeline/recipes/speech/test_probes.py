import csv
from types import SimpleNamespace

import numpy as np
import pytest

from data_pipeline.recipes.speech import corpora, probes
from data_pipeline.recipes.speech import scores as scores_file


def system(describe) -> probes.System:
    return probes.System(name="toy", describe=describe, rate_hz=10.0)


def toy_emotions(informative: bool):
    """120 sounds of 6 speakers; the mean of a sound tells its label, or nothing does."""
    rng = np.random.default_rng(0)
    utterances, sounds = [], []
    for i in range(120):
        label = i % 3
        utterances.append(
            corpora.Utterance(
                corpus="emodb",
                id=str(i),
                path=None,
                speaker=("03", "08", "09", "10", "14", "15")[i // 20],
                label=str(label),
            )
        )
        sounds.append(rng.standard_normal((20, 4)) + (label * 2 if informative else 0))
    return utterances, sounds


def test_a_probe_finds_what_is_there_and_nothing_where_nothing_is():
    for informative, low, high in ((True, 0.95, 1.0), (False, 0.15, 0.5)):
        utterances, sounds = toy_emotions(informative)
        scores = probes.emotion_scores(system(lambda x: x), "emodb", utterances, sounds)
        folds, few, held = scores
        assert low <= folds.mean <= high and folds.tested == 120
        assert low - 0.1 <= few.mean <= high and few.tested == 120
        assert low <= held.mean <= high and held.tested == 40


def test_moments_are_mean_and_deviation_over_time():
    state_SD = np.array([[0.0, 1.0], [2.0, 1.0]], np.float16)
    np.testing.assert_allclose(probes.moments(state_SD), [1, 1, 1, 0])


def test_a_word_is_described_by_the_states_of_its_interval():
    words = (
        corpora.Word(text="one", start=0.0, end=0.2),
        corpora.Word(text="two", start=0.55, end=0.6),
        corpora.Word(text="late", start=9.0, end=9.5),
    )
    utterance = corpora.Utterance(corpus="grid", id="a", path=None, speaker="s1", words=words)
    ramp = np.arange(10.0)[:, None]
    rows = probes.word_states(system(lambda x: ramp), utterance, np.zeros(1))
    np.testing.assert_allclose(rows[:, 0], [0.5, 5.0, 9.0])  # past the end: the last state


def test_scores_are_written_as_csv_and_as_a_table(tmp_path):
    scores = [
        scores_file.Score(system=s, probe=p, measure="UAR", mean=0.5, spread=d, tested=9)
        for s in ("a", "b")
        for p, d in (("x", 0.01), ("y", 0.0))
    ]
    scores_file.write_scores(scores, "probes", tmp_path)
    with open(tmp_path / "probes.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and rows[0]["mean"] == "0.5000"
    text = (tmp_path / "probes.md").read_text()
    assert "| b | 0.500 ± 0.010 | 0.500 |" in text and "x (UAR, n=9)" in text


def test_a_system_that_was_not_measured_has_a_dash():
    scores = [
        scores_file.Score(system=s, probe=p, measure="UAR", mean=0.5, spread=0.0, tested=9)
        for s, p in (("a", "x"), ("b", "x"), ("b", "y"))
    ]
    text = scores_file.markdown(scores)
    assert "| a | 0.500 | - |" in text and "| b | 0.500 | 0.500 |" in text
    assert "y (UAR, n=9)" in text


def test_corpora_are_read_with_held_out_speakers(shared_data):
    ravdess = corpora.read_corpus("ravdess", shared_data)
    assert {u.speaker for u in ravdess if u.held_out} == {"19", "20", "21", "22"}
    assert len({u.label for u in ravdess}) == 8
    emodb = corpora.read_corpus("emodb", shared_data)
    assert {u.speaker for u in emodb if u.held_out} == {"14", "15"}
    assert len({u.label for u in emodb}) == 7
    assert not any(u.held_out for u in corpora.read_corpus("cremad", shared_data))


def test_alignments_name_the_words_of_the_sentence(shared_data):
    first = corpora.read_corpus("grid", shared_data)[0]
    assert [w.text for w in first.words] == ["bin", "blue", "at", "f", "two", "now"]
    assert first.words[0].start == pytest.approx(0.95)
    assert all(w.end > w.start for w in first.words)


def test_any_corpus_file_becomes_mono_16k(shared_data):
    for name, seconds in (("emodb", 2.0), ("cremad", 2.27), ("grid", 3.0)):
        sound_T = corpora.read_sound(corpora.read_corpus(name, shared_data)[0].path)
        assert sound_T.dtype == np.float32 and sound_T.ndim == 1
        assert len(sound_T) / 16_000 == pytest.approx(seconds, abs=0.05)


def test_missing_corpora_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("MEMOBERT_SHARED", str(tmp_path))
    with pytest.raises(corpora.CorpusError, match="set MEMOBERT_SHARED"):
        corpora.read_corpus("emodb")
    with pytest.raises(corpora.CorpusError, match="known: cremad, emodb"):
        corpora.read_corpus("iemocap", tmp_path)


@pytest.mark.slow
def test_bench_times_both_on_the_same_sound(shared_data, tmp_path):
    probes.bench("wav2vec2_small", seconds=2.0, repeats=1, out=tmp_path)
    with open(tmp_path / "bench.csv") as file:
        small, base = csv.DictReader(file)
    assert float(small["sound_s"]) == float(base["sound_s"]) == 2.0
    assert int(base["weights"]) == 94_371_712 and float(base["times_base"]) == 1.0


def test_scale_tells_the_spread_of_what_was_kept_out(monkeypatch, capsys):
    heard = [SimpleNamespace(path=n, held_out=n > 0) for n in range(3)]
    monkeypatch.setattr(probes, "read_corpus", lambda corpus: heard)
    monkeypatch.setattr(probes, "read_sound", lambda path: np.full(4, path))
    probes.scale(lambda sound_T: np.outer(sound_T, [1.0, 4.0]))
    assert "2 sounds: deviations 0.50 to 2.00, median 1.25" in capsys.readouterr().out
