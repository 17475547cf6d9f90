"""The robustness passport: any recognizer, on its run's own test clips, with modalities missing."""

import csv
import dataclasses
import shutil

import numpy as np
import pytest
import toys
from PIL import Image

from data_pipeline.shards import write_shard
from finetune.recognizer import Recognizer
from finetune.robustness.__main__ import main
from finetune.robustness.differences import differences, settings_of
from finetune.robustness.judge import JudgedClips, judge, kept_of, noisy_of
from finetune.run import main as finetune
from finetune.runs.results import read_all_rows

from .conftest import PASSPORT, make_clips, without_face

MODALITIES = ("text", "face", "speech")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Listener(Recognizer):
    """Right where it hears; says the first class else."""

    truth_of: dict

    def predict(self, samples, *, passport=None):
        said = [self.truth_of[s.id] if s.has("speech") else 0 for s in samples]
        return np.eye(len(self.classes))[said]


def test_scores_are_those_of_what_is_left(tmp_path):
    samples = make_clips(num_speakers=5, per_speaker=40, signal=0)
    truth_N = np.arange(200) % 4
    listener = Listener(
        classes=("anger", "happy", "neutral", "sad"),
        passport=PASSPORT,
        truth_of={s.id: int(t) for s, t in zip(samples, truth_N, strict=True)},
    )
    clips = JudgedClips(samples=samples, truth_N=truth_N, source=tmp_path, said_NC=None)
    lines = judge(listener, clips, MODALITIES, rates=(0.0, 0.5, 1.0), num_draws=3)
    subsets = {line["case"]: line for line in lines if line["kind"] == "subset"}
    assert len(subsets) == 7 and list(subsets)[0] == "text+face+speech"
    for case, line in subsets.items():
        assert line["ua"] == line["wa"] == (1.0 if "speech" in case else 0.25)
        assert line["dropped"] == pytest.approx(1 - len(case.split("+")) / 3)
        assert line["ua_low"] <= line["ua"] <= line["ua_high"]
    none, half, most = (line for line in lines if line["kind"] == "rate")
    assert (none["ua"], none["dropped"], none["num_draws"]) == (1.0, 0.0, 1)
    # Kept with 1/2, or as the last of three, with 1/3 of 1/8: 0.542; without it a quarter right.
    assert half["num_draws"] == 3
    assert half["wa"] == pytest.approx(0.25 + 0.75 * (0.5 + 1 / 24), abs=0.06)
    assert half["dropped"] == pytest.approx(0.5 - 1 / 24, abs=0.04)
    # One modality of each clip is left, any of three.
    assert most["dropped"] == pytest.approx(2 / 3)
    assert most["wa"] == pytest.approx(0.25 + 0.75 / 3, abs=0.08)
    assert lines == judge(listener, clips, MODALITIES, rates=(0.0, 0.5, 1.0), num_draws=3)


def test_noise_has_its_power_and_is_on_one_stream_of_three_clips_in_four():
    clips = make_clips(num_speakers=5, per_speaker=80, signal=0)
    ratios, untouched = [], 0
    for clip in clips:
        noisy = noisy_of(clip, "face", 0.25, (0, 0))
        assert noisy.streams["speech"] is clip.streams["speech"] and noisy.text == clip.text
        noisy.check(PASSPORT)
        plain_ND, noisy_ND = (c.streams["face"].values_ND.astype(np.float64) for c in (clip, noisy))
        untouched += np.array_equal(plain_ND, noisy_ND)
        if not np.array_equal(plain_ND, noisy_ND):
            ratios.append(plain_ND.var(0).mean() / np.square(noisy_ND - plain_ND).mean())
        again = noisy_of(clip, "face", 0.25, (0, 0)).streams["face"].values_ND
        assert np.array_equal(again, noisy.streams["face"].values_ND)
    assert np.mean(ratios) == pytest.approx(0.25, rel=0.05)
    assert untouched / len(clips) == pytest.approx(0.25, abs=0.06)
    assert noisy_of(without_face(clips[0]), "face", 0.25, (0, 0)).has("face") is False


