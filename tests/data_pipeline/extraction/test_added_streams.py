"""A stream added to a finished extraction: nothing else is touched, and a kill changes no byte."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import extract
from data_pipeline.config import load_config
from data_pipeline.extraction.added_streams import _how_made, read_clips
from data_pipeline.extraction.config import DataConfig
from data_pipeline.files.weights import ASSETS
from data_pipeline.runs import executor
from data_pipeline.runs.tasks import side_tasks
from data_pipeline.schema import SchemaError
from data_pipeline.shards import list_shards, load_passport, read_manifest, read_shard

HERE = Path(__file__).parent
SOUNDS = sorted((ASSETS / "samples").glob("*.mp3"))

BRIGHTNESS = '''
"""A user's own stream: how bright the face is."""
import dataclasses
import numpy as np
from data_pipeline.schema import FeatureSpec, Stream

NEEDS = frozenset({"face"})
STREAMS = ("brightness",)

@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    size: int = 48

class Brightness:
    def __init__(self, settings):
        self.crop_size = settings.size
        self.passport = {"brightness": FeatureSpec(name="mean", weights_sha256="", layer=0,
            pooling=1, rate_hz=10.0, width=1, dtype="float32", clock="brightness")}

    def __call__(self, evidence):
        values = evidence.crops_KHW.mean((1, 2), dtype=np.float32)[:, None]
        return {"brightness": Stream(values_ND=values, seconds_N=evidence.crop_seconds_K)}

def load(settings, device):
    return Brightness(settings)
