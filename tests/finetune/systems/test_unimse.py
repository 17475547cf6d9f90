"""The system goes through the doors that MEmoBERT uses: judged, saved, loaded, asked."""

import csv
import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import toys
from transformers import AutoTokenizer, BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from data_pipeline.schema import SchemaError
from data_pipeline.shards import write_shard
from finetune.clips.labelled import LabelledClip
from finetune.protocols import Splits
from finetune.recognizer import SHIPPED, load_recognizer
from finetune.run import main
from finetune.runs.results import read_rows
from finetune.systems.unimse import table
from finetune.systems.unimse.__main__ import main as unimse
from finetune.systems.unimse.answers import EMOTION
from finetune.systems.unimse.config import Options, Source
from finetune.systems.unimse.labels.lesson import Teacher

from ..conftest import EMOTIONS, PASSPORT, make_clips, without_face
from .conftest import LABELS, make_voices

SHAPE = "shape: {d_model: 16, num_layers: 2, num_heads: 2, d_ff: 32}"
ADAPTERS = "adapters: {num_blocks: 1, hidden: 8}"
PLAN = "plan: {num_steps: 30, learning_rate: 2e-2}"


def run(shards, output, *settings, **own):
    """Own settings by name, each as what stands beside `system`."""
    return main(
        [
            *(f"data.shards=[{shards}]", f"output={output}", "model.checkpoint=null"),
            f"data.labels={{{', '.join(f'{name}: [{name}]' for name in EMOTIONS)}}}",
            *("folds=[0]", *toys.FAST, "eval_every_steps=15"),
            f"settings=[{', '.join(own)}]",
            *(f"own_settings.{n}={{system: unimse, {said}}}" for n, said in own.items()),
            *settings,
        ]
    )


def new(extra="", plan=PLAN, adapters=ADAPTERS):
    return f"{plan}, options: {{{SHAPE}, {adapters}{extra}}}"


@pytest.fixture
def shards(write_shards):
    return write_shards(make_clips(num_speakers=4, per_speaker=8, signal=2.0))


def predicted(folder):
    """Clip -> the probabilities in a run's predictions."""
    with open(folder / "predictions.csv") as file:
        return {
            line["clip"]: [float(line[f"p_{name}"]) for name in EMOTIONS]
            for line in csv.DictReader(file)
        }


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """(results folder, shards): three settings that learned."""
    top = tmp_path_factory.mktemp("learned")
    (top / "shards").mkdir()
    clips = make_clips(num_speakers=6, per_speaker=12, signal=3.0)
    write_shard(top / "shards", 0, clips, [], PASSPORT, {}, "toy")
    own = {"plain": new(", contrast: {weight: 0}", PLAN.replace("30", "60"))}
    own["written"] = new(", contrast: {weight: 0}, decode: generate", PLAN.replace("30", "60"))
    own["words"] = new("", adapters="adapters: {num_blocks: 0}")
    assert run(top / "shards", top / "out", **own) == 0
    return top / "out", top / "shards"


def test_it_learns_what_adapters_bring(learned):
    rows = {row.setting: row for row in read_rows(learned[0])}
    for row in rows.values():
        assert (row.system, row.head) == ("unimse", "answer")
        assert row.checkpoint_sha256 == "" and row.oracle_ua is not None
        assert row.selection == "dev"
    assert rows["plain"].ua > 0.7 and rows["written"].ua > 0.7  # chance is 1/4
    assert rows["words"].ua <= 0.5  # there are two sentences
    assert len({row.recipe for row in rows.values()}) == 3


