"""The system `speech_resnet`: log-mel frames, ResNet34, statistics pooling (Padi, Sadjadi, Sriram
and Manocha, ICMI 2021, arXiv 2108.02510).

    python -m finetune.systems.speech_resnet pretrain ...     stage 1: who speaks
    accelerate launch finetune/run.py ...                     stage 2: with which emotion
"""

from finetune.systems.speech_resnet.build import build
from finetune.systems.speech_resnet.recognizer import load

__all__ = ["build", "load"]
