"""Heads: from the encoder's hidden states to a score for each class.

All share one signature, so that the training loop knows none of them. There is one so far, the
linear head, which every setting but pretrain_prompt has (finetune.build.build_classifier):

    head(encoded: Encoded, batch: Batch) -> scores_NC

`encoded` is what MEmoBert.encode gives, `batch` tells real positions from padding.
"""

from finetune.heads.linear import LinearHead

__all__ = ["LinearHead"]
