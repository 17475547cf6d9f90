"""The system goes through the doors that MEmoBERT uses: judged, saved, loaded, asked."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import toys
from safetensors.torch import load_file

from data_pipeline.features.fbank import Fbank
from data_pipeline.features.fbank import Settings as FbankSettings
from data_pipeline.schema import SchemaError
from finetune.recognizer import load_recognizer
from finetune.run import main
from finetune.runs.results import read_rows
from finetune.systems.speech_resnet.__main__ import main as speech_resnet
from finetune.timeline.config import PredictConfig, extraction_config
from finetune.timeline.recognition import of_silence
from pretrain.checkpoint.folder import find_checkpoint

from .conftest import LABELS, SPEC, make_voices, stream_of
from .test_speech_resnet_speakers import pretrain

SHAPE = "shape: {width: 4, stem_stride: 2}"
PLAN = "plan: {num_steps: 40, learning_rate: 1e-2}"


def run(shards, output, *settings, **own):
    """Own settings by name, each as what stands beside `system`."""
    return main(
        [
            *(f"data.shards=[{shards}]", f"output={output}", "data.modalities=[fbank]"),
            f"data.labels={{{', '.join(f'{name}: [{name}]' for name in LABELS)}}}",
            *("model.checkpoint=null", "folds=[0]", *toys.FAST, "eval_every_steps=20"),
            f"settings=[{', '.join(own)}]",
            *(f"own_settings.{n}={{system: speech_resnet, {said}}}" for n, said in own.items()),
            *settings,
        ]
    )


def scratch(extra=""):
    return f"{PLAN}, options: {{{SHAPE}, embedding: 16{extra}}}"


@pytest.fixture
def voices(write_voices):
    return write_voices(make_voices(num_speakers=4, per_speaker=9))


@pytest.fixture
def trunk(tmp_path, write_voices):
    """Of other speakers, and of speaker 1 of the clips that are judged."""
    others = make_voices(num_speakers=3, per_speaker=8, corpus="other", seed=1)
    known = make_voices(num_speakers=2, per_speaker=8, first=0, seed=2)
    shards = write_voices(others + known, "others")
    assert pretrain(shards, tmp_path / "trunk", "steps=10", "leave_out=[toy/0]") == 0
    return tmp_path / "trunk"


def test_it_learns_and_what_it_learned_is_loaded_again(tmp_path, write_voices):
    voices = write_voices(make_voices(num_speakers=9, per_speaker=12))
    own = {"plain": scratch(), "masked": scratch(", augment: {frequency_masks: 0}, dropout: 0.1")}
    steps = [f"own_settings.{name}.plan.num_steps=80" for name in own]
    assert run(voices, tmp_path / "out", *steps, **own) == 0
    rows = {row.setting: row for row in read_rows(tmp_path / "out")}
    for row in rows.values():
        assert (row.system, row.head, row.modalities) == ("speech_resnet", "statistics", "fbank")
        assert row.checkpoint_sha256 == "" and row.oracle_ua is not None
        assert row.ua > 0.7  # chance is 1/3
        assert row.selection == "dev" and row.step in (20, 40, 60, 80)
    assert rows["plain"].recipe != rows["masked"].recipe
    for setting in own:
        (folder,) = tmp_path.glob(f"out/runs/{setting}/*")
        recognizer = load_recognizer(folder / "recognizer")
        samples = {sample.id: sample for sample in recognizer.read(voices)}
        with open(folder / "predictions.csv") as file:
            lines = list(csv.DictReader(file))
        found = recognizer.predict([samples[line["clip"]] for line in lines])
        said = [[float(line[f"p_{name}"]) for name in recognizer.classes] for line in lines]
        np.testing.assert_allclose(found, said, atol=1e-5)
        alone = np.concatenate([recognizer.predict([samples[line["clip"]]]) for line in lines])
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_a_trunk_is_started_from_and_its_speakers_are_named(tmp_path, voices, trunk):
    options = f"options: {{trunk: {trunk}, embedding: 16}}"
    own = {"transfer": f"{PLAN}, {options}"}
    own["frozen"] = f"plan: {{num_steps: 6, learning_rate: 1e-2, freeze_model: true}}, {options}"
    assert run(voices, tmp_path / "out", "folds=null", **own) == 0
    rows = read_rows(tmp_path / "out")
    sha256 = {row.checkpoint_sha256 for row in rows}
    assert len(sha256) == 1 and "" not in sha256
    with open(next(tmp_path.glob("out/protocols/*.json"))) as file:
        folds = json.load(file)["folds"]
    for row in rows:
        notes = [note for note in row.notes if "the trunk learned to tell" in note]
        named = [s for s in ("dev", "test") if "toy/1" in folds[row.fold][s]]
        told = [f"speakers of {split}: toy/1;" for split in named]
        assert all(one in note for one, note in zip(told, notes, strict=True))
        assert all("leave_out=[toy/1]" in note for note in notes)
        assert row.num_test_pretrained == 0  # other clips, of the same people
    before = load_file(find_checkpoint(trunk) / "model.safetensors")
    for setting, stays in (("frozen", True), ("transfer", False)):
        folder = next(tmp_path.glob(f"out/runs/{setting}/*/recognizer"))
        after = load_file(folder / "model.safetensors")
        same = [
            bool((before[name.replace("model.", "trunk.", 1)] == tensor).all())
            for name, tensor in after.items()
            if name.startswith("model.")
        ]
        assert all(same) if stays else not all(same)
        card = (folder / "README.md").read_text()
        assert "The trunk of a speaker identification; its own card" in card
        assert "corpus other of the start" in card and "MEmoBERT" not in card.split("---")[2]


def test_clips_that_the_trunk_read_are_counted(tmp_path, voices):
    assert pretrain(voices, tmp_path / "trunk", "steps=1", "held_out_share=0") == 0
    own = {"transfer": f"{PLAN}, options: {{trunk: {tmp_path / 'trunk'}}}"}
    assert (
        run(
            voices,
            tmp_path / "out",
            **own,
        )
        == 0
    )
    (row,) = read_rows(tmp_path / "out")
    assert row.num_test_pretrained == row.num_test


@pytest.mark.parametrize(
    ("settings", "said", "message"),
    [
        (["data.modalities=[text, fbank]"], scratch(), "speech_resnet hears one stream"),
        (["data.modalities=[wavlm]"], scratch(), "the shards have no stream wavlm; add it"),
        (["data.limits.fbank=9"], scratch(), "speech_resnet cuts nothing"),
        ([], "head: prompt", "own_settings.mine.head is prompt"),
        ([], "weights: new", "own_settings.mine.weights is new"),
        ([], "options: {widht: 3}", "options.widht"),
        ([], "options: {augment: {time_share: 2}}", "time_share"),
        ([], f"options: {{trunk: x, {SHAPE}}}", "leave one out"),
        ([], "plan: {freeze_model: true}", "freeze_model=true without options.trunk"),
        ([], "options: {trunk: nowhere/at/all}", "nowhere/at/all"),
    ],
)
def test_what_it_cannot_be_told(tmp_path, voices, capsys, settings, said, message):
    assert run(voices, tmp_path / "out", *settings, mine=said) == 2
    assert message in capsys.readouterr().err


def test_a_trunk_of_another_passport_is_refused(tmp_path, write_voices, trunk, capsys):
    spec = dataclasses.replace(SPEC, preprocessing="louder")
    shards = write_voices(
        make_voices(num_speakers=4, per_speaker=9), "louder", passport={"fbank": spec}
    )
    own = {"mine": f"{PLAN}, options: {{trunk: {trunk}}}"}
    assert run(shards, tmp_path / "out", **own) == 2
    assert "fbank.preprocessing: found 'louder', expected ''" in capsys.readouterr().err


def test_a_memobert_is_no_trunk(tmp_path, voices, checkpoint, capsys):
    own = {"mine": f"{PLAN}, options: {{trunk: {checkpoint}}}"}
    assert run(voices, tmp_path / "out", **own) == 2
    assert "holds no trunk of speech_resnet" in capsys.readouterr().err


def test_a_short_clip_is_judged_and_so_is_one_without_the_stream(tmp_path, write_voices):
    clips = make_voices(num_speakers=4, per_speaker=9)
    clips[0] = dataclasses.replace(clips[0], text="hush", words=["hush"], streams={})
    shards = write_voices(clips)
    assert run(shards, tmp_path / "out", "folds=null", mine=scratch()) == 0
    recipe = json.loads(next(tmp_path.glob("out/recipes/*.json")).read_text())
    assert "1 clips have none of fbank: judged unseen" in recipe["notes"]
    recognizer = load_recognizer(next(tmp_path.glob("out/runs/mine/*/recognizer")))
    rng = np.random.default_rng(0)
    short = [
        dataclasses.replace(clips[1], streams={"fbank": stream_of(rng.normal(size=(n, 8)))})
        for n in (1, 2, 28)  # 28 frames are 0.3 s
    ]
    found = recognizer.predict([*short, clips[0]])
    assert np.isfinite(found).all() and np.allclose(found.sum(1), 1)
    broken = np.full((9, 8), np.nan)
    with pytest.raises(SchemaError, match="not finite"):
        recognizer.predict([dataclasses.replace(clips[1], streams={"fbank": stream_of(broken)})])
    wide = dataclasses.replace(clips[1], streams={"fbank": stream_of(np.zeros((9, 5)))})
    with pytest.raises(SchemaError, match="another feature passport than the recognizer's"):
        recognizer.predict([wide])


def test_train_and_dev_learn_anew_up_to_the_chosen_step(tmp_path, voices):
    assert run(voices, tmp_path / "out", "train_on=train+dev", mine=scratch()) == 0
    (row,) = read_rows(tmp_path / "out")
    assert row.train_on == "train+dev" and row.selection_ua is not None
    assert (row.num_train, row.num_test) == (18, 18)  # dev has the nine between


def test_where_nobody_speaks_nothing_is_heard():
    """`fbank` is made of any sound, and the hum of a room has no emotion."""
    config = PredictConfig(output="x", streams={"face": {}, "speech": {}, "fbank": {}})
    silent = of_silence(extraction_config(config))
    assert set(silent.extractors) == {"face", "crops"} and silent.speaker == "any_face"


@pytest.mark.slow
def test_a_recognizer_hears_a_file(tmp_path, write_voices, root):
    """finetune.predict on a clip that ships, with the stream fbank alone."""
    from finetune.predict import main as predict

    passport = Fbank(FbankSettings(mel_bins=8)).passport
    shards = write_voices(make_voices(num_speakers=4, per_speaker=9), passport=passport)
    assert run(shards, tmp_path / "out", mine=scratch()) == 0
    recognizer = next(tmp_path.glob("out/runs/mine/*/recognizer"))
    clip = root / "data_pipeline/assets/samples/1002_DFA_ANG_XX.mp3"
    words = [str(clip), "--output", str(tmp_path / "seen"), f"recognizer={recognizer}"]
    words += ["streams={fbank: {mel_bins: 8}, face: false, speech: false}", "speaker=none"]
    words += ["transcriber=null", "workers=1", "min_confidence=0"]
    assert predict(words) == 0
    told = json.loads((tmp_path / "seen/timeline.json").read_text())
    (utterance,) = told["utterances"]
    assert utterance["emotion"] in LABELS and utterance["modalities"] == ["fbank"]


@pytest.mark.slow
def test_the_config_trains_by_its_own_commands(tmp_path, root, voices):
    """On toy clips: the command at its top, and that of the trunk it wants."""
    path = root / "configs/finetune/speech_resnet.yaml"
    lines = path.read_text().splitlines()
    assert lines[0] == f"# accelerate launch finetune/run.py --config {path.relative_to(root)}"
    (command,) = (line for line in lines if "speech_resnet pretrain" in line)
    words = command.split("speech_resnet ")[1].split()
    words = [word for word in words if not word.startswith(("'shards", "output"))]
    assert speech_resnet([*words, f"shards=[{voices}]", f"output={tmp_path / 'trunk'}"]) == 0
    changes = [f"data.shards=[{voices}]", f"output={tmp_path / 'out'}", "num_resamples=10"]
    changes += [
        f"own_settings.{name}.options.trunk={tmp_path / 'trunk'}" for name in ("transfer", "both")
    ]
    changes += [
        f"own_settings.{name}.plan.{plan}"
        for name in ("scratch", "augmented", "transfer", "both")
        for plan in ("num_steps=2", "warmup_steps=0")
    ]
    assert main(["--config", str(path), *changes]) == 0
    rows = read_rows(tmp_path / "out")
    assert {row.setting for row in rows} == {"scratch", "augmented", "transfer", "both"}
