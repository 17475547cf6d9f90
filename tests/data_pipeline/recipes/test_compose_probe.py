"""The probe of the composed benchmark: what one modality knows, and what only both do."""

import numpy as np
import pytest
import toys

from data_pipeline.recipes.compose_probe import main, probe, write


def test_what_each_knows_and_all_together(tmp_path):
    """Four classes of two bits, and a modality that knows one bit each."""
    rng = np.random.default_rng(0)
    truth_N = rng.integers(0, 4, 900)
    bits = {"face": truth_N % 2, "speech": truth_N // 2}
    vectors = {
        n: np.c_[2.0 * b + 0.2 * rng.normal(size=900), rng.normal(size=900)]
        for n, b in bits.items()
    }
    split_N = np.repeat(["train", "dev", "test"], 300)
    names = np.array(["anger", "happy", "neutral", "sad"])
    face, speech, both = probe(vectors, split_N, names[truth_N])
    assert face["ua"] == pytest.approx(0.5, abs=0.07) == speech["ua"]
    assert both["ua"] > 0.97 and both["sees"] == "face+speech" and both["num_clips"] == 300
    assert all(x["ua_low"] <= x["ua"] <= x["ua_high"] for x in (face, speech, both))
    text = write(tmp_path, [face, speech, both])
    assert "| face+speech | " in text and "| 100% |" in text
    assert (tmp_path / "difficulty.csv").read_text().startswith("sees,ua,")


def test_other_shards_are_told(tmp_path, capsys):
    shards = toys.write_shards(tmp_path / "shards", [toys.numbered(n) for n in range(4)], 1)
    assert main([str(shards), "--output", str(tmp_path / "out")]) == 2
    assert "is none of the composed benchmark's" in capsys.readouterr().err
