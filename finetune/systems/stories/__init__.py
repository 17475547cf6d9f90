"""The system `stories`: what is heard and said in all clips of a story, pooled, and classical
models on it (Boateng and Kowatsch, ICMI 2020 companion, doi 10.1145/3395035.3425255).

    accelerate launch finetune/run.py --config configs/finetune/stories.yaml
    python -m finetune.systems.stories table ...      the table of docs/results/stories.md
"""

from finetune.systems.stories.build import build
from finetune.systems.stories.recognizer import load

__all__ = ["build", "load"]
