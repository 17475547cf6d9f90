"""MEmoBERT, or another system, to emotions. `load_recognizer().recognize("video.mp4")`."""

from typing import Any

__all__ = ["load_recognizer"]


def __getattr__(name: str) -> Any:
    """Loaded where used: the commands of this package tell a slip before torch is there."""
    if name == "load_recognizer":
        from finetune.recognizer import load_recognizer

        return load_recognizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