def test_a_fresh_process_says_the_same(learned, tmp_path):
    out, shards = learned
    (folder,) = out.glob("runs/plain/*")
    program = (
        "import sys, json; from finetune import load_recognizer;"
        "r = load_recognizer(sys.argv[1]); s = list(r.read(sys.argv[2]));"
        "print(json.dumps([[x.id for x in s], r.predict(s).tolist(), r.answer(s[:3])]))"
    )
    words = [sys.executable, "-c", program, str(folder / "recognizer"), str(shards)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    told = json.loads(subprocess.run(words, check=True, capture_output=True, env=env).stdout)
    found = dict(zip(told[0], told[1], strict=True))
    expected = predicted(folder)
    np.testing.assert_allclose(
        [found[clip] for clip in expected], list(expected.values()), atol=1e-6
    )
    recognizer = load_recognizer(folder / "recognizer")
    samples = {sample.id: sample for sample in recognizer.read(shards)}
    alone = np.concatenate([recognizer.predict([samples[clip]]) for clip in expected])
    np.testing.assert_allclose(alone, list(expected.values()), atol=1e-5)
    assert [recognizer.answer([samples[clip]])[0] for clip in told[0][:3]] == told[2]
    assert recognizer.predict([]).shape == (0, 4) and recognizer.answer([]) == []


def test_answers_are_judged_and_counted(learned, tmp_path, capsys):
    out, shards = learned
    (folder,) = out.glob("runs/written/*")
    words = ["answers", str(folder), "--shards", str(shards), "--output", str(tmp_path / "said")]
    assert unimse(words) == 0
    with open(tmp_path / "said/answers.csv") as file:
        lines = list(csv.DictReader(file))
    with open(folder / "predictions.csv") as file:
        judged = {line["clip"]: line["prediction"] for line in csv.DictReader(file)}
    assert {x["clip"]: x[EMOTION] or "(another word)" for x in lines} == judged
    silent = sum(not line[EMOTION] for line in lines)
    assert f"{silent} of {len(lines)} answers name no class" in capsys.readouterr().out
    assert unimse([*words, "--score", "mood"]) == 2
    assert "learned no sentiments; its answers have polarity, emotion" in capsys.readouterr().err


def test_answers_of_another_system_or_without_its_clips_are_told(
    learned, trained, tmp_path, write_shards, capsys
):
    folders, shards = trained
    words = ["--shards", str(shards), "--output", str(tmp_path / "said")]
    assert unimse(["answers", str(folders["pretrain_prompt"]), *words]) == 2
    assert "is a run of another system" in capsys.readouterr().err
    (folder,) = learned[0].glob("runs/plain/*")
    few = write_shards(make_clips(num_speakers=1, per_speaker=8, signal=1.0))
    assert unimse(["answers", str(folder), "--shards", str(few), *words[2:]]) == 2
    assert "test clips of" in capsys.readouterr().err


def test_a_clip_that_lacks_streams_or_words_is_judged(learned):
    (folder,) = learned[0].glob("runs/plain/*/recognizer")
    recognizer = load_recognizer(folder)
    (clip,) = make_clips(num_speakers=1, per_speaker=1, signal=1.0)
    absent = [without_face(clip), clip.only(("text",)), clip.only(("speech",))]
    found = recognizer.predict(absent)
    assert np.isfinite(found).all() and np.allclose(found.sum(1), 1)
    assert not np.allclose(found[0], found[1], atol=1e-4)  # it hears
    broken = np.full_like(clip.streams["speech"].values_ND, np.nan)
    stream = dataclasses.replace(clip.streams["speech"], values_ND=broken)
    with pytest.raises(SchemaError, match="not finite"):
        recognizer.predict([dataclasses.replace(clip, streams={"speech": stream})])
    other = dict(PASSPORT, speech=dataclasses.replace(PASSPORT["speech"], layer=3))
    with pytest.raises(SchemaError, match="another feature passport"):
        recognizer.predict([clip], passport=other)


def test_all_modality_cases_are_trained_and_judged(tmp_path, shards):
    plan = "plan: {num_steps: 8, learning_rate: 1e-2, modality_cases: seven}"
    assert run(shards, tmp_path / "out", "evaluate_cases=seven", mine=new(plan=plan)) == 0
    (folder,) = tmp_path.glob("out/runs/mine/*")
    with open(folder / "case_predictions.csv") as file:
        assert len({line["case"] for line in csv.DictReader(file)}) == 7


@pytest.mark.slow
def test_a_recognizer_hears_a_file(tmp_path, root):
    """finetune.predict on a sound that ships, whose words nobody wrote down."""
    from data_pipeline.features.fbank import Fbank, Settings
    from finetune.predict import main as predict

    passport = Fbank(Settings(mel_bins=8)).passport
    clips = [
        dataclasses.replace(clip, text="so it is", words=["so", "it", "is"])
        for clip in make_voices(num_speakers=4, per_speaker=9)
    ]
    (tmp_path / "shards").mkdir()
    write_shard(tmp_path / "shards", 0, clips, [], passport, {}, "toy")
    labels = "data.labels={anger: [anger], happy: [happy], neutral: [neutral]}"
    change = [labels, "data.modalities=[text, fbank]"]
    assert run(tmp_path / "shards", tmp_path / "out", *change, mine=new()) == 0
    settings = [
        f"recognizer={next(tmp_path.glob('out/runs/mine/*/recognizer'))}",
        "streams={fbank: {mel_bins: 8}, face: false, speech: false}",
        *("speaker=none", "transcriber=null", "workers=1", "min_confidence=0"),
    ]
    sound = root / "data_pipeline/assets/samples/1002_DFA_ANG_XX.mp3"
    assert predict([str(sound), "--output", str(tmp_path / "seen"), *settings]) == 0
    (utterance,) = json.loads((tmp_path / "seen/timeline.json").read_text())["utterances"]
    assert utterance["emotion"] in LABELS and "fbank" in utterance["modalities"]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, shards, monkeypatch):
    from finetune.training import fit as module

    assert run(shards, tmp_path / "whole", mine=new()) == 0
    evaluate, count = module.Progress.evaluate, []

    def stop(self):
        count.append(0)
        if len(count) == 2:
            raise KeyboardInterrupt
        return evaluate(self)

    monkeypatch.setattr(module.Progress, "evaluate", stop)
    assert run(shards, tmp_path / "parts", mine=new()) == 130
    monkeypatch.setattr(module.Progress, "evaluate", evaluate)
    assert run(shards, tmp_path / "parts", mine=new()) == 0
    whole, parts = (next(tmp_path.glob(f"{n}/runs/mine/*")) for n in ("whole", "parts"))
    assert predicted(whole) == predicted(parts)


