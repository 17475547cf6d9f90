"""How alike texts are: rows whose products are cosines. N texts, H numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from transformers import AutoModel

from data_pipeline.files.weights import resolve_weights
from finetune.systems.unimse.t5 import NOT_READ, T5Error, load_tokenizer

LONGEST = 128
"""Pieces of a text that a sentence encoder reads."""
AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Similarity:
    """TF-IDF of words, or a sentence encoder."""

    encoder: str | None
    """A folder, package:MODULE/FOLDER or hub name; None is TF-IDF."""
    known: dict[str, np.ndarray] = field(default_factory=dict)
    """What the encoder made of each text: folds and seeds ask for the same ones."""

    def rows(self, texts: Sequence[str]) -> Any:
        """[N, H] of unit length, a sparse matrix for TF-IDF; zeros for texts without a known word.

        TF-IDF counts in these texts alone, so they have to be training texts. Raises T5Error for a
        name that is no encoder.
        """
        if self.encoder is None:
            return TfidfVectorizer(token_pattern=r"(?u)\b\w+\b").fit_transform(texts)
        new = list(dict.fromkeys(text for text in texts if text not in self.known))
        self.known.update(zip(new, self._encode(new), strict=True))
        return np.stack([self.known[text] for text in texts])

    @torch.no_grad()
    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Mean of the last states over a text's pieces, as sentence transformers such as MiniLM
        have it, at unit length."""
        if not texts:
            return []
        tokenizer = load_tokenizer(self.encoder)
        try:
            model = AutoModel.from_pretrained(resolve_weights(self.encoder), use_safetensors=True)
        except NOT_READ as error:
            raise T5Error(f"options.similarity={self.encoder} holds no encoder: {error}") from error
        found = []
        for start in range(0, len(texts), AT_ONCE):
            part = tokenizer(
                list(texts[start : start + AT_ONCE]),
                padding=True,
                truncation=True,
                max_length=LONGEST,
                return_tensors="pt",
            )
            states_NTH = model.eval()(**part).last_hidden_state
            mask_NT1 = part["attention_mask"][..., None]
            mean_NH = (states_NTH * mask_NT1).sum(1) / mask_NT1.sum(1)
            found += list(torch.nn.functional.normalize(mean_NH, dim=-1).numpy())
        return found
