import copy
import dataclasses
import errno
import json
import random
import re
import resource
import shutil
import subprocess

import numpy as np
import pytest
import torch
import toys
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from data_pipeline.config import load_config
from data_pipeline.files.weights import sha256_of
from pretrain.build import build_model
from pretrain.checkpoint.folder import (
    find_checkpoint,
    load_checkpoint,
    read_latest,
    save_checkpoint,
)
from pretrain.checkpoint.integrity import CheckpointError, weights_sha256, write_digests
from pretrain.checkpoint.store import CheckpointStore, Progress
from pretrain.config import PretrainConfig
from pretrain.engine.torch_engine import TorchEngine
from pretrain.model.memobert import MEmoBert
from pretrain.optim import build_adamw
from pretrain.runtime import RuntimeSettings, start

PROGRESS = Progress(step=3, loader={"clips": "abc"}, dropped={"no_face": 2}, drawn=24)


@pytest.fixture
def config(small):
    return load_config(PretrainConfig, None, small)


@pytest.fixture
def model(config):
    return build_model(config.model, toys.passport())[0]


@pytest.fixture
def runtime():
    return start(RuntimeSettings(device="cpu"))


@pytest.fixture
def store(tmp_path, runtime):
    (tmp_path / "checkpoints").mkdir()
    return CheckpointStore(tmp_path / "checkpoints", 2, runtime)


@pytest.fixture
def engine(model, runtime):
    return TorchEngine(model, build_adamw(model, weight_decay=0.01), 5.0, runtime)


@pytest.fixture
def save(store, engine, bert_tokenizer, config):
    def save(step: int):
        progress = dataclasses.replace(PROGRESS, step=step)
        return store.save(engine, progress, bert_tokenizer, toys.passport(), config)

    return save


def test_a_folder_that_transformers_users_know(tmp_path, model, bert_tokenizer, config):
    folder = tmp_path / "out"
    save_checkpoint(folder, model, bert_tokenizer, toys.passport(), config)
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "passport.json",
        "pretrain.yaml",
        "provenance.json",
    }
    again = MEmoBert.from_pretrained(str(folder))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert AutoTokenizer.from_pretrained(str(folder)).mask_token_id == bert_tokenizer.mask_token_id

    loaded = load_checkpoint(folder)
    assert (loaded.config, loaded.passport) == (config, toys.passport())
    assert not loaded.model.training


def test_where_deepspeed_is_not_installed_torchs_engine_saves_as_well(save, monkeypatch):
    installed = {"torch", "transformers"}
    monkeypatch.setattr("pretrain.checkpoint.folder.find_spec", lambda name: name in installed)
    provenance = json.loads((save(3) / "provenance.json").read_text())
    assert provenance["versions"].keys() == installed


def test_a_runs_folder_leads_to_its_newest_checkpoint(store, save):
    save(3)
    newest = save(6)
    for folder in (newest, store.root, store.root.parent):
        assert find_checkpoint(folder) == newest
    assert load_checkpoint(store.root.parent).folder == newest


def test_only_the_newest_are_kept(store, save):
    for step in (8, 9, 10, 999_999, 1_000_000):
        save(step)
    names = sorted(path.name for path in store.root.iterdir())
    assert names == ["latest", "step-1000000", "step-999999"]


def test_load_restores_weights_optimizer_progress_and_generators(store, save, engine):
    for parameter in engine.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    engine.step(1e-3)
    save(3)
    weights = {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}
    moments = engine.optimizer.state_dict()["state"][0]["exp_avg"].clone()
    drawn = (torch.rand(3), np.random.rand(3), random.random())  # noqa: NPY002
    with torch.no_grad():
        for parameter in engine.model.parameters():
            parameter.zero_()
    engine.optimizer.state.clear()

    assert store.load(engine) == PROGRESS
    on_disk = json.loads((store.root / "step-000003/state/progress.json").read_text())
    assert on_disk == dataclasses.asdict(PROGRESS) | {"world_size": 1}
    assert all(torch.equal(tensor, weights[n]) for n, tensor in engine.model.state_dict().items())
    assert torch.equal(engine.optimizer.state_dict()["state"][0]["exp_avg"], moments)
    again = (torch.rand(3), np.random.rand(3), random.random())  # noqa: NPY002
    assert torch.equal(drawn[0], again[0])
    assert (drawn[1] == again[1]).all() and drawn[2] == again[2]


def test_a_new_run_has_nothing_to_load(store, engine):
    assert store.load(engine) is None


def test_a_half_written_checkpoint_is_never_loaded(store, save, engine, monkeypatch):
    whole = save(3)

    def killed(*_, **__):
        raise KeyboardInterrupt

    for name in ("_sync_tree", "save_checkpoint"):  # after the files, before the files
        monkeypatch.setattr(f"pretrain.checkpoint.store.{name}", killed)
        with pytest.raises(KeyboardInterrupt):
            save(6)
        assert read_latest(store.root) == whole
        assert not (store.root / "step-000006").exists()
        assert store.load(engine).step == 3
        monkeypatch.undo()
    assert save(6) == read_latest(store.root)  # the leftovers are in nobody's way
    assert not list(store.root.glob(".*"))