def splits_of(clips):
    numbered = [LabelledClip(sample=c, label=EMOTIONS.index(c.meta["label"])) for c in clips]
    return Splits(train=numbered[:16], dev=numbered[16:24], test=numbered[24:], notes=[])


def test_labels_of_dev_and_test_change_nothing(tmp_path):
    table = tmp_path / "texts.csv"
    table.write_text(
        "text,mood\nDo not forget the hat,2\nThe surface is slick,-1\n"
        "What a surface,0\nDo not forget a jacket,-2\n"
    )
    options = Options(
        sources={"mood": Source(table=str(table), label="mood", learn=2)}, score="score"
    )
    teacher = Teacher.build(EMOTIONS, options)
    clips = [
        dataclasses.replace(
            clip, meta=clip.meta | {"columns": {"score": "1.5" if n % 5 == 0 else ""}}
        )
        for n, clip in enumerate(make_clips(num_speakers=4, per_speaker=8, signal=0.0))
    ]
    found = teacher.lesson(splits_of(clips), 1)
    swapped = [
        dataclasses.replace(
            clip, meta=clip.meta | {"label": EMOTIONS[n % 3], "columns": {"score": "-3"}}
        )
        if n >= 16
        else clip
        for n, clip in enumerate(clips)
    ]
    again = teacher.lesson(splits_of(swapped), 1)
    assert found.values == again.values and found.typical == again.typical
    assert (found.label_N == again.label_N).all() and found.borrowed == again.borrowed
    assert all(set(said) == {"polarity", "score", "emotion"} for said in found.values)
    assert any("1 of 4 texts of mood are left out" in note for note in found.notes)
    assert "Do not forget a jacket" not in found.borrowed  # it is said in test
    other = splits_of(clips)
    other.train[1] = dataclasses.replace(other.train[1], label=0)
    assert teacher.lesson(other, 1).values != found.values  # the check can fail


