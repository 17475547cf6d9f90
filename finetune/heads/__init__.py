"""Heads: from the encoder's hidden states to a score for each class.

All share one signature, so that a setting names one and the training loop knows none:

    head(encoded: Encoded, batch: Batch) -> scores_NC

`encoded` is what MEmoBert.encode gives, `batch` tells real positions from padding.
"""

from finetune.heads.linear import LinearHead

__all__ = ["LinearHead"]