def test_killed_between_rename_and_latest_the_one_before_is_in_force(store, save, monkeypatch):
    whole = save(3)

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pretrain.checkpoint.store.atomic_file", killed)
    with pytest.raises(KeyboardInterrupt):
        save(6)
    monkeypatch.undo()
    assert read_latest(store.root) == whole
    assert save(6) == read_latest(store.root)


@pytest.mark.parametrize("name", ["step-000009", "../elsewhere", ""])
def test_latest_that_points_to_nothing_is_told(store, save, engine, name):
    save(3)
    (store.root / "latest").write_text(name)
    with pytest.raises(CheckpointError, match="not there.*step-000003.*remove it"):
        store.load(engine)


def test_weights_without_training_state_are_told(store, save, engine):
    folder = save(3)
    (folder / "state/progress.json").unlink()
    with pytest.raises(CheckpointError, match="no training state"):
        store.load(engine)


def test_a_model_of_another_size_is_told_with_both_sizes(store, save, small, runtime):
    save(3)
    config = load_config(PretrainConfig, None, [*small, "model.width=48"])
    wide = build_model(config.model, toys.passport())[0]
    with pytest.raises(CheckpointError, match=r"(?s)step-000003.*\[30522, 24\].*\[30522, 48\]"):
        store.load(TorchEngine(wide, build_adamw(wide, weight_decay=0.01), 5.0, runtime))


def test_weights_that_are_not_of_their_config_are_told(save):
    folder = save(3)
    tensors = load_file(folder / "model.safetensors")
    tensors["pooler.dense.bias"] = torch.zeros(7)
    save_file(tensors, folder / "model.safetensors")
    write_digests(folder)
    with pytest.raises(CheckpointError, match=r"pooler.dense.bias: found \[7\], expected \[24\]"):
        load_checkpoint(folder)


def test_weights_that_were_cut_are_told(store, save, engine):
    folder = save(3)
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError, match=r"model\.safetensors was cut or altered"):
        load_checkpoint(folder)
    save(3), save(6)
    with open(store.root / "step-000006/model.safetensors", "r+b") as file:
        file.truncate(1000)
    (store.root / "step-000006/digests.json").unlink()  # a checkpoint of before there were any
    with pytest.raises(CheckpointError, match=r"model\.safetensors, cut.*copy.*step-000003"):
        load_checkpoint(store.root)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors, cut.*older.*step-000003.*latest"
    ):
        store.load(engine)


@pytest.mark.parametrize("name", ["model.safetensors", "state/adamw.pt", "state/rng-00000.pt"])
def test_a_byte_altered_in_the_middle_is_told(store, save, engine, name):
    """It is a number like any other to who reads it."""
    for parameter in engine.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    engine.step(1e-3)
    save(3)
    path = save(6) / name
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)
    told = rf"step-000006/{name} was cut or altered.*older checkpoint \(step-000003\).*latest"
    with pytest.raises(CheckpointError, match=told):
        store.load(engine)
    (store.root / "latest").write_text("step-000003")
    assert store.load(engine).step == 3


READ_BY_ALL = ("config.json", "model.safetensors", "tokenizer.json", "passport.json")


@pytest.mark.parametrize("name", READ_BY_ALL)
@pytest.mark.parametrize("harm", ["gone", "cut by a byte", "a bit flipped"])
def test_every_way_in_names_the_file_that_is_not_as_it_was_saved(store, save, engine, name, harm):
    save(3)
    folder = save(6)
    whole = (folder / name).read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    (folder / name).write_bytes(whole[:-1] if harm == "cut by a byte" else flipped)
    if harm == "gone":
        (folder / name).unlink()
    told = rf"step-000006/{name} (is gone|was cut or altered)|no {name} in .*step-000006"
    ways_in = (load_checkpoint, MEmoBert.from_pretrained, lambda _: store.load(engine))
    for way_in in ways_in:
        with pytest.raises(CheckpointError, match=told) as caught:
            way_in(folder)
        assert "step-000003" in str(caught.value)


def test_what_a_reader_does_not_need_may_be_left_behind_or_edited(store, save, engine):
    """The training state is large, and the model card is there to be written."""
    folder = save(3)
    shutil.rmtree(folder / "state")
    (folder / "README.md").write_text("# My model\n")
    assert load_checkpoint(folder).folder == folder
    with pytest.raises(CheckpointError, match=r"state/\S+ is gone|no training state"):
        store.load(engine)


def test_weights_in_several_files_are_read_and_a_missing_one_is_named(save, model):
    folder = save(3)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, inside in parts.items():
        save_file({name: tensors[name] for name in inside}, folder / file)
    weight_map = {name: file for file, inside in parts.items() for name in inside}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    path.unlink()
    write_digests(folder)
    loaded = load_checkpoint(folder).model.state_dict()
    assert all(torch.equal(tensor, loaded[n]) for n, tensor in model.state_dict().items())
    assert weights_sha256(folder) != sha256_of(folder / "a.safetensors")
    (folder / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"b\.safetensors is gone"):
        MEmoBert.from_pretrained(folder)
    (folder / "digests.json").unlink()
    with pytest.raises(CheckpointError, match=r"no b\.safetensors in"):
        MEmoBert.from_pretrained(folder)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match=r"index\.json has no weight_map"):
        load_checkpoint(folder)


