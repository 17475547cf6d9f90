"""The system `face_eeg`: a classifier of faces and one of EEG, which finetune.fuse lets decide
together (Tan, Sun, Duan, Sole-Casals and Caiafa, Biomedical Signal Processing and Control 70, 2021,
103029).

Each is a setting of its own and reads one stream, or any others: an MLP on the mean and deviation
over time (finetune.heads.statistics) of what the encoders left in the shards, without a model in
between. The paper's classifiers are not published; these are what is usual for such features.
"""

from finetune.systems.face_eeg.build import build
from finetune.systems.memobert.recognizer import load

__all__ = ["build", "load"]
