"""The whole of finetuning on toy shards: rows, reruns, bad input."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from data_pipeline.config import load_config
from data_pipeline.weights import sha256_of
from finetune.config import FinetuneConfig
from finetune.report import ReportError, finetune_report
from finetune.results import ResultsRow, read_rows
from finetune.run import main
from pretrain.checkpoint import load_checkpoint, save_checkpoint
from pretrain.config import DataSettings, PretrainConfig

from .conftest import PASSPORT, make_clips

FAST = [
    "seeds=[1]",
    "data.deal.folds=3",
    "eval_every_steps=8",
    "num_resamples=50",
    "optim.batch_size=8",
    *(
        f"plans.{setting}.{key}"
        for setting in ("direct", "pretrain_finetune", "pretrain_prompt")
        for key in ("num_steps=16", "warmup_steps=0", "learning_rate=1e-2")
    ),
]


@pytest.fixture
def arguments(tmp_path, write_shards, checkpoint) -> list[str]:
    """A run of three settings on toy shards (BERT+Direct needs a BERT checkpoint's sizes)."""
    shards = write_shards(make_clips(num_speakers=3, per_speaker=8, signal=2.0))
    return [
        f"data.shards=[{shards}]",
        f"model.checkpoint={checkpoint}",
        f"output={tmp_path / 'out'}",
        "settings=[direct, pretrain_finetune, pretrain_prompt]",
        *FAST,
    ]


def rows(tmp_path) -> list[ResultsRow]:
    return read_rows(tmp_path / "out")


def stamps(tmp_path) -> dict[str, int]:
    return {
        str(path.relative_to(tmp_path)): path.stat().st_mtime_ns
        for path in tmp_path.glob("out/runs/*/*/row.json")
    }


def test_settings_times_folds_give_one_row_each_and_a_rerun_adds_none(
    tmp_path, arguments, checkpoint
):
    assert main(arguments) == 0
    found = rows(tmp_path)
    assert len(found) == 9
    assert {(row.setting, row.fold) for row in found} == {
        (setting, fold)
        for setting in ("direct", "pretrain_finetune", "pretrain_prompt")
        for fold in range(3)
    }
    for row in found:
        assert (row.corpus, row.protocol, row.seed) == ("toy", "toy-speaker3 v1", 1)
        assert (row.num_train, row.num_dev, row.num_test) == (8, 8, 8)
        assert row.head == ("prompt" if row.setting == "pretrain_prompt" else "linear")
        weights = "" if row.setting == "direct" else sha256_of(checkpoint / "model.safetensors")
        assert row.checkpoint_sha256 == weights
        assert (row.selection, row.modalities) == ("dev", "text+face+speech")
        assert row.step in (8, 16) and 0 <= row.ua_low <= row.ua <= row.ua_high <= 1
    with open(tmp_path / "out" / "results.csv") as file:
        assert [line["setting"] for line in csv.DictReader(file)] == [r.setting for r in found]

    (folder,) = tmp_path.glob("out/runs/pretrain_prompt/fold0-*")
    config = load_config(FinetuneConfig, folder / "config.yaml", [])
    assert config.plans.pretrain_prompt.num_steps == 16
    with open(folder / "predictions.csv") as file:
        said = list(csv.DictReader(file))
    assert len(said) == 8
    right = sum(line["truth"] == line["prediction"] for line in said) / 8
    (row,) = (r for r in found if r.setting == "pretrain_prompt" and r.fold == 0)
    assert row.wa == pytest.approx(right)
    assert sum(float(said[0][f"p_{name}"]) for name in ("anger", "happy", "neutral", "sad")) == (
        pytest.approx(1, abs=1e-3)
    )

    before = stamps(tmp_path)
    assert main(arguments) == 0
    assert stamps(tmp_path) == before


def test_a_rerun_does_what_is_missing_or_changed_and_overwrite_does_all(tmp_path, arguments):
    arguments = [*arguments, "settings=[direct, pretrain_prompt]", "folds=[0, 1]"]
    assert main(arguments) == 0
    before = stamps(tmp_path)
    lost = next(tmp_path.glob("out/runs/direct/fold1-*/row.json"))
    lost.unlink()  # as if the process had been killed before its last file
    assert main([*arguments, "plans.pretrain_prompt.learning_rate=2e-2"]) == 0
    after = stamps(tmp_path)
    changed = {name for name in after if after[name] != before.get(name)}
    assert {Path(name).parts[2] for name in before} == {"direct", "pretrain_prompt"}
    assert sum("direct" in name for name in changed) == 1
    assert sum("pretrain_prompt" in name for name in changed) == 2
    report = finetune_report(tmp_path / "out")
    assert [row[0] for row in report.rows] == ["Direct", "Pretrain+Prompt"]
    assert "2 rows of earlier recipes are in results.csv, not in this table" in report.notes
    assert main([*arguments, "settings=[direct]", "overwrite=true"]) == 0
    again = stamps(tmp_path)
    assert sum(again[name] != after[name] for name in after) == 2


def test_the_same_run_twice_gives_the_same_numbers(tmp_path, arguments):
    arguments = [*arguments, "settings=[direct]", "folds=[0]"]
    assert main(arguments) == 0
    (first,) = rows(tmp_path)
    assert main([*arguments, "overwrite=true"]) == 0
    (second,) = rows(tmp_path)
    assert dataclasses.replace(first, git_commit="") == dataclasses.replace(second, git_commit="")


def test_the_report_has_a_row_a_setting_two_pictures_and_its_files(tmp_path, arguments):
    assert main([*arguments, "selection=oracle"]) == 0
    report = finetune_report(tmp_path / "out")
    assert [row[0] for row in report.rows] == ["Direct", "Pretrain+Finetune", "Pretrain+Prompt"]
    assert all(len(row) == len(report.columns) for row in report.rows)
    assert report.rows[0][4:] == ("3 (3 folds x 1 seeds)", "24", "test (oracle)")
    assert any("no honest number" in note for note in report.notes)
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in report.pictures)
    for name in ("table.md", "table.csv", "config.yaml", "protocol.json"):
        assert (tmp_path / "out" / name).stat().st_size
    assert report.markdown.splitlines()[0].startswith("| Setting | WA | UA |")