def test_a_tokenizer_of_another_size_than_the_model_is_told(save, bert_tokenizer):
    folder = save(3)
    larger = copy.deepcopy(bert_tokenizer)
    larger.add_tokens(["flumph"])
    larger.save_pretrained(str(folder))
    write_digests(folder)
    with pytest.raises(CheckpointError, match=r"knows 30523 pieces, the model 30522"):
        load_checkpoint(folder)


def test_weights_saved_into_a_checkpoints_folder_are_compared_with_nothing_older(
    save, model, bert_tokenizer, config
):
    folder = save(3)
    with torch.no_grad():
        model.pooler.dense.bias += 1
    save_checkpoint(folder, model, bert_tokenizer, toys.passport(), config)
    assert torch.equal(load_checkpoint(folder).model.pooler.dense.bias, model.pooler.dense.bias)


@pytest.fixture
def small_disk():
    """A function that stands for a disk with so many bytes left: no file may grow beyond them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda num_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("num_bytes", "file"),
    [(100, "README.md|config.json"), (10**6, "model.safetensors"), (4 * 10**6, "adamw.pt")],
)
def test_a_file_that_cannot_grow_is_told_and_the_checkpoint_before_is_kept(
    store, save, engine, small_disk, num_bytes, file
):
    for parameter in engine.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    engine.step(1e-3)
    whole = save(3)
    small_disk(num_bytes)
    with pytest.raises(CheckpointError) as caught:
        save(6)
    told = str(caught.value)
    assert told.startswith(f"cannot save step-000006 in {store.root}: File too large")
    assert "takes about 9." in told and " MB, and " in told and "are free there. Make room" in told
    assert "goes on from step-000003, which is whole" in told
    assert sorted(path.name for path in store.root.iterdir()) == ["latest", "step-000003"]
    small_disk(resource.RLIM_INFINITY)
    assert read_latest(store.root) == whole and store.load(engine).step == 3
    assert save(6) == read_latest(store.root)


@pytest.mark.parametrize("megabytes", [1, 4, 9])
def test_a_full_disk_is_told_with_what_is_needed_and_free(store, save, engine, tmp_path, megabytes):
    """A real one, small; at 1 MB the weights do not fit, at 4 and 9 the optimizer's state."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "memobert-test", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk; RLIMIT_FSIZE stands in for it")
    try:
        for parameter in engine.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        engine.step(1e-3)
        store.root = disk
        with pytest.raises(CheckpointError) as caught:
            save(6)
        assert re.search(
            rf"cannot save step-000006 in {disk}: No space left on device.*takes about 9\.\d MB, "
            rf"and ({megabytes}|{megabytes - 1})\.\d MB are free there.*goes from the start",
            str(caught.value),
        )
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_full_just_at_latest_keeps_the_one_before_in_force(
    store, save, engine, monkeypatch
):
    whole = save(3)

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("pretrain.checkpoint.store.atomic_file", full)
    with pytest.raises(CheckpointError, match="No space left.*goes on from step-000003, which is"):
        save(6)
    monkeypatch.undo()
    assert read_latest(store.root) == whole and store.load(engine).step == 3
    assert save(6) == read_latest(store.root)


@pytest.mark.parametrize("text", ["", '{"step": 3', "{}", "[]"])
@pytest.mark.parametrize("digests", [True, False])
def test_progress_that_was_cut_is_told_with_the_way_back(store, save, engine, text, digests):
    save(3)
    folder = save(6)
    (folder / "state/progress.json").write_text(text)
    if not digests:
        (folder / "digests.json").unlink()
    with pytest.raises(CheckpointError, match=r"progress\.json.*older.*step-000003.*latest"):
        store.load(engine)
    (store.root / "latest").write_text("step-000003")
    assert store.load(engine).step == 3


def test_a_checkpoint_that_is_the_only_one_can_only_be_left(store, save, engine):
    (save(3) / "state/adamw.pt").unlink()
    with pytest.raises(CheckpointError, match=r"adamw\.pt is gone; there is no older.*start anew"):
        store.load(engine)


def test_after_latest_was_set_back_the_predecessor_is_kept(store, save):
    for step in (4, 8, 12):
        save(step)
    (store.root / "latest").write_text("step-000008")
    save(10)
    names = sorted(path.name for path in store.root.iterdir())
    assert names == ["latest", "step-000008", "step-000010"]


def test_a_folder_that_is_no_checkpoint_is_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json in"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no folder .* of a pretraining run or of"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_state_of_another_number_of_ranks_goes_on(store, save, engine):
    folder = save(3)
    path = folder / "state/progress.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"world_size": 2}))
    write_digests(folder)
    assert store.load(engine).step == 3
