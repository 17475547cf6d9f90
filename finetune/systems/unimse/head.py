"""From clips to losses and scores: the answer, and the contrast of words and streams.

InfoNCE of text n and one stream: a 1x1 convolution brings the words' states (D) and the stream's
(H) to 30 numbers, means over time are compared by their cosine over 0.1, and the stream of clip n
has to win among those of the batch. One pair of convolutions serves all streams and blocks, as in
the released code. A convolution of width 1 is a Linear layer, and what it makes of a mean is the
mean of what it makes: it comes last here, so that processes exchange one row a clip.

Shapes: N clips of this process, B of the whole batch, T tokens, D width of the T5, F rows of a
stream, H width of its LSTM, C classes, A tokens of an answer, P = 30.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from finetune.heads.base import HeadOutput
from finetune.heads.rows import mean_of
from finetune.systems.unimse.answers import EMOTION, AnswerBook
from finetune.systems.unimse.batch import Turns
from finetune.systems.unimse.config import Contrast
from finetune.systems.unimse.network import FusedT5
from finetune.training.classifier import Classifier

HIDDEN = -1e4
"""Added to a cosine over the temperature where a clip has no such stream."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Said:
    """What the model makes of a batch."""

    words: list[torch.Tensor]
    """[N, T, D], of each encoder block with an adapter, before it."""
    states: dict[str, torch.Tensor]
    """Stream to [N, F, H]."""
    answer_loss_N: torch.Tensor | None = None
    """Mean cross-entropy over the tokens of each answer, where the batch has answers."""
    scores_NC: torch.Tensor | None = None
    """Log likelihood of each class's answer, where it has none."""
    prediction_N: torch.Tensor | None = None
    """Of generated answers: class, or C for none; None where likelihood decides."""


class UniMse(nn.Module):
    """The fused T5 and the answers that it is asked for."""

    def __init__(self, fused: FusedT5, book: AnswerBook, decode: str) -> None:
        super().__init__()
        self.fused, self.book, self.decode = fused, book, decode
        ids_CA, counted_CA = map(torch.from_numpy, book.candidates())
        self.register_buffer("ids_CA", ids_CA, persistent=False)
        self.register_buffer("counted_CA", counted_CA, persistent=False)

    def encode(self, batch: Turns) -> Said:
        """Learned answers where the batch has some, else the classes' scores."""
        beside_NS, states, hidden_NTD, words = self._read(batch)
        about = hidden_NTD, batch.mask_NT, beside_NS
        if batch.answer_NA is not None:
            logits_NAV = self.fused.decode(*about, batch.answer_NA)
            loss_NA = F.cross_entropy(logits_NAV.mT, batch.answer_NA, reduction="none")
            real_NA = batch.answer_mask_NA
            loss_N = (loss_NA * real_NA).sum(1) / real_NA.sum(1)
            return Said(words=words, states=states, answer_loss_N=loss_N)
        scores_NC = self._likelihoods(*about)
        prediction_N = None
        if self.decode == "generate":
            classes = self.book.classes
            said = [answer[EMOTION] for answer in self._answers(*about)]
            numbers = [len(classes) if one is None else classes.index(one) for one in said]
            prediction_N = torch.tensor(numbers, device=scores_NC.device)
        return Said(words=words, states=states, scores_NC=scores_NC, prediction_N=prediction_N)

    def answer(self, batch: Turns) -> list[dict[str, str | float | None]]:
        """What it answers, greedily, token by token, as `AnswerBook.parse` reads it."""
        beside_NS, _, hidden_NTD, _ = self._read(batch)
        return self._answers(hidden_NTD, batch.mask_NT, beside_NS)

    def _read(
        self, batch: Turns
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor], torch.Tensor, list[torch.Tensor]]:
        rows = {name: (batch.values[name], batch.lengths[name]) for name in batch.values}
        beside_NS, states = self.fused.encode_streams(rows)
        hidden_NTD, words = self.fused.encode_words(batch.ids_NT, batch.mask_NT, beside_NS)
        return beside_NS, states, hidden_NTD, words

    def _likelihoods(self, *about: torch.Tensor | None) -> torch.Tensor:
        """[N, C]; a class at a time, so that a large vocabulary fits."""
        count = len(about[0])
        scores = []
        for ids_A, counted_A in zip(self.ids_CA, self.counted_CA, strict=True):
            ids_NA = ids_A.expand(count, -1)
            log_NAV = F.log_softmax(self.fused.decode(*about, ids_NA), -1)
            log_NA = log_NAV.gather(-1, ids_NA[..., None])[..., 0]
            scores.append((log_NA * counted_A).sum(1))
        return torch.stack(scores, 1)

    def _answers(self, *about: torch.Tensor | None) -> list[dict[str, str | float | None]]:
        ids_NA = self.fused.generate(*about, self.book.longest)
        return [self.book.read(ids_A) for ids_A in ids_NA.tolist()]


