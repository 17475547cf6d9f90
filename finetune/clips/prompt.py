"""Prompts: the emotion as the word that fills "I am [MASK] ." after the utterance.

    [CLS] Don't forget a jacket. I am [MASK] . [SEP] | face | speech   ->   "anger"

The template is the reference's (ICASSP 2022), which gives the utterance a full stop unless it ends
in ? ! or . and leaves a space before its own, since older BERT tokenizers do not know "[MASK].".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from data_pipeline.errors import UserError

TEXT, MASK = "{text}", "[MASK]"


class PromptError(UserError):
    """A template or a label word that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class Verbalizer:
    """The word that stands for each class."""

    words: tuple[str, ...]
    """In the order of the classes."""
    pieces: tuple[int, ...]
    """Their numbers in the vocabulary."""

    @classmethod
    def build(
        cls, classes: Sequence[str], words: dict[str, str], tokenizer: PreTrainedTokenizerBase
    ) -> "Verbalizer":
        """A class without a word in `words` is its own word.

        Raises PromptError for a word that is not exactly one piece of the vocabulary (it is
        named, with its pieces), a word of two classes, or a class that does not exist.
        """
        strange = sorted(words.keys() - set(classes))
        if strange:
            raise PromptError(
                f"prompt.words names {', '.join(strange)}; the classes are {', '.join(classes)}"
            )
        chosen = tuple(words.get(name, name) for name in classes)
        pieces: list[int] = []
        for name, word in zip(classes, chosen, strict=True):
            split = tokenizer.tokenize(word)
            if len(split) != 1 or split[0] == tokenizer.unk_token:
                found = f"{len(split)} pieces of the vocabulary ({' '.join(split)})"
                if tokenizer.unk_token in split:
                    found = "not in the vocabulary"
                raise PromptError(
                    f"the word {word!r} of class {name} is {found}, and [MASK] holds one piece; "
                    "choose another word in prompt.words"
                )
            piece = tokenizer.convert_tokens_to_ids(split[0])
            if piece in pieces:
                other = classes[pieces.index(piece)]
                raise PromptError(f"the word {word!r} stands for {other} and for {name}")
            pieces.append(piece)
        return cls(words=chosen, pieces=tuple(pieces))


class Prompt:
    """A template, ready to be put around the words of an utterance."""

    def __init__(self, template: str, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises PromptError unless `template` has one [MASK] and one {text} as words apart."""
        parts = template.split()
        if parts.count(MASK) != 1 or parts.count(TEXT) != 1:
            raise PromptError(
                f"prompt.template {template!r}: expected one {MASK} and one {TEXT}, with spaces "
                "around them, such as '{text} I am [MASK] .'"
            )
        at = parts.index(TEXT)
        self._mask_follows_text = parts.index(MASK) > at
        parts[parts.index(MASK)] = tokenizer.mask_token
        self._before, self._after = parts[:at], parts[at + 1 :]
        self._mask_id = tokenizer.mask_token_id
        bare = tokenizer(parts[:at] + parts[at + 1 :], is_split_into_words=True)["input_ids"]
        self.num_pieces = len(bare) - 2
        """Of the template alone, without [CLS] and [SEP]."""

    def words(self, utterance: Sequence[str]) -> list[str]:
        """The template's words around those of the utterance; the bare prompt when it has none."""
        utterance = list(utterance)
        if utterance and not utterance[-1].endswith((".", "!", "?")):
            utterance[-1] += "."
        return self._before + utterance + self._after

    def mask_position(self, ids_T: np.ndarray) -> int:
        """Where the template's [MASK] is, even if the utterance itself holds one."""
        at = np.flatnonzero(ids_T == self._mask_id)
        return int(at[-1] if self._mask_follows_text else at[0])
