"""Start the text side, and the layers that all modalities share, from a BERT checkpoint.

What a face and a voice need is new in any case; the word head is new too when the checkpoint is an
encoder alone.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, BertConfig
from transformers.utils import logging

from data_pipeline.errors import UserError
from data_pipeline.files.weights import resolve_weights
from pretrain.model.memobert import MEmoBert


class BertError(UserError):
    """A checkpoint that is no BERT, or one of another size than the model."""


def bert_shape(checkpoint: str) -> dict[str, int]:
    """The arguments of MEmoBert that a BERT checkpoint fixes.

    `MEmoBert(**bert_shape("bert-base-uncased"))` without `load_bert` is the "Direct" setting: the
    same shape, nothing learned. `checkpoint` is any name that resolve_weights takes.
    """
    config = _config(checkpoint)
    return {
        "vocab_size": config.vocab_size,
        "width": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "ffn_width": config.intermediate_size,
        "max_text_positions": config.max_position_embeddings,
    }


def load_bert(model: MEmoBert, checkpoint: str) -> list[str]:
    """Copy a BERT checkpoint into `model`; return lines for the log: what came in, what is new.

    A model of fewer layers takes the lowest, as small BERTs are started from large ones.

    Raises:
        BertError: the checkpoint is no BERT, has fewer layers, or its sizes are not the model's.
    """
    _config(checkpoint)
    found = _read_tensors(checkpoint)
    own = dict(model.named_parameters())
    wrong = [
        f"{name}: {checkpoint} has {list(found[name].shape)}, the model {list(own[name].shape)}"
        for name in own
        if name in found and found[name].shape != own[name].shape
    ]
    layers = len({name.split(".")[2] for name in found if name.startswith("encoder.layer.")})
    mine = len(model.encoder.layer)
    if layers < mine:
        wrong.append(f"layers: {checkpoint} has {layers}, the model {mine}")
    if wrong:
        raise BertError(
            "the BERT checkpoint does not fit the model:\n  "
            + "\n  ".join(wrong[:5])
            + "\nTake the BERT whose sizes the model has, or build the model by this one's sizes."
        )
    taken = [name for name in own if name in found]
    with torch.no_grad():
        for name in taken:
            own[name].copy_(found[name])
    new = [name for name in own if name not in found]
    some = "" if layers == mine else f", the lowest {mine} of {layers} layers"
    return [f"from {checkpoint}: {_summary(taken)}{some}", f"new: {_summary(new)}"]


def bert_word_vectors(checkpoint: str) -> torch.Tensor:
    """[V, H], the vector of each word piece, before any position or layer.

    Raises BertError for a checkpoint that holds none.
    """
    name = "embeddings.word_embeddings.weight"
    found = _read_tensors(checkpoint)
    if name not in found:
        raise BertError(f"{checkpoint} holds no {name}; expected the weights of a BERT")
    return found[name]


def bert_sha256(checkpoint: str) -> str:
    """Digest of the tensors that `load_bert` would read, whatever file they lie in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_read_tensors(checkpoint).items()):
        digest.update(f"{name} {list(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()


def _config(checkpoint: str) -> Any:
    folder = resolve_weights(checkpoint)
    if Path(folder).is_dir() and not (Path(folder) / "config.json").is_file():
        raise BertError(f"no config.json in {folder}; expected a BERT checkpoint of transformers")
    with _readable(checkpoint):
        config = AutoConfig.from_pretrained(folder)
    if not isinstance(config, BertConfig) or config.hidden_act != "gelu":
        raise BertError(
            f"{checkpoint} is a {config.model_type} with {getattr(config, 'hidden_act', 'no')} "
            "activation; expected a bert with gelu, such as bert-base-uncased"
        )
    return config


def _read_tensors(checkpoint: str) -> dict[str, torch.Tensor]:
    """What the checkpoint really holds, under MEmoBert's names; what it lacks is left out."""
    from transformers import BertForPreTraining  # 1.6 s, which a run without BERT need not wait

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its report of missing tensors is ours to write
    try:
        with _readable(checkpoint):
            bert, info = BertForPreTraining.from_pretrained(
                resolve_weights(checkpoint), output_loading_info=True, dtype=torch.float32
            )
    finally:
        logging.set_verbosity(verbosity)
    missing = set(info["missing_keys"])
    return {
        name.removeprefix("bert."): tensor.detach()
        for name, tensor in bert.named_parameters()
        if name not in missing
    }


@contextmanager
def _readable(checkpoint: str) -> Iterator[None]:
    """Says what is wanted where transformers cannot read it. Raises BertError."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        raise BertError(
            f"cannot read the BERT checkpoint {checkpoint}: {error}\nExpected a folder of "
            "transformers, package:MODULE/FOLDER, or a name on the hub. Where there is no network, "
            "run `hf download NAME --local-dir FOLDER` on another machine, copy FOLDER here and "
            "name it"
        ) from error


def _summary(names: list[str]) -> str:
    """`embeddings (5), encoder (96)`: parameters counted by the module that owns them."""
    counts: dict[str, int] = {}
    for name in names:
        part = name.split(".")[0]
        counts[part] = counts.get(part, 0) + 1
    labels = {"cls": "word head", "embeddings": "text embeddings"}
    return ", ".join(f"{labels.get(p, p)} ({n})" for p, n in counts.items()) or "nothing"