def test_folds_of_single_clips_without_dev_say_they_show_mechanics(tmp_path, arguments):
    deal = ["data.deal.by=clip", "data.deal.dev=false", "data.deal.allow_shared_speakers=true"]
    assert main([*arguments, *deal, "selection=last", "settings=[direct]"]) == 0
    assert all(row.shared_speakers and row.step == 16 for row in rows(tmp_path))
    assert all(row.selection_ua is None and row.num_dev == 0 for row in rows(tmp_path))
    report = finetune_report(tmp_path / "out")
    assert "training and test may share speakers: mechanics, not accuracy" in report.notes
    assert "mechanics, not accuracy" in report.markdown


def test_modalities_and_whole_vocabulary_decoding_are_switches(tmp_path, arguments):
    switches = ["data.modalities=[text, speech]", "data.modality_cases=seven"]
    arguments = [*arguments, "settings=[pretrain_prompt]", "folds=[0]", *switches]
    assert main([*arguments, "prompt.decode=vocabulary"]) == 0
    (row,) = rows(tmp_path)
    assert row.modalities == "text+speech"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("plans.pretrain_promt.num_steps=3", "nearest is 'plans.pretrain_prompt'"),
        ("settings=[]", "at least one"),
        ("settings=[prompt]", "settings.0"),
        ("data.deal.folds=9", "too few for 9 folds"),
        ("folds=[3]", "has folds 0 to 2"),
        ("plans.direct.warmup_steps=16", "16 warmup_steps of 16 num_steps"),
        ("prompt.words={anger: surface}", "'surface' of class anger is 2 pieces"),
        ("prompt.template=I am [MASK] .", "expected one [MASK] and one {text}"),
        ("data.labels={anger: [anger], happy: [happy]}", "no class lists: neutral 6, sad 6"),
        ("data.protocol=nowhere.json", "python -m finetune.protocols make"),
        ("data.shards=[nowhere]", "no folder nowhere"),
        ("model.checkpoint=nowhere", "nowhere"),
        ("model.checkpoint=null", "need model.checkpoint"),
    ],
)
def test_bad_input_is_one_message_and_no_result(tmp_path, arguments, capsys, change, match):
    assert main([*arguments, change]) == 2
    assert match in capsys.readouterr().err
    assert not list(tmp_path.glob("out/runs/*"))


def test_selection_on_dev_needs_a_dev_split(arguments, capsys):
    assert main([*arguments, "data.deal.dev=false"]) == 2
    assert "have no dev split; add one, or use selection=last" in capsys.readouterr().err


