"""What stands below a head: a MEmoBERT, or nothing but the features."""

from collections.abc import Sequence
from typing import Any

from finetune.clips.labelled import Modality
from finetune.systems.memobert.features import Features
from pretrain.model.memobert import MEmoBert

Encoder = MEmoBert | Features


def build_encoder(kind: str, shape: dict[str, Any]) -> Encoder:
    """A new one. `kind`: `memobert` or `features`, with the arguments of the class."""
    return {"memobert": MEmoBert, "features": Features}[kind](**shape)


def widths_of(encoder: Encoder, modalities: Sequence[Modality]) -> dict[str, int]:
    """Modality to the width of its rows."""
    if isinstance(encoder, Features):
        return {name: encoder.widths[name] for name in modalities}
    return dict.fromkeys(modalities, encoder.pooler.dense.out_features)


def pooled_width_of(encoder: Encoder) -> int:
    """Of what the encoder gives of a whole clip."""
    if isinstance(encoder, Features):
        return sum(encoder.widths.values())
    return encoder.pooler.dense.out_features