def test_noise_is_as_strong_on_a_small_number_as_on_a_large_one():
    (clip,) = make_clips(num_speakers=1, per_speaker=1, signal=0)
    rows = clip.streams["face"]
    scale_D = np.logspace(-3, 1, rows.values_ND.shape[1])
    values_ND = np.random.default_rng(0).normal(size=(400, len(scale_D))) * scale_D
    rows = dataclasses.replace(
        rows,
        values_ND=values_ND.astype(np.float32),
        seconds_N=np.arange(400, dtype=np.float32) / 10,
    )
    clip = dataclasses.replace(clip, streams={"face": rows})
    noisy_ND = noisy_of(clip, "face", 0.25, (0, 0), share=1.0).streams["face"].values_ND
    ratio_D = values_ND.var(0) / (noisy_ND - values_ND).var(0)
    np.testing.assert_allclose(ratio_D, 0.25, rtol=0.35)
    assert noisy_of(clip, "face", 0.25, (0, 0), share=0.0) is clip


def test_the_last_one_is_kept_and_larger_rates_drop_more_of_the_same():
    for sample in make_clips(num_speakers=2, per_speaker=20, signal=0):
        before = MODALITIES
        for rate in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
            kept = kept_of(sample, MODALITIES, rate, (0, 0))
            assert kept and set(kept) <= set(before)
            before = kept
        assert kept_of(without_face(sample), ("face",), 0.5, (0, 0)) == ()
        # A recognizer of fewer modalities has the same lots for them.
        both = kept_of(sample, ("text", "speech"), 0.4, (0, 0))
        assert {m for m in kept_of(sample, MODALITIES, 0.4, (0, 0)) if m != "face"} <= set(both)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, checkpoint):
    """(results folder, shards): two folds of a prompt, of one without faces and of a system of
    one stream; clip 3 has no face."""
    top = tmp_path_factory.mktemp("robust")
    (top / "shards").mkdir()
    clips = make_clips(num_speakers=3, per_speaker=8, signal=2.0)
    clips[3] = without_face(clips[3])
    write_shard(top / "shards", 0, clips, [], PASSPORT, {}, "toy")
    common = [f"data.shards=[{top / 'shards'}]", f"model.checkpoint={checkpoint}", *toys.FAST]
    common += ["own_settings.mine={system: own.nearest_mean, options: {scale: 0.5}}"]
    common += ["folds=[0, 1]", f"output={top / 'out'}"]
    seven = "evaluate_cases=seven"
    assert finetune([*common, "settings=[pretrain_prompt]", seven]) == 0
    assert finetune([*common, "settings=[mine]"]) == 0
    deaf = ["settings=[pretrain_finetune]", "data.modalities=[text, speech]"]
    assert finetune([*common, *deaf]) == 0
    return top / "out", top / "shards"


