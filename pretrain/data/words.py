"""Words -> word pieces, and the word that each piece belongs to.

    ids_T, word_T = word_pieces(tokenizer, ["don't", "go"])

A call of a tokenizer costs 66 us, mostly around its work. BERT's cuts every word by itself, so what
a word becomes is kept and a clip of words that were met is put together in 5.

T: word pieces with [CLS] and [SEP].
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import PreTrainedTokenizerBase


def word_pieces(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Ids [T] int64 with [CLS] and [SEP], and the index of each piece's word; -1: special."""
    ends = _ends(tokenizer)
    if ends is None:
        return by_the_clip(tokenizer, words)
    ids, word_of = [ends[0]], [-1]
    for number, word in enumerate(words):
        pieces, ordinary = _of_one(tokenizer, word)
        ids += pieces
        word_of += [number if one else -1 for one in ordinary]
    return np.array([*ids, ends[1]]), np.array([*word_of, -1])


def by_the_clip(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The plain twin: one call for all words."""
    encoding = tokenizer(
        list(words), is_split_into_words=True, truncation=False, padding=False, verbose=False
    )
    ids = encoding["input_ids"]
    # A transcript may hold "[SEP]" itself; a prompt does hold "[MASK]".
    special = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id}
    pairs = zip(ids, encoding.word_ids(), strict=True)
    word_T = np.array([-1 if i in special or word is None else word for i, word in pairs])
    return np.array(ids, dtype=np.int64), word_T


@lru_cache(maxsize=65_536)
def _of_one(
    tokenizer: PreTrainedTokenizerBase, word: str
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Its pieces, and whether each is an ordinary one."""
    ids_T, word_T = by_the_clip(tokenizer, [word])
    return tuple(ids_T[1:-1].tolist()), tuple((word_T[1:-1] == 0).tolist())


@lru_cache(maxsize=8)
def _ends(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int] | None:
    """[CLS] and [SEP] of a BERT, for which a word's pieces do not depend on the words beside it;
    None of another kind of tokenizer."""
    parts = tokenizer.backend_tokenizer
    kinds = (
        (parts.model, WordPiece),
        (parts.normalizer, BertNormalizer),
        (parts.pre_tokenizer, BertPreTokenizer),
    )
    if not all(isinstance(part, kind) for part, kind in kinds):
        return None
    return tokenizer.cls_token_id, tokenizer.sep_token_id
