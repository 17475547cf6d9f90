"""The probe of lips: what is seen of a word, and what a probe can and cannot tell."""

import numpy as np
import pytest

from data_pipeline.errors import UserError
from data_pipeline.recipes.lip_probe import Seen, between, main, probe, word_spans

ALIGN = "0 5000 sil\n5000 10000 bin\n10000 15000 blue\n15000 20000 at\n20000 25000 f\n"


def test_a_word_has_the_times_of_its_file(tmp_path):
    path = tmp_path / "bbaf2n.align"
    path.write_text(ALIGN + "25000 50000 two\n50000 60000 now\n60000 70000 sil\n")
    assert word_spans(path) == pytest.approx(np.array([[0.6, 0.8], [0.8, 1.0], [1.0, 2.0]]))
    path.write_text(ALIGN)
    with pytest.raises(UserError, match="has 4 words; expected the six"):
        word_spans(path)


def test_between_frames_it_is_linear_and_beyond_them_still():
    seconds_F, values_FD = np.array([1.0, 1.5, 1.7]), np.array([[0.0, 1], [10, 1], [20, 3]])
    found = between(np.array([0.0, 1.25, 1.5, 1.6, 9.0]), seconds_F, values_FD)
    assert found == pytest.approx(np.array([[0, 1], [5, 1], [10, 1], [15, 2], [20, 3]]))
    assert between(np.array([0.0, 2.0]), seconds_F[:1], values_FD[:1]).tolist() == [[0, 1], [0, 1]]


def test_ten_a_second_sees_no_other_frames():
    rng = np.random.default_rng(0)
    seen = Seen(
        name="bbaf2n",
        spans_W2=np.array([[0.1, 0.2], [0.2, 0.3], [0.3, 0.5]]),
        seconds_F=np.arange(20) / 25,
        is_tick_F=np.arange(20) % 5 == 0,
        face_FD=rng.normal(size=(20, 3)),
        crops_FHW=rng.integers(0, 255, (20, 4, 4), np.uint8),
        mouth_FHW=rng.integers(0, 255, (20, 2, 3), np.uint8),
    )
    before = {name: seen.view(name, "letter") for name in ("face", "face25", "mouth", "mouth25")}
    seen.face_FD[~seen.is_tick_F] += 1
    seen.mouth_FHW[~seen.is_tick_F] //= 2
    after = {name: seen.view(name, "letter") for name in before}
    changed = {name: not np.array_equal(before[name], after[name]) for name in before}
    assert changed == {"face": False, "face25": True, "mouth": False, "mouth25": True}


def test_a_probe_names_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    truth_N = np.array(["a", "b", "c"])[rng.integers(0, 3, 150)]
    noise_NC = rng.normal(size=(150, 300))
    there_NC = noise_NC + 3 * (truth_N[:, None] == np.repeat(["a", "b", "c"], 100))
    assert probe(there_NC, truth_N).mean() > 0.95
    assert probe(noise_NC, truth_N).mean() == pytest.approx(1 / 3, abs=0.15)


def test_a_folder_without_clips_is_told(tmp_path, capsys):
    assert main([str(tmp_path), "--output", str(tmp_path / "page.md")]) == 2
    assert f"no clips/*.mp4 in {tmp_path}" in capsys.readouterr().err