def test_universal_labels_go_all_the_way(tmp_path, shards):
    table = tmp_path / "texts.csv"
    table.write_text("text,label\nHow nice,Joyful\nLeave me,Mad\nSo it is,Calm\n")
    scores = tmp_path / "scores.csv"
    scores.write_text("text,label\nHow nice,2.5\nLeave me,-1.5\nSo it is,0\n")
    labels = "labels: {joyful: [joyful], mad: [mad], calm: [calm]}"
    sources = f"{{moods: {{table: {table}, {labels}, learn: 3}}, scores: {{table: {scores}}}}}"
    assert run(shards, tmp_path / "out", mine=new(f", sources: {sources}")) == 0
    recognizer = load_recognizer(next(tmp_path.glob("out/runs/mine/*/recognizer")))
    told = recognizer.answer(list(recognizer.read(shards))[:2])
    assert [list(answer) for answer in told] == [["polarity", "score", "emotion", "moods"]] * 2
    assert recognizer.classifier.model.book.typical == {
        "positive": "2.5",
        "neutral": "0.0",
        "negative": "-1.5",
    }


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A T5 in a folder, as transformers keeps it."""
    folder = tmp_path_factory.mktemp("t5")
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    config = T5Config(
        vocab_size=len(tokenizer) + 3,
        **dict(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2),
        **dict(pad_token_id=0, eos_token_id=tokenizer.sep_token_id, decoder_start_token_id=0),
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_pretrained_t5_is_started_from_and_but_its_last_block_stays(tmp_path, shards, t5):
    from safetensors.torch import load_file

    options = f"options: {{t5: {t5}, learning_blocks: 1, {ADAPTERS}}}"
    assert run(shards, tmp_path / "out", mine=f"{PLAN.replace('30', '4')}, {options}") == 0
    (row,) = read_rows(tmp_path / "out")
    assert len(row.checkpoint_sha256) == 64 and row.num_test_pretrained is None
    folder = next(tmp_path.glob("out/runs/mine/*/recognizer"))
    before = load_file(t5 / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    for name, tensor in before.items():
        same = (after.get(f"model.fused.t5.{name}", tensor) == tensor).all()
        if ".block.1." not in name:
            assert same, name
    name = "encoder.block.1.layer.0.SelfAttention.q.weight"
    assert (after[f"model.fused.t5.{name}"] != before[name]).any()
    assert "A pretrained T5" in (folder / "README.md").read_text()


@pytest.fixture(scope="module")
def no_t5s(tmp_path_factory, t5):
    """Folders that look like a T5's, by what is wrong with them."""
    top = tmp_path_factory.mktemp("no_t5s")
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    (top / "empty").mkdir()
    bert = BertConfig(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1)
    BertModel(dataclass_of(bert)).save_pretrained(top / "bert")
    tokenizer.save_pretrained(top / "bert")
    tokenizer.save_pretrained(top / "bare")
    (top / "bare/config.json").write_text((t5 / "config.json").read_text())
    return top


