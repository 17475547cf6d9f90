"""The system `unimse`: a T5 that reads the words, pyramid adapters that let it hear and see, and
one answer for labels of all kinds (Hu, Lin, Zhao, Lu, Wu and Li, *UniMSE: Towards Unified
Multimodal Sentiment Analysis and Emotion Recognition*, EMNLP 2022, arXiv 2211.11256).

    accelerate launch finetune/run.py ...              learns, and is judged by the classes
    python -m finetune.systems.unimse answers ...      what it answers, word for word, with the
                                                       field's metrics
"""

from finetune.systems.unimse.build import build
from finetune.systems.unimse.recognizer import load

__all__ = ["build", "load"]
