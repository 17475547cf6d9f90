"""M3ER (Mittal, Bhattacharya, Chandra, Bera and Manocha, AAAI 2020, arXiv:1911.05659).

    check    a stream that agrees with no other one of its clip is left out
    proxies  and replaced by what the others say of it; both are finetune.heads.modality_check
    fusion   an LSTM a stream and a memory that sees them all, step by step: the memory fusion
             network (Zadeh et al., AAAI 2018); at the end the streams' states are multiplied
    loss     cross-entropy of the fused scores, and a multiplicative loss of those that each stream
             gives by itself

Any one, two or three streams will do, `text` among them. Steps: each clip's streams are cut into as
many equal parts of time as its longest has rows, at most `steps`, and a part is the mean of its
rows; beyond a clip's last step nothing changes, neither states nor memory.

N clips, S streams, F rows, C width, T steps, H width of an LSTM, M of the memory.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import nn

from data_pipeline.config import ConfigError, Finite, NonNegative, Share
from finetune.heads import register
from finetune.heads.base import Head, HeadOutput, HeadParts, Training
from finetune.heads.modality_check import Agreement, Proxies
from finetune.heads.rows import mean_of, rows_of
from pretrain.model.batch import Batch
from pretrain.model.memobert import Encoded

NEARLY_ONE = 1 - 1e-6


@dataclass(frozen=True, kw_only=True)
class M3erSettings:
    """M3ER; sizes of the paper, and of the memory fusion network's authors where it gives none."""

    check: bool = True
    """Leave out streams that agree with no other one of their clip, where a clip has three: of two
    that disagree nothing tells which one is to blame."""
    threshold: Finite = 0.3
    """Least correlation of two streams that agree. The paper's is not known."""
    dimensions: PositiveInt = 100
    """Directions in which streams are compared; training clips must be more."""
    proxies: bool = True
    """Replace a stream that is missing, or was left out, by what the others say of it."""
    bases: PositiveInt = 512
    """Training clips that proxies are made of, at most."""
    neighbours: PositiveInt = 10
    """Of them, those that one proxy is a sum of."""
    loss: Literal["modified", "original"] = "modified"
    """modified (M3ER): a stream counts by its own probability of the truth. original (Liu et al.,
    2018): by how wrong the others are."""
    beta: NonNegative = 1.0
    """Sharpness of either; 0 is the plain sum of the streams' cross-entropies."""
    floor: Share = 0.2
    """Least weight of a stream's loss: with 0, the paper's, one that is quite wrong stays so. Above
    1 / (1 + e^2) = 0.12 the loss falls with every p of the truth, whatever beta is."""
    multiplicative: NonNegative = 1.0
    """Weight of that loss beside the cross-entropy of the fused scores."""
    steps: PositiveInt = 20
    """Most steps of the fusion."""
    width: PositiveInt = 32
    """Of the LSTM of each stream."""
    memory: PositiveInt = 128
    """Numbers of the memory."""
    hidden: PositiveInt = 128
    """Inner width of the fusion's networks."""
    dropout: Share = 0.2
    """Inside them."""