def dataclass_of(config):
    config.num_attention_heads, config.intermediate_size = 2, 8
    return config


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "no tokenizer in"),
        ("bert", "is a model of type bert"),
        ("bare", "has no weights of a T5"),
        ("nowhere", "no folder"),
    ],
)
def test_a_folder_that_is_no_t5_is_told(tmp_path, shards, no_t5s, capsys, name, message):
    said = f"{PLAN}, options: {{t5: {no_t5s / name}, {ADAPTERS}}}"
    assert run(shards, tmp_path / "out", mine=said) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "said", "message"),
    [
        (["data.modalities=[face, speech]"], new(), "unimse is a T5, which reads text"),
        (["data.modalities=[text, wavlm]"], new(), "the shards have no stream wavlm; add it"),
        (["data.limits.text=0"], new(), "data.limits.text is 0"),
        ([], "head: prompt", "own_settings.mine.head is prompt"),
        ([], "weights: new", "own_settings.mine.weights is new"),
        ([], new(plan="plan: {freeze_model: true}"), "options.learning_blocks=0 keeps the T5"),
        ([], new(", learning_blocks: 3"), "learning_blocks is 3, and the T5 has 2 blocks"),
        ([], f"options: {{{SHAPE}}}", "adapters.num_blocks is 3, and the T5 has 2"),
        ([], f"options: {{t5: x, {SHAPE}}}", "leave one out"),
        ([], "options: {shape: {num_heads: 3}}", "num_heads 3 does not divide d_model 64"),
        ([], "options: {adapters: {forms: x}}", "adapters.forms"),
        ([], new(", sources: {x: {table: no.csv}}"), "options.sources.x: cannot read"),
        ([], new(", polarity: {sad: bad}"), "polarity"),
        ([], new(", sources: {score: {table: x.csv}}"), "has a field of that name already"),
        (["data.labels.wistful=[wistful]"], new(), "nobody says whether 'wistful' is positive"),
    ],
)
def test_what_it_cannot_be_told(tmp_path, shards, capsys, settings, said, message):
    assert run(shards, tmp_path / "out", *settings, mine=said) == 2
    assert message in capsys.readouterr().err


def test_a_stream_that_no_training_clip_has_is_told(tmp_path, write_shards, capsys):
    clips = make_clips(num_speakers=4, per_speaker=8, signal=2.0)
    shards = write_shards([without_face(clip) for clip in clips])
    assert run(shards, tmp_path / "out", mine=new()) == 2
    assert "no training clip has the stream face" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unimse", "composed_unimse"])
def test_the_configs_train_by_their_own_commands(
    tmp_path, root, write_shards, name, request, monkeypatch
):
    """On toy clips: the command at the top, with few steps."""
    path = root / f"configs/finetune/{name}.yaml"
    lines = path.read_text().splitlines()
    assert lines[0] == f"# accelerate launch finetune/run.py --config {path.relative_to(root)}"
    changes = ["num_resamples=10", f"output={tmp_path / 'out'}", "data.protocol=null"]
    settings = ["unimse", "official"]
    if name == "composed_unimse":
        data = request.getfixturevalue("shared_data") / "text"
        where = "own_settings.universal.options.sources"
        changes += [f"{where}.meld.table={data}/meld/train_sent_emo.csv"]
        changes += [f"{where}.emorynlp.table={data}/emorynlp/emorynlp_train_final.csv"]
        changes += ["data.deal.folds=3", "seeds=[1]", "folds=[0]"]
        settings = ["text", "adapters", "contrast", "light_contrast", "official", "universal"]
    shards = write_shards(make_clips(num_speakers=4, per_speaker=8, signal=2.0))
    changes += [f"data.shards=[{shards}]"]
    changes += [
        f"own_settings.{s}.plan.{p}" for s in settings for p in ("num_steps=2", "warmup_steps=0")
    ]
    assert main(["--config", str(path), *changes]) == 0
    assert {row.setting for row in read_rows(tmp_path / "out")} == set(settings)
    if name == "composed_unimse":
        monkeypatch.setattr(table, "RESULTS", str(tmp_path / "out"))
        page = table.publish(tmp_path / "page").read_text()
        assert "**12 of 18 runs are missing.**" in page
        assert "- text: not shown; over 1 runs the lowest end" in page
        assert "Between universal and adapters lie" in page
