"""The clips of a split as they are read, and what a classifier says of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from finetune.training.classifier import Classifier
from pretrain.data.example import Example
from pretrain.model.batch import Batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """One split as it is read. `cases_KN` holds K modality cases of the same N clips."""

    cases_KN: list[list[Example]]
    label_N: np.ndarray
    """int64."""

    def __len__(self) -> int:
        return len(self.label_N)


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Of N clips, in their order."""

    scores_NC: np.ndarray
    """Logits."""
    prediction_N: np.ndarray
    """Class, or C for none of them."""
    loss: float
    """Mean cross-entropy."""


@torch.no_grad()
def predict(
    model: Classifier,
    clips: Examples,
    collate: Callable[[Sequence[Example]], Batch],
    batch_size: int,
    accelerator: Accelerator,
    case: int = 0,
) -> Predictions:
    """Judge `clips` in one modality case, the full one by default; every process gets the same,
    whole answer."""
    model.eval()
    plain = accelerator.unwrap_model(model)
    mine = np.arange(len(clips))[accelerator.process_index :: accelerator.num_processes]
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray, float]] = []
    for start in range(0, len(mine), batch_size):
        index_M = mine[start : start + batch_size]
        batch, label_M = _load(
            clips.cases_KN[case], clips.label_N, index_M, collate, accelerator.device
        )
        with accelerator.autocast():
            said = plain(batch, label_M)
        found.append(
            (
                index_M,
                said.scores_NC.float().cpu().numpy(),
                said.prediction_N.cpu().numpy(),
                float(sum(said.losses.values())),
            )
        )
    if accelerator.num_processes > 1:
        found = gather_object(found)
    order_N = np.argsort(np.concatenate([part[0] for part in found]))
    return Predictions(
        scores_NC=np.concatenate([part[1] for part in found])[order_N],
        prediction_N=np.concatenate([part[2] for part in found])[order_N],
        loss=sum(part[3] for part in found) / len(clips),
    )


def _load(
    examples_N: list[Example],
    label_N: np.ndarray,
    index_M: np.ndarray,
    collate: Callable[[Sequence[Example]], Batch],
    device: torch.device,
) -> tuple[Batch, torch.Tensor]:
    batch = collate([examples_N[i] for i in index_M]).to(device, non_blocking=True)
    return batch, torch.from_numpy(label_N[index_M]).to(device, non_blocking=True)