@register("m3er")
class M3erHead(Head):
    """Check, proxies, memory fusion, multiplicative loss."""

    Settings = M3erSettings

    def __init__(self, widths: dict[str, int], num_classes: int, settings: M3erSettings) -> None:
        super().__init__()
        self.settings, self.widths = settings, widths
        self.agreement = self.proxies = None
        if settings.check and len(widths) > 2:
            self.agreement = Agreement(widths, settings.dimensions)
        if settings.proxies and len(widths) > 1:
            self.proxies = Proxies(widths, settings.bases, settings.neighbours)
        self.fusion = MemoryFusion(
            list(widths.values()),
            settings.width,
            settings.memory,
            hidden=settings.hidden,
            dropout=settings.dropout,
        )
        self.alone = nn.ModuleList(nn.Linear(settings.width, num_classes) for _ in widths)
        self.classifier = network(
            settings.width + settings.memory, 64, num_classes, settings.dropout
        )

    @classmethod
    def build(cls, parts: HeadParts) -> "M3erHead":
        settings: M3erSettings = parts.settings
        num_streams = len(parts.widths)
        looks_back = (settings.check and num_streams > 2) or (settings.proxies and num_streams > 1)
        if looks_back and not parts.frozen:
            raise ConfigError(
                "head m3er compares clips with what the model made of the training clips before "
                "the first step, so the model must stay as it is: set plan.freeze_model=true, or "
                "weights=features, or options.check and options.proxies to false"
            )
        return cls(dict(parts.widths), len(parts.classes), settings)

    def prepare(self, train: Training) -> None:
        """Find the directions of the check, and the bases of the proxies."""
        if self.agreement is None and self.proxies is None:
            return
        parts: list[dict[str, tuple[torch.Tensor, torch.Tensor]]] = []
        for encoded, batch in train.encoded():
            rows = self._rows(encoded, batch)
            parts.append({name: (mean_of(*row), row[1].any(1)) for name, row in rows.items()})
        means = {n: torch.cat([p[n][0] for p in parts]).double().cpu().numpy() for n in self.widths}
        has = {n: torch.cat([p[n][1] for p in parts]).cpu().numpy() for n in self.widths}
        for part in filter(None, (self.agreement, self.proxies)):
            part.fit(means, has)

    def forward(self, encoded: Encoded, batch: Batch, label_N: torch.Tensor) -> HeadOutput:
        rows = self._rows(encoded, batch)
        steps_NT, streams, has_NS = self._effective(rows)
        state_NSH, memory_NM = self.fusion(steps_NT, streams, has_NS)
        together_NH = state_NSH.masked_fill(~has_NS[..., None], 1.0).prod(1)
        scores_NC = self.classifier(torch.cat([together_NH, memory_NM], 1)).float()
        losses = {"cross_entropy": F.cross_entropy(scores_NC, label_N, reduction="sum")}
        if self.settings.multiplicative:
            alone_NSC = torch.stack(
                [score(state_NSH[:, s]) for s, score in enumerate(self.alone)], 1
            )
            log_NSC = F.log_softmax(alone_NSC.float(), -1)
            log_NS = log_NSC[torch.arange(len(label_N), device=label_N.device), :, label_N]
            loss_N = multiplicative_loss(
                log_NS,
                has_NS,
                form=self.settings.loss,
                beta=self.settings.beta,
                floor=self.settings.floor,
            )
            losses["multiplicative"] = self.settings.multiplicative * loss_N.sum()
        return HeadOutput(scores_NC=scores_NC, losses=losses)

    def _rows(self, encoded: Encoded, batch: Batch) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        return {name: rows_of(encoded, batch, name, width) for name, width in self.widths.items()}

    def _effective(
        self, rows: dict[str, tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """Steps that are real [N, T], the streams [N, T, C], and which of them each clip has
        [N, S], after check and proxies."""
        means = {name: mean_of(*row) for name, row in rows.items()}
        has = {name: real_NF.any(1) for name, (_, real_NF) in rows.items()}
        valid = has
        if self.agreement is not None:
            valid = self.agreement.valid(means, has, self.settings.threshold)
        length_N = torch.stack([real_NF.sum(1) for _, real_NF in rows.values()]).amax(0)
        length_N = length_N.clamp(max=self.settings.steps)
        streams, there = [], []
        for name, (values_NFC, real_NF) in rows.items():
            steps_NTC = into_steps(values_NFC, real_NF.sum(1), length_N, self.settings.steps)
            steps_NTC = steps_NTC * valid[name][:, None, None]
            there_N = valid[name]
            if self.proxies is not None:
                proxy_NC, found_N = self.proxies(means, valid, name)
                found_N = found_N & ~there_N
                proxy_N1C = proxy_NC.to(steps_NTC.dtype)[:, None]
                steps_NTC = torch.where(found_N[:, None, None], proxy_N1C, steps_NTC)
                there_N = there_N | found_N
            streams.append(steps_NTC)
            there.append(there_N)
        step_T = torch.arange(self.settings.steps, device=length_N.device)
        return step_T < length_N[:, None], streams, torch.stack(there, 1)


class MemoryFusion(nn.Module):
    """The memory fusion network: an LSTM cell a stream, attention over their memories of this step
    and the one before (window 2), and a gated memory of all (Zadeh et al., AAAI 2018)."""

    def __init__(
        self, widths: list[int], width: int, memory: int, *, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.width, self.memory = width, memory
        self.cells = nn.ModuleList(nn.LSTMCell(C, width) for C in widths)
        window = 2 * width * len(widths)
        self.attention = network(window, hidden, window, dropout)
        self.proposal = network(window, hidden, memory, dropout)
        self.keep = network(window + memory, hidden, memory, dropout)
        self.take = network(window + memory, hidden, memory, dropout)

    def forward(
        self, steps_NT: torch.Tensor, streams: list[torch.Tensor], has_NS: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States [N, S, H] and memory [N, M] after each clip's last step. A stream that a clip has
        not stays at zero."""
        num_clips = len(steps_NT)
        blank_NH = streams[0].new_zeros(num_clips, self.width)
        states = [(blank_NH, blank_NH) for _ in self.cells]
        memory_NM = streams[0].new_zeros(num_clips, self.memory)
        for t in range(steps_NT.shape[1]):
            goes_on_N1 = steps_NT[:, t, None]
            before_NL = torch.cat([c for _, c in states], 1)
            states = [
                tuple(
                    torch.where(goes_on_N1 & has_NS[:, s, None], new, old)
                    for new, old in zip(cell(streams[s][:, t], states[s]), states[s], strict=True)
                )
                for s, cell in enumerate(self.cells)
            ]
            now_NL = torch.cat([c for _, c in states], 1)
            memory_NM = torch.where(
                goes_on_N1, self.step(torch.cat([before_NL, now_NL], 1), memory_NM), memory_NM
            )
        return torch.stack([h for h, _ in states], 1), memory_NM

    def step(self, window_NW: torch.Tensor, memory_NM: torch.Tensor) -> torch.Tensor:
        """alpha = softmax(f(c*)), u^ = tanh(f(alpha c*)), u = g1 u + g2 u^ with both gates of
        [alpha c*; u]."""
        attended_NW = self.attention(window_NW).softmax(-1) * window_NW
        both = torch.cat([attended_NW, memory_NM], 1)
        proposed_NM = torch.tanh(self.proposal(attended_NW))
        return self.keep(both).sigmoid() * memory_NM + self.take(both).sigmoid() * proposed_NM


def network(width: int, hidden: int, out: int, dropout: float) -> nn.Sequential:
    """W2 drop(relu(W1 x))."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, out)
    )


def into_steps(
    values_NFC: torch.Tensor, real_N: torch.Tensor, length_N: torch.Tensor, num_steps: int
) -> torch.Tensor:
    """[N, T, C]: the first `real_N` rows of a clip in `length_N` equal parts, each the mean of the
    rows that it touches; zeros beyond, and for a clip without rows."""
    step_NT = torch.arange(num_steps, device=real_N.device).expand(len(real_N), -1)
    parts_N1 = length_N.clamp(min=1)[:, None]
    first_NT = step_NT * real_N[:, None] // parts_N1
    end_NT = ((step_NT + 1) * real_N[:, None] + parts_N1 - 1) // parts_N1  # rounded up
    row_F = torch.arange(values_NFC.shape[1], device=real_N.device)
    taken_NTF = (row_F >= first_NT[..., None]) & (row_F < end_NT[..., None])
    taken_NTF = taken_NTF & (step_NT < length_N[:, None])[..., None]
    weight_NTF = taken_NTF.to(values_NFC.dtype)
    return weight_NTF @ values_NFC / weight_NTF.sum(-1, keepdim=True).clamp(min=1)


def multiplicative_loss(
    log_p_NS: torch.Tensor, has_NS: torch.Tensor, *, form: str, beta: float, floor: float = 0.0
) -> torch.Tensor:
    """[N], of each stream's log probability of the truth, over the M streams that a clip has:

        modified (M3ER, equation 3)   - sum_i  p_i^(beta / (M-1))                  log p_i
        original (Liu et al., 2018)   - sum_i  prod_(j != i) (1 - p_j)^(beta / (M-1))  log p_i

    A single stream has its plain cross-entropy. floor: least weight of each term.
    """
    others_N1 = (has_NS.sum(1, keepdim=True) - 1).to(log_p_NS.dtype)
    power_N1 = torch.where(others_N1 > 0, beta / others_N1.clamp(min=1), 0.0)
    if form == "modified":
        log_weight_NS = log_p_NS
    else:
        wrong_NS = torch.log1p(-log_p_NS.exp().clamp(max=NEARLY_ONE)).masked_fill(~has_NS, 0.0)
        log_weight_NS = wrong_NS.sum(1, keepdim=True) - wrong_NS
    weight_NS = floor + (1 - floor) * (power_N1 * log_weight_NS).exp()
    return -(weight_NS * log_p_NS).masked_fill(~has_NS, 0.0).sum(1)