def passport_of(output, words):
    assert main([*map(str, words), "--output", str(output)]) == 0
    with open(output / "robustness.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_subsets_are_what_the_run_itself_measured(tmp_path, trained, root, capsys):
    out, shards = trained
    folders = sorted(out.glob("runs/pretrain_prompt/*/recognizer"))
    lines = passport_of(tmp_path / "new", [*folders, "--shards", shards, "--rates", "0,.5"])
    assert len(lines) == 2 * (7 + 2)
    measured = {(r.fold, r.case): r for r in read_all_rows(out) if r.split == "test"}
    for line in lines:
        if line["kind"] == "subset":
            row = measured[int(line["fold"]), line["case"]]
            assert (float(line["wa"]), float(line["ua"])) == (row.wa, row.ua)
            assert int(line["num_clips"]) == row.num_test == 8
    page = (root / "docs/files.md").read_text().partition("### `robustness.csv`")[2]
    assert all(f"`{name}`" in page.partition("###")[0] for name in lines[0])
    text = (tmp_path / "new/robustness.md").read_text()
    assert text in capsys.readouterr().out
    assert "Judged: the test clips of each recognizer's own run" in text
    assert "| pretrain_prompt | 50% |" in text and "its run's predictions.csv" not in text
    assert any("1 of 8 clips have none of face: judged unseen" in n for n in text.splitlines())
    pixels_HW3 = np.asarray(Image.open(tmp_path / "new/robustness.png").convert("RGB"))
    assert pixels_HW3.shape[1] == 506 and np.ptp(pixels_HW3) == 255


def test_every_system_and_one_of_fewer_streams_has_a_passport(tmp_path, trained):
    out, shards = trained
    folders = sorted(out.glob("runs/*/*/recognizer"))
    lines = passport_of(tmp_path, [*folders, "--shards", shards, "--draws", 2])
    cases = {
        setting: {x["case"] for x in lines if (x["setting"], x["kind"]) == (setting, "subset")}
        for setting in ("mine", "pretrain_finetune", "pretrain_prompt")
    }
    assert cases["mine"] == {"speech"} and len(cases["pretrain_prompt"]) == 7
    assert cases["pretrain_finetune"] == {"text", "speech", "text+speech"}
    mine = [x for x in lines if x["setting"] == "mine"]
    assert {x["ua"] for x in mine} == {"1.0"} and {float(x["dropped"]) for x in mine} == {0.0}


def test_noise_is_a_table_of_its_own(tmp_path, trained, capsys):
    out, shards = trained
    folder, *_ = out.glob("runs/pretrain_prompt/*/recognizer")
    command = [str(folder), "--shards", str(shards), "--output", str(tmp_path / "r")]
    assert main([*command, "--draws", "1", "--noise", "face", "speech", "--ratios", "1,.01"]) == 0
    told = capsys.readouterr().out
    assert "| pretrain_prompt | speech | 0.01 |" in told
    assert main([*command, "--noise", "text"]) == 2
    assert "--noise text" in capsys.readouterr().err


def test_clips_can_be_named_and_what_is_not_there_is_an_error(tmp_path, trained, capsys):
    out, shards = trained
    folder = sorted(out.glob("runs/pretrain_prompt/fold0-*/recognizer"))[0]
    moved = shutil.copytree(folder, tmp_path / "moved")
    words = [str(moved), "--shards", str(shards), "--output", str(tmp_path / "made")]
    assert main(words) == 2
    assert f"no {tmp_path / 'predictions.csv'}, which says which clips" in capsys.readouterr().err
    table = tmp_path / "table.csv"
    table.write_text("clip,truth\ntoy-s0-000,anger\ntoy-s0-001,happy\n")
    assert main([*words, "--clips", str(table)]) == 0
    out = capsys.readouterr().out
    assert f"Judged: the clips of {table}." in out and "own run" not in out
    for text, message in {
        "clip,truth\ngone,anger\n": "1 of the 1 clips of",
        "clip,truth\ntoy-s0-000,rage\n": "the classes rage are not the recognizer's",
        "clip,label\ntoy-s0-000,anger\n": "has no truth; expected a row a clip",
        "": "has no clip and no truth",
        "clip,truth\nx,sad\nx,sad\n": "2 rows for 1 clips; expected a row a clip",
    }.items():
        table.write_text(text)
        assert main([*words, "--clips", str(table)]) == 2
        assert message in capsys.readouterr().err
    assert main([str(folder), *words[1:], "--shards", "gone"]) == 2
    assert "gone" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--rates", "0,2"])
    assert "expected numbers from 0 to 1" in capsys.readouterr().err
    assert main([str(moved), *words]) == 2
    assert "twice" in capsys.readouterr().err


def test_shards_of_other_clips_under_the_same_ids_are_told(tmp_path, trained, capsys):
    out, _ = trained
    clips = make_clips(num_speakers=3, per_speaker=8, signal=2.0, seed=5)
    (tmp_path / "shards").mkdir()
    write_shard(tmp_path / "shards", 0, clips, [], PASSPORT, {}, "toy")
    folder = sorted(out.glob("runs/pretrain_prompt/fold0-*/recognizer"))[0]
    words = [str(folder), "--shards", str(tmp_path / "shards"), "--output", str(tmp_path)]
    assert main(words) == 0
    assert "says something else than its run's predictions.csv" in capsys.readouterr().out


def test_two_settings_are_compared_case_by_case_over_the_same_runs(tmp_path):
    ua = {("a", 1): 0.7, ("a", 2): 0.8, ("a", 3): 0.9, ("b", 2): 0.7, ("b", 1): 0.65, ("c", 1): 0.1}
    lines = ["setting,fold,seed,kind,case,rate,ua"]
    for (setting, seed), value in ua.items():
        lines += [f"{setting},0,{seed},subset,text,,{value}", f"{setting},0,{seed},rate,all,0,1"]
    (tmp_path / "robustness.csv").write_text("\n".join(lines) + "\n")
    assert settings_of(tmp_path) == ["a", "b", "c"]
    gaps = np.array([0.7 - 0.65, 0.8 - 0.7])
    reach = 12.7062 * gaps.std(ddof=1) / np.sqrt(2)  # Student's t of one degree of freedom, .975
    ends = [f"{100 * (gaps.mean() + side * reach):+.1f}" for side in (-1, 1)]
    (row,) = differences(tmp_path, "a", "b").splitlines()[2:]
    assert row == f"| sees text | +7.5 | {ends[0]} to {ends[1]} | 0.205 | 2 |"
    assert differences(tmp_path, "a", "c").count("\n") == 1  # one pair is no spread