def test_shards_of_another_passport_are_refused(tmp_path, arguments, write_shards, capsys):
    other = PASSPORT | {"speech": dataclasses.replace(PASSPORT["speech"], weights_sha256="6" * 64)}
    clips = make_clips(num_speakers=3, per_speaker=8, signal=2.0)
    shards = write_shards(clips, "other", passport=other)
    assert main([*arguments, f"data.shards=[{shards}]"]) == 2
    message = capsys.readouterr().err
    assert "speech.weights_sha256: found '666" in message and "Extract these clips" in message


def test_a_checkpoint_that_saw_the_clips_unlabelled_is_noted(
    tmp_path, arguments, checkpoint, tokenizer
):
    loaded = load_checkpoint(checkpoint)
    seen = PretrainConfig(data=DataSettings(shards=[str(tmp_path / "shards")]))
    save_checkpoint(tmp_path / "seen", loaded.model, tokenizer, PASSPORT, seen)
    change = ["settings=[direct]", "folds=[0]", f"model.checkpoint={tmp_path / 'seen'}"]
    assert main([*arguments, *change]) == 0
    note = "the checkpoint was pretrained on these very clips, without their labels"
    assert note in finetune_report(tmp_path / "out").notes


def test_a_clip_without_the_modality_in_use_is_judged_and_noted(tmp_path, arguments, write_shards):
    clips = make_clips(num_speakers=3, per_speaker=8, signal=2.0)
    clips[3] = dataclasses.replace(clips[3], face=None, face_probs=None, face_seconds=None)
    shards = write_shards(clips, "faceless")
    change = [f"data.shards=[{shards}]", "data.modalities=[face]", "settings=[pretrain_prompt]"]
    assert main([*arguments, *change]) == 0
    assert sum(row.num_test for row in rows(tmp_path)) == 24
    assert "1 clips have none of face: judged unseen" in finetune_report(tmp_path / "out").notes


def test_a_spoilt_row_says_which_folder_to_remove(tmp_path, arguments, capsys):
    arguments = [*arguments, "settings=[direct]", "folds=[0]"]
    assert main(arguments) == 0
    (path,) = tmp_path.glob("out/runs/*/*/row.json")
    path.write_text(path.read_text()[:40])
    assert main(arguments) == 2
    assert f"remove {path.parent} and run again" in capsys.readouterr().err


def test_a_folder_without_results_has_no_report(tmp_path):
    with pytest.raises(ReportError, match="run accelerate launch finetune/run.py"):
        finetune_report(tmp_path)


def test_every_shipped_config_builds_and_opens_with_its_command(root):
    paths = sorted((root / "configs" / "finetune").glob("*.yaml"))
    assert len(paths) >= 3
    for path in paths:
        config = load_config(FinetuneConfig, path, [])
        assert config.seeds
        text = path.read_text()
        assert text.startswith("# accelerate launch finetune/run.py --config ")
        assert str(path.relative_to(root)) in text.splitlines()[0]


def test_the_reference_config_is_the_papers(root):
    config = load_config(FinetuneConfig, root / "configs/finetune/reference.yaml", [])
    plans, optim = config.plans, config.optim
    assert (plans.direct.num_steps, plans.bert_direct.num_steps) == (2000, 2000)
    assert (plans.pretrain_finetune.num_steps, plans.pretrain_prompt.num_steps) == (1500, 4000)
    assert plans.direct.learning_rate == plans.pretrain_finetune.learning_rate == 5e-5
    assert (plans.pretrain_prompt.learning_rate, plans.pretrain_prompt.warmup_steps) == (3e-5, 100)
    assert (plans.pretrain_finetune.patience, plans.pretrain_prompt.patience) == (5, None)
    assert (optim.batch_size, optim.max_grad_norm, optim.weight_decay) == (32, 5.0, 0.01)
    assert (config.seeds, config.eval_every_steps) == ((1234, 4321, 5678), 100)
    assert (config.data.max_text_pieces, config.data.max_faces) == (120, 36)
    assert (config.data.max_speech_states, config.data.modality_cases) == (64, "seven")


def test_accelerate_configs_are_read_by_accelerate(root):
    for path in sorted((root / "configs" / "accelerate").glob("*.yaml")):
        known = yaml.safe_load(path.read_text())
        assert {"compute_environment", "distributed_type", "num_processes"} <= known.keys()
        assert json.dumps(known)
