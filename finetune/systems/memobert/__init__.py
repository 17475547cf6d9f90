"""The system `memobert`: weights (new, bert, checkpoint) x head x plan."""

from finetune.systems.memobert.build import build
from finetune.systems.memobert.recognizer import load

__all__ = ["build", "load"]
