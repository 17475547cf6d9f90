"""What is exported is what is needed, fit for the hub, and says to the bit what its source says."""

import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from finetune.export import main
from finetune.recognizer import RecognizerError, load_recognizer
from pretrain.checkpoint.folder import load_checkpoint
from pretrain.checkpoint.integrity import CheckpointError, check_whole, write_digests
from pretrain.model.memobert import MEmoBert


@pytest.fixture
def recognizer(trained):
    folders, _ = trained
    return folders["pretrain_prompt"] / "recognizer"


@pytest.fixture
def run(tmp_path, checkpoint):
    """A pretraining run's folder with one checkpoint and its training state."""
    folder = shutil.copytree(checkpoint, tmp_path / "run/checkpoints/step-000002")
    (folder / "state").mkdir()
    (folder / "state/adamw.pt").write_bytes(b"moments")
    (folder / "events.out.tfevents.1").write_bytes(b"curves")
    write_digests(folder)
    (folder.parent / "latest").write_text("step-000002\n")
    return tmp_path / "run"


@pytest.fixture
def on_hub(monkeypatch):
    """`on_hub(folder)`: the hub gives this one for user/name."""

    def put(folder):
        def snapshot_download(name, **_):
            assert name == "user/name"
            return str(folder)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)

    return put


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_recognizer_from_the_hub_predicts_to_the_bit_as_the_original(
    tmp_path, trained, recognizer, on_hub, capsys
):
    assert main([str(recognizer), str(tmp_path / "hub")]) == 0
    assert f"hf upload OWNER/NAME {tmp_path / 'hub'}" in capsys.readouterr().out
    on_hub(tmp_path / "hub")
    original, again = load_recognizer(recognizer), load_recognizer("user/name")
    samples = list(original.read(trained[1]))
    np.testing.assert_array_equal(original.predict(samples), again.predict(samples))
    assert names(tmp_path / "hub") == names(recognizer)


def test_a_checkpoint_goes_without_its_training_state(tmp_path, run, on_hub, checkpoint):
    assert main([str(run), str(tmp_path / "hub")]) == 0
    assert names(tmp_path / "hub") == names(checkpoint) | {"digests.json"}
    assert check_whole(tmp_path / "hub", resuming=True)
    on_hub(tmp_path / "hub")
    expected = MEmoBert.from_pretrained(run).state_dict()
    for again in (MEmoBert.from_pretrained("user/name"), load_checkpoint("user/name").model):
        found = again.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert MEmoBert.from_pretrained("user/name", attention="plain", revision="v1") is not None


def test_the_card_has_what_the_hub_reads(tmp_path, recognizer, run):
    for number, (source, task) in enumerate(
        ((recognizer, "video-classification"), (run, "feature-extraction"))
    ):
        assert main([str(source), str(tmp_path / f"{number}")]) == 0
        data = ModelCard.load(tmp_path / f"{number}/README.md").data
        assert data.license == "other" and data.license_name and data.library_name == "memobert"
        assert data.pipeline_tag == task and "emotion-recognition" in data.tags
    assert ModelCard.load(tmp_path / "0/README.md").data.eval_results  # the figures came with it


def test_a_card_of_ones_own_stays_and_gets_what_it_lacks(tmp_path, recognizer):
    mine = shutil.copytree(recognizer, tmp_path / "mine")
    (mine / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n# Mine\n")
    assert main([str(mine), str(tmp_path / "hub")]) == 0
    card = ModelCard.load(tmp_path / "hub/README.md")
    assert card.text.strip() == "# Mine" and card.data.language == "en"
    assert card.data.license == "mit" and card.data.get("license_name") is None
    assert card.data.pipeline_tag == "video-classification"
    (mine / "README.md").unlink()
    assert main([str(mine), str(tmp_path / "made")]) == 0
    assert "## Licences and terms" in (tmp_path / "made/README.md").read_text()
    (mine / "README.md").write_text("---\nlicense: [\n---\n# Mine\n")
    assert main([str(mine), str(tmp_path / "broken")]) == 2
    assert not (tmp_path / "broken").exists()


def test_what_cannot_be_exported_is_one_message(tmp_path, recognizer, trained, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    (tmp_path / "empty").mkdir()
    harmed = shutil.copytree(recognizer, tmp_path / "harmed")
    (harmed / "tokenizer.json").unlink()
    folders, shards = trained
    for source, folder, told in (
        (recognizer, "full", "full is not empty (it holds notes.txt); name a new folder"),
        (recognizer, "full/notes.txt", "notes.txt is a file; name a new folder"),
        (tmp_path / "gone", "new", "no folder"),
        (recognizer / "README.md", "new", "README.md is a file; expected a recognizer's"),
        (tmp_path / "empty", "new", "neither a recognizer (recognizer.json) nor a checkpoint"),
        (shards, "new", "model.safetensors): it holds 000000.json, 000000.tar"),
        (recognizer.parent, "new", f"is no recognizer, but has 1; name one: {recognizer}"),
        (recognizer.parents[3], "new", "is no recognizer, but has 2; name one:"),
        (harmed, "new", "tokenizer.json is gone"),
    ):
        assert main([str(source), str(tmp_path / folder)]) == 2
        said = capsys.readouterr().err
        assert said.startswith("finetune.export: ") and told in said, said
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".*.tmp"))
    assert main([str(recognizer), str(tmp_path / "empty")]) == 0


def test_a_full_disk_leaves_no_half_folder(tmp_path, recognizer, monkeypatch, capsys):
    def copyfile(*_):
        raise OSError(28, "No space left on device", "model.safetensors")

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    assert main([str(recognizer), str(tmp_path / "hub")]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("load", "error", "expected"),
    [
        (load_recognizer, RecognizerError, "the folder `recognizer` that finetuning leaves"),
        (load_checkpoint, CheckpointError, "the folder of a pretraining run or of a checkpoint"),
        (MEmoBert.from_pretrained, CheckpointError, "the folder of a pretraining run or of a"),
    ],
)
def test_a_hub_out_of_reach_is_one_message(monkeypatch, load, error, expected):
    def snapshot_download(*_, **__):
        raise FileNotFoundError("Got: ConnectError\nsee the manual") from OSError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    told = rf"no folder user/name here, and the hub did not give it \(no route\); name {expected}"
    with pytest.raises(error, match=told):
        load("user/name")
