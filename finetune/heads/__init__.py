"""Heads: from the encoder's hidden states to a score for each class, with losses of their own.

One file a head, found by its name: `head: linear` of a setting is finetune/heads/linear.py. All
share one signature, so that the training loop knows none of them:

    head(encoded, batch, label_N) -> HeadOutput(scores_NC, losses)

A head of one's own registers itself, `@register(__name__) class MyHead(Head)`, in a module that can
be imported, and `head: mylab.my_head` names that module with its dots.
"""

import importlib
from collections.abc import Callable

from finetune.heads.base import Head, HeadOutput, HeadParts, Training

_REGISTERED: dict[str, type[Head]] = {}


def register(name: str) -> Callable[[type[Head]], type[Head]]:
    """Make a head known by `name`, which configs and results rows then use."""

    def known(head: type[Head]) -> type[Head]:
        if _REGISTERED.setdefault(name, head) is not head:
            raise ValueError(f"there is a head {name!r} already: {_REGISTERED[name]}")
        return head

    return known


def head_named(name: str) -> type[Head]:
    """The head of this name. Raises LookupError, which says how one is added."""
    if name not in _REGISTERED and all(part.isidentifier() for part in name.split(".")):
        module = name if "." in name else f"{__name__}.{name}"
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            # Else the file is there, and something that it needs is not.
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
    if name not in _REGISTERED:
        raise LookupError(
            f"no head {name!r}; expected the name of a file in finetune/heads, such as linear or "
            "prompt, or a module of your own with its dots, that registers it"
        )
    return _REGISTERED[name]


__all__ = ["Head", "HeadOutput", "HeadParts", "Training", "head_named", "register"]