'''


@pytest.fixture(scope="module")
def heard(tmp_path_factory) -> Path:
    """A finished extraction of five sounds, two a shard; one of the sounds is but half a second."""
    home = tmp_path_factory.mktemp("heard")
    rows = [f"{path},0,,c{n}" for n, path in enumerate(SOUNDS[:5])]
    (home / "t.csv").write_text("\n".join(["video,start,end,id", *rows]) + "\n")
    words = [f"clips={home}/t.csv", f"output={home}/out", "clips_per_shard=2", "workers=1"]
    words += ["device=cpu", "require=[speech]", "streams.face=false"]
    assert extract.main(words) == 0
    return home / "out"


@pytest.fixture
def folder(heard, tmp_path) -> Path:
    return Path(shutil.copytree(heard, tmp_path / "out"))


def add(folder: Path, *words: str, name: str = "fbank") -> int:
    return extract.main([f"add=[{name}]", f"output={folder}", "workers=1", "device=cpu", *words])


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "timings" not in path.parts
    }


def test_a_stream_more_stands_beside_and_the_rest_stays_to_the_byte(folder, capsys):
    before, samples = content(folder), [list(read_shard(tar)) for tar in list_shards(folder)]
    assert add(folder) == 0
    assert "fbank: samples 5 + rejects 0 = samples of the shards 5" in capsys.readouterr().out
    after = content(folder)
    assert {name: after[name] for name in before} == before
    new = {f"{n:06d}.fbank.{end}" for n in range(3) for end in ("tar", "json")}
    assert after.keys() - before.keys() == new
    for tar, plain in zip(list_shards(folder), samples, strict=True):
        for one, both, alone in zip(
            plain,
            read_shard(tar, streams=["speech", "fbank"], verify=True),
            read_shard(tar),
            strict=True,
        ):
            assert both.streams.keys() == {"speech", "fbank"} and alone.streams.keys() == {"speech"}
            assert np.array_equal(both.streams["speech"].values_ND, one.streams["speech"].values_ND)
            fbank = both.streams["fbank"]
            assert fbank.values_ND.shape[1] == 80 and fbank.values_ND.dtype == np.float16
            # Both hear the whole clip: 100 frames and 50/3 states a second.
            assert len(fbank) == pytest.approx(6 * len(both.streams["speech"]), abs=8)
    assert load_passport(folder, ["fbank"])["fbank"].rate_hz == 100
    assert load_passport(folder).keys() == {"speech"}


def test_adding_again_makes_only_what_is_missing(folder, capsys, monkeypatch):
    assert add(folder) == 0
    whole = content(folder)
    (folder / "000001.fbank.json").unlink()
    made = []
    real = executor.write_shard
    monkeypatch.setattr(executor, "write_shard", lambda *a, **k: made.append(a[1]) or real(*a, **k))
    assert add(folder) == 0
    assert made == [1] and content(folder) == whole
    assert add(folder) == 0
    assert made == [1] and content(folder) == whole
    (folder / "000002.fbank.json").write_text("{")
    assert add(folder) == 0
    assert made == [1, 2] and content(folder) == whole


def test_a_stream_of_a_gpu_is_another_task_than_that_of_the_cpu(folder):
    base, clips = load_config(DataConfig, folder / "config.yaml", []), read_clips(folder)
    on_cpu, on_gpu = (
        side_tasks(folder, clips, "fbank", _how_made(base, device)) for device in ("cpu", "cuda")
    )
    assert [task.name for task in on_cpu] == [task.name for task in on_gpu]
    assert {task.digest for task in on_cpu}.isdisjoint(task.digest for task in on_gpu)
    assert _how_made(base, "cpu").keys() == {"media", "voice"}  # the digests of before


def test_other_settings_or_another_passport_are_refused(folder, capsys):
    assert add(folder) == 0
    whole = content(folder)
    assert add(folder, "streams.fbank.mel_bins=40") == 2
    assert "fbank.width: found 80, expected 40" in capsys.readouterr().err
    path = folder / "000000.fbank.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task": "0" * 64}))
    assert add(folder) == 2
    said = capsys.readouterr().err
    assert "was made with other settings" in said and f"remove {folder}/*.fbank.*" in said
    path.write_bytes(whole[path.name])
    assert add(folder) == 0 and content(folder) == whole


def test_a_tar_beside_another_shard_is_made_anew(folder):
    assert add(folder) == 0
    whole = content(folder)
    path = folder / "000000.fbank.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beside": "0" * 64}))
    with pytest.raises(SchemaError, match=r"remove it and run .* 'add=\[fbank\]' output="):
        list(read_shard(folder / "000000.tar", streams=["fbank"]))
    assert add(folder) == 0 and content(folder) == whole


def test_a_clip_that_cannot_give_it_is_a_reject_of_the_side_manifest(folder, capsys):
    text = (folder / "clips.csv").read_text()
    gone = str(SOUNDS[1])
    (folder / "clips.csv").write_text(text.replace(gone, f"{gone}.gone"))
    assert add(folder) == 0
    assert "fbank: samples 4 + rejects 1" in capsys.readouterr().out
    (row,) = read_manifest(folder / "000000.fbank.json").rejects
    assert (row["clip"], row["stage"], row["reason"]) == ("c1", "media", "missing_file")
    one, other = read_shard(folder / "000000.tar", streams=["speech", "fbank"])
    assert one.streams.keys() == {"speech", "fbank"} and other.streams.keys() == {"speech"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["add=[fbnk]"], "streams.fbnk: cannot import data_pipeline.features.fbnk"),
        (["add=[]"], "expected a stream to add, such as add=[fbank]"),
        (["add=fbank"], r"a list needs brackets: add=[fbank]"),
        (["add=[face]"], "face makes face and face_probs at once"),
        (["add=[speech]"], "hold speech already"),
        (["add=[crops]"], "needs faces, and"),
        (["add=[fbank]", "streams.fbank.bins=3"], "nearest is 'streams.fbank.mel_bins'"),
        (["add=[fbank]", "streams.speech.layer=3"], "streams.speech is set, but add=[fbank]"),
        (["add=[fbank]", "require=[text]"], "there is no setting 'require'"),
    ],
)
def test_what_cannot_be_added_is_one_message(heard, capsys, words, message):
    assert extract.main([*words, f"output={heard}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("extract: ") and message in said


def test_a_folder_that_is_not_finished_is_refused(folder, capsys, tmp_path):
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"num_shards_done": 2}))
    assert add(folder) == 2
    assert "is not finished" in capsys.readouterr().err
    assert add(tmp_path / "nowhere") == 2
    assert "no summary of an extraction" in capsys.readouterr().err
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "clips.csv").write_text("id,video\nother,x.mp3\n")
    assert add(folder) == 2
    assert "has no clip c0" in capsys.readouterr().err


def test_a_module_of_ones_own_reads_stored_faces(tmp_path, monkeypatch, capsys):
    """One new file and one line of config, before and after: the same numbers."""
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab/brightness.py").write_text(BRIGHTNESS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    video = next((ASSETS / "samples").glob("*.flv"))
    words = [f"clips={video}", "workers=1", "device=cpu", "streams={crops: {}, face: false}"]
    words += ["require=[speech]", "speaker=any_face"]
    assert extract.main([*words, f"output={tmp_path}/later"]) == 0
    at_once = 'streams={crops: {}, face: false, "mylab.brightness": {}}'
    assert extract.main([*words, at_once, f"output={tmp_path}/at_once"]) == 0
    assert add(tmp_path / "later", name="mylab.brightness") == 0
    (later,) = read_shard(tmp_path / "later/000000.tar", streams=["crops", "brightness"])
    (once,) = read_shard(tmp_path / "at_once/000000.tar")
    for name in ("crops", "brightness"):
        assert np.array_equal(later.streams[name].values_ND, once.streams[name].values_ND)
        assert np.array_equal(later.streams[name].seconds_N, once.streams[name].seconds_N)
    wrong = 'streams={"mylab.brightness": {size: 32}}'
    assert add(tmp_path / "at_once", name="mylab.brightness") == 2
    assert f"the shards in {tmp_path}/at_once hold brightness already" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "at_once")
    for side in (tmp_path / "later").glob("*.brightness.*"):
        side.unlink()
    assert add(tmp_path / "later", wrong, name="mylab.brightness") == 2
    said = capsys.readouterr().err
    assert "mylab.brightness wants faces of 32 pixels" in said
    assert f"the crops in {tmp_path}/later have 48" in said


@pytest.mark.slow
@pytest.mark.distributed
def test_killed_at_any_file_operation_and_rerun_gives_the_same_bytes(heard, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{HERE.parents[1]}:{HERE.parent}:{HERE}")
    killed, clean = (Path(shutil.copytree(heard, tmp_path / n)) for n in ("killed", "clean"))
    script = (
        "import sys, toy_extractor\n"
        "from data_pipeline import extract\n"
        "from data_pipeline.runs import executor\n"
        "toy_extractor.kill_self_at(int(sys.argv[1]))\n"
        "sys.exit(extract.main(sys.argv[2:]))\n"
    )
    words = ["add=[fbank]", f"output={killed}", "workers=1", "device=cpu"]
    for moment in (2, 9, 13, 22):  # of timings, tar, manifest: opening, flushing, renaming
        end = subprocess.run([sys.executable, "-c", script, str(moment), *words])
        assert end.returncode == -9
    assert add(killed) == 0 and add(clean) == 0
    assert content(killed) == content(clean)
    assert not list(killed.rglob("*.tmp"))
