"""The pretrained word head at [MASK], see finetune.clips.prompt; no new weights.

N clips, C classes, V word pieces.
"""

import torch

from data_pipeline.config import ConfigError
from finetune.clips.prompt import Verbalizer
from finetune.heads import register
from finetune.heads.base import Head, HeadOutput, HeadParts
from pretrain.model.batch import Batch
from pretrain.model.memobert import Encoded, MEmoBert
from pretrain.objectives import wwmlm


@register("prompt")
class PromptHead(Head):
    """The word of a class, as the model fills it in.

    Trained with cross-entropy over the whole vocabulary, as in pretraining. The batch must ask
    for the word at one position per clip, in order (finetune.clips.prompt.Prompt does).

    decode "label_words": the likeliest of the label words wins, so every prediction is a class.
    "vocabulary": the likeliest of all pieces wins, and one that is no label word is class C.
    """

    asks = True

    def __init__(
        self, model: MEmoBert, verbalizer: Verbalizer, decode: str = "label_words"
    ) -> None:
        super().__init__()
        if decode not in ("label_words", "vocabulary"):
            raise ValueError(f"decode {decode!r} is unknown; choose label_words or vocabulary")
        self.mask_logits = model.mask_logits  # the model's own weights, which stay the model's
        self.decode = decode
        self.register_buffer("piece_C", torch.tensor(verbalizer.pieces), persistent=False)

    @classmethod
    def build(cls, parts: HeadParts) -> "PromptHead":
        if not isinstance(parts.model, MEmoBert):
            raise ConfigError(
                "head prompt lets a model fill in a word, and weights=features has none; choose "
                "weights checkpoint, bert or new, or another head"
            )
        verbalizer = Verbalizer.build(parts.classes, parts.prompt.words, parts.tokenizer)
        return cls(parts.model, verbalizer, parts.prompt.decode)

    def forward(self, encoded: Encoded, batch: Batch, label_N: torch.Tensor) -> HeadOutput:
        index_N = batch.targets["wwmlm"].index_M
        logits_NV = self.mask_logits(encoded.text_NTH.flatten(0, 1).index_select(0, index_N))
        loss, _ = wwmlm(logits_NV, self.piece_C[label_N])
        scores_NC = logits_NV[:, self.piece_C].float()
        return HeadOutput(
            scores_NC=scores_NC,
            losses={"wwmlm": loss},
            prediction_N=self._decode(logits_NV, scores_NC),
        )

    def _decode(self, logits_NV: torch.Tensor, scores_NC: torch.Tensor) -> torch.Tensor:
        best_N = scores_NC.argmax(-1)
        if self.decode == "label_words":
            return best_N
        said_N = logits_NV.argmax(-1)
        return torch.where(said_N == self.piece_C[best_N], best_N, scores_NC.shape[1])