class UniMseHead(nn.Module):
    """Losses of an answer and of the contrast."""

    def __init__(self, width: int, hidden: int, contrast: Contrast) -> None:
        super().__init__()
        self.contrast = contrast
        if contrast.weight:
            self.words = nn.Linear(width, contrast.width)
            self.stream = nn.Linear(hidden, contrast.width)

    def forward(self, said: Said, batch: Turns, label_N: torch.Tensor) -> HeadOutput:
        """In training, where answers are learned and nobody asks for scores, they are NaN."""
        if said.answer_loss_N is None:
            loss = F.cross_entropy(said.scores_NC, label_N, reduction="sum")
            return HeadOutput(
                scores_NC=said.scores_NC,
                losses={"cross_entropy": loss},
                prediction_N=said.prediction_N,
            )
        scores_NC = said.answer_loss_N.new_full((len(label_N), 1), torch.nan)
        shared = self._means(said, batch) if self.contrast.weight and said.states else {}
        losses = {"answer": said.answer_loss_N.sum()}
        return HeadOutput(scores_NC=scores_NC, losses=losses, shared=shared)

    def _means(self, said: Said, batch: Turns) -> dict[str, torch.Tensor]:
        """Over time, a row a clip: of the words in each block, of each stream; and who has both."""
        excluded = self.contrast.padding == "excluded"
        words = said.words[-1:] if self.contrast.blocks == "last" else said.words
        real_NT = batch.mask_NT if excluded else torch.ones_like(batch.mask_NT)
        shared = {f"words{n}": mean_of(words_NTD, real_NT) for n, words_NTD in enumerate(words)}
        for name, states_NFH in said.states.items():
            length_N1 = torch.tensor(batch.lengths[name], device=states_NFH.device)[:, None]
            at_F = torch.arange(states_NFH.shape[1], device=states_NFH.device)
            real_NF = at_F < length_N1 if excluded else torch.ones_like(at_F < length_N1)
            shared[f"stream {name}"] = mean_of(states_NFH, real_NF)
            has_text_N = torch.tensor(batch.has_text, device=states_NFH.device)
            shared[f"has {name}"] = (has_text_N & (length_N1[:, 0] > 0)).float()
        return shared

    def batch_losses(
        self, shared: dict[str, torch.Tensor], label_B: torch.Tensor, mine: slice
    ) -> dict[str, torch.Tensor]:
        """The contrast of each stream, the mean over blocks, summed over the clips `mine`."""
        words = [self.words(x_BD) for name, x_BD in shared.items() if name.startswith("words")]
        losses = {}
        for name in (n.partition(" ")[2] for n in shared if n.startswith("stream ")):
            key_BP = self.stream(shared[f"stream {name}"])
            loss = sum(
                info_nce(query_BP, key_BP, shared[f"has {name}"] > 0, self.contrast.temperature)[
                    mine
                ].sum()
                for query_BP in words
            )
            losses[f"contrast_{name}"] = self.contrast.weight * loss / len(words)
        return losses


def info_nce(
    query_BP: torch.Tensor, key_BP: torch.Tensor, has_B: torch.Tensor, temperature: float
) -> torch.Tensor:
    """[B]: minus log softmax, at its own key, of each query's cosines over the temperature.

    has_B: clips with both; the others are neither asked nor among the answers, and give 0.
    """
    query_BP, key_BP = (F.normalize(x_BP.float(), dim=-1) for x_BP in (query_BP, key_BP))
    cosine_BB = (query_BP[:, None] * key_BP).sum(-1)  # a product of matrices would be in bf16
    logits_BB = (cosine_BB / temperature).masked_fill(~has_B, HIDDEN)
    return torch.where(has_B, -F.log_softmax(logits_BB, -1).diagonal(), 0.0)


def build_classifier(
    fused: FusedT5, book: AnswerBook, *, decode: str, contrast: Contrast
) -> Classifier:
    """As `finetune.training.fit` trains it."""
    head = UniMseHead(fused.t5.config.d_model, fused.hidden, contrast)
    return Classifier(UniMse(fused, book, decode), head)
