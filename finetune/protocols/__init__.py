"""Protocols: which clips a fold trains on, chooses its step on, and is judged on.

A protocol is one JSON file, known by the sha256 of what it says, that names units (speakers,
recordings or single clips), never clips by position, so it says the same for any set of shards:

    {"format_version": 1, "name": "iemocap-speaker10", "version": 1, "group": "speaker",
     "allow_shared_speakers": false, "note": "per session one speaker dev, the other test",
     "folds": [{"train": ["iemocap/1"], "dev": ["iemocap/2"], "test": ["iemocap/3"]}]}

Those of the published corpora ship (`python -m finetune.protocols list`) and are named without a
path: `data.protocol=iemocap-speaker10`. Make one for a corpus without a published protocol:

    python -m finetune.protocols make --shards runs/shards --by speaker --folds 5 --output f.json
"""

from finetune.protocols.files import (
    ALLOW,
    Fold,
    Group,
    Protocol,
    ProtocolError,
    load_protocol,
    save_protocol,
    some,
)
from finetune.protocols.make import make_protocol
from finetune.protocols.split import Splits, clipless_splits, split_clips

__all__ = [
    "ALLOW",
    "Group",
    "Fold",
    "Protocol",
    "ProtocolError",
    "Splits",
    "clipless_splits",
    "load_protocol",
    "make_protocol",
    "save_protocol",
    "some",
    "split_clips",
]
