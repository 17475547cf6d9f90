import pytest

from pretrain.data.example import Limits
from pretrain.data.loader import Loader
from pretrain.data.masking import MaskingSettings
from pretrain.objectives import OBJECTIVES

from ..conftest import index_of

WEIGHTS = {name: objective.weight for name, objective in OBJECTIVES.items()}


@pytest.fixture
def build(toy_folder, bert_tokenizer):
    """A Loader of toy shards; keywords replace its arguments. Closed when the test ends."""
    loaders = []

    def build(folder=toy_folder, **changes) -> Loader:
        arguments = {
            "tokenizer": bert_tokenizer,
            "limits": Limits(),
            "masking": MaskingSettings(),
            "batch_clips": 8,
            "micro_batch_clips": 3,
            "num_lanes": 4,
            "weights": WEIGHTS,
            "mixing": "clip",
            "seed": 7,
        }
        loaders.append(Loader(index_of(folder), **(arguments | changes)))
        return loaders[-1]

    yield build
    for loader in loaders:
        loader.close()
