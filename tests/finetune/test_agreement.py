"""What a modality check can tell: streams that share much, and streams that share nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from data_pipeline.schema import ClipSample, Stream
from finetune.heads.modality_check import Agreement
from finetune.recognizer import Recognizer
from finetune.robustness.agreement import agreements, another_clips, main, measure, write
from finetune.robustness.judge import RobustnessError

WIDTHS = {"face": 10, "speech": 12}
SHARED = 6


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Checker(Recognizer):
    """Asks its check of the means of two streams."""

    classifier: nn.Module

    def predict(self, samples, *, passport=None):
        for start in range(0, len(samples), 7):  # in batches, as the real one
            means = means_of(samples[start : start + 7])
            self.classifier[0]({n: torch.from_numpy(m).float() for n, m in means.items()}, PAIR)
        return np.ones((len(samples), 1))


PAIR = ("face", "speech")


def means_of(samples) -> dict[str, np.ndarray]:
    """Zeros where there is no stream, as of a padded batch."""
    return {
        n: np.stack([s.streams[n].values_ND.mean(0) if s.has(n) else np.zeros(w) for s in samples])
        for n, w in WIDTHS.items()
    }


def make(count: int, shared: float, seed: int) -> list[ClipSample]:
    """Clips whose streams are the same numbers seen from two sides, or have nothing common."""
    rng, sides = np.random.default_rng(seed), np.random.default_rng(9)
    side = {name: sides.normal(size=(SHARED, width)) for name, width in WIDTHS.items()}
    samples = []
    for number in range(count):
        common = rng.normal(size=SHARED)
        streams = {}
        for name, width in WIDTHS.items():
            own = rng.normal(size=SHARED)
            mean = (shared * common + (1 - shared) * own) @ side[name]
            rows = mean + rng.normal(size=(10, width))
            streams[name] = Stream(
                values_ND=rows.astype(np.float32), seconds_N=np.arange(10, dtype=np.float32) / 10
            )
        samples.append(ClipSample(id=f"c-{number}", text="a", words=(), streams=streams, meta={}))
    return samples


def checker(shared: float) -> Checker:
    check = Agreement(WIDTHS, SHARED)
    train = make(300, shared, 1)
    check.fit(means_of(train), dict.fromkeys(WIDTHS, np.ones(300, bool)))
    return Checker(classes=("a",), passport={}, classifier=nn.Sequential(check))


@pytest.mark.parametrize(("shared", "low", "high"), [(0.95, 0.9, 1.0), (0.0, 0.4, 0.6)])
def test_another_clips_stream_is_told_where_streams_share_something(shared, low, high, tmp_path):
    lines = measure(checker(shared), make(200, shared, 2), seed=0)
    assert [(x["changed"], x["change"]) for x in lines] == [
        ("face", "another clip's"),
        ("face", "noisy"),
        ("speech", "another clip's"),
        ("speech", "noisy"),
    ]
    for line in lines:
        assert line["pair"] == "face and speech" and line["num_clips"] == 200
        assert low <= line["auc"] <= high
    if shared:
        assert all(line["own"] > 0.8 > line["now"] for line in lines)
    text = write(tmp_path, [{"recognizer": "x"} | line for line in lines])
    assert "| face and speech | speech noisy |" in text == (tmp_path / "agreement.md").read_text()


def test_agreements_are_those_of_each_clip_alone():
    one, samples = checker(0.9), make(20, 0.9, 3)
    together = agreements(one, samples)[PAIR]
    alone = [agreements(one, [sample])[PAIR][0] for sample in samples]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_nobody_keeps_its_own_stream():
    samples = make(30, 0.5, 4)
    for seed in range(5):
        changed = another_clips(samples, "speech", np.random.default_rng(seed))
        given = [c.streams["speech"] for c in changed]
        assert not any(a is b.streams["speech"] for a, b in zip(given, samples, strict=True))
        assert len({id(stream) for stream in given}) == 30
        assert all(
            c.streams["face"] is s.streams["face"] for c, s in zip(changed, samples, strict=True)
        )


def test_clips_without_a_stream_are_not_counted():
    one, samples = checker(0.95), make(200, 0.95, 2)
    some = [
        dataclasses.replace(s, streams={"speech": s.streams["speech"]}) if n % 4 == 0 else s
        for n, s in enumerate(samples)
    ]
    found = agreements(one, some)[PAIR]
    assert np.isnan(found[::4]).all() and np.isfinite(np.delete(found, slice(0, None, 4))).all()
    for line in measure(one, some, seed=0):
        assert line["num_clips"] == 150 and line["auc"] > 0.9
    with pytest.raises(RobustnessError, match="1 of the clips have both face and speech"):
        measure(one, some[:2], seed=0)


def test_a_recognizer_without_a_check_is_told(tmp_path, capsys):
    without = Checker(classes=("a",), passport={}, classifier=nn.Sequential(nn.Identity()))
    with pytest.raises(
        RobustnessError, match="no modality check; expected one of head m3er, of three"
    ):
        agreements(without, [])
    command = [str(tmp_path), "--shards", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert "no recognizer.json" in capsys.readouterr().err
