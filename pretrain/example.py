"""From a ClipSample to what the model reads: words to pieces, limits, masks, padding.

    sample --make_example--> Example (one clip, numpy) --collate--> Batch (padded, torch)

Shapes: N clips, T word pieces with [CLS] and [SEP], F face frames, S speech states, C and D their
feature widths, E expressions, M target positions of a task in the whole batch.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from data_pipeline.schema import ClipSample
from pretrain.masking import (
    IGNORED,
    TASK_MODALITY,
    TASKS,
    ClipDropped,
    MaskingSettings,
    mask_spans,
    mask_words,
)
from pretrain.model.embeddings import FACE_HZ, SPEECH_HZ


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much of a clip is read. None reads the whole utterance; 0 leaves the modality out."""

    max_pieces: int | None = 30
    """Word pieces without [CLS] and [SEP]; a longer utterance is dropped, never cut."""
    max_faces: int | None = 36
    """The first so many face frames, 3.6 s."""
    max_speech: int | None = 64
    """The first so many speech states, 3.8 s."""
    max_text_positions: int = 512
    """Rows of the model's position table for text; a clip that needs more is dropped."""
    max_frame_positions: int = 512
    """Rows of the model's position tables for frames; a clip that needs more is dropped."""
    positions: str = "index"
    """As the model's: by "seconds" the time of a face decides whether it fits, not its index."""


WHOLE_TEXT = Limits(max_pieces=None)
"""Faces and speech as the paper's pretraining reads them, and text as long as the model's table."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One clip, cut to the limits and corrupted for its task. An absent modality is None."""

    id: str
    task: str | None
    """None: nothing is corrupted, nothing is asked (finetuning)."""
    ids_T: np.ndarray
    """int64, [CLS] words [SEP]; [CLS] alone when the clip has no text."""
    wwmlm_labels_T: np.ndarray
    """int64, the piece that was there at targets, -100 elsewhere."""
    face_F342: np.ndarray | None = None
    """float16, zeros at masked frames."""
    face_probs_F8: np.ndarray | None = None
    face_seconds_F: np.ndarray | None = None
    face_masked_F: np.ndarray | None = None
    """bool, where the model adds its mask vector."""
    face_target_F: np.ndarray | None = None
    """bool, where the task asks for the original."""
    face_original_F342: np.ndarray | None = None
    speech_SD: np.ndarray | None = None
    speech_seconds_S: np.ndarray | None = None
    speech_masked_S: np.ndarray | None = None
    speech_target_S: np.ndarray | None = None
    speech_original_SD: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """What one task asks of a batch."""

    index_M: torch.Tensor
    """int64, flat positions into the padded [N, T], [N, F] or [N, S] of the task's modality."""
    values: torch.Tensor
    """pieces [M] int64; features [M, C] or [M, D]; posteriors [M, E]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """N clips, padded. A modality that no clip has is None. Masks are True at real positions."""

    ids: list[str]
    text_ids_NT: torch.Tensor
    text_mask_NT: torch.Tensor
    face_NFC: torch.Tensor | None = None
    face_mask_NF: torch.Tensor | None = None
    face_masked_NF: torch.Tensor | None = None
    face_seconds_NF: torch.Tensor | None = None
    speech_NSD: torch.Tensor | None = None
    speech_mask_NS: torch.Tensor | None = None
    speech_masked_NS: torch.Tensor | None = None
    speech_seconds_NS: torch.Tensor | None = None
    targets: dict[str, Targets] = field(default_factory=dict)
    """Task to targets, for the tasks that some clip of the batch carries."""
    counts: dict[str, int] = field(default_factory=dict)
    """Task to the count its objective will return: pieces, frames x C, frames x 8, frames x D."""
    num_tokens: int = 0
    """Real positions of all clips, padding left out."""
    face_last_seconds: float = 0.0
    """Latest face frame of the batch, known without asking the device."""
    speech_last_seconds: float = 0.0

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        return self._map(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """Where a GPU can fetch it while it computes."""
        return self._map(lambda x: x.pin_memory())

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        changed = {
            f.name: change(value)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), torch.Tensor)
        }
        targets = {
            task: Targets(index_M=change(t.index_M), values=change(t.values))
            for task, t in self.targets.items()
        }
        return dataclasses.replace(self, targets=targets, **changed)


def available_tasks(sample: ClipSample, limits: Limits | None = None) -> set[str]:
    """The tasks whose modality the clip has, and the limits (None: no limits) do not leave out."""
    has = {
        "text": bool(sample.words) and (limits is None or limits.max_pieces != 0),
        "face": sample.face is not None and (limits is None or limits.max_faces != 0),
        "speech": sample.speech is not None and (limits is None or limits.max_speech != 0),
    }
    return {task for task in TASKS if has[TASK_MODALITY[task]]}


def make_example(
    sample: ClipSample,
    tokenizer: PreTrainedTokenizerBase,
    limits: Limits = WHOLE_TEXT,
    task: str | None = None,
    masking: MaskingSettings | None = None,
    rng: np.random.Generator | None = None,
) -> Example:
    """Cut a clip to the limits and corrupt the one modality that `task` is about.

    `tokenizer` is a fast one (words are traced to their pieces). Task None corrupts nothing, and
    asks for neither `masking` (None: the paper's) nor `rng` (None: the generator of seed 0).

    Raises:
        ClipDropped: the text is too long, a frame lies beyond the position table, or the clip
            lacks what the task is about; `reason` says which.
        ValueError: no such task.
    """
    masking = MaskingSettings() if masking is None else masking
    rng = np.random.default_rng(0) if rng is None else rng
    if task is not None and task not in TASKS:
        raise ValueError(f"no task {task!r}; the tasks are {TASKS}")
    if task is not None and task not in available_tasks(sample, limits):
        modality = TASK_MODALITY[task]
        raise ClipDropped(f"no_{modality}", f"{sample.id} has no {modality}, {task} needs it")

    ids_T, word_T = _pieces(sample, tokenizer, limits)
    labels_T = np.full(len(ids_T), IGNORED, dtype=np.int64)
    if task == "wwmlm":
        ids_T, labels_T = mask_words(
            ids_T,
            word_T,
            masking,
            tokenizer.mask_token_id,
            ordinary_pieces(tokenizer),
            rng,
        )
    arrays: dict[str, np.ndarray] = {}
    if sample.face is not None and limits.max_faces != 0:
        keep = slice(limits.max_faces)
        seconds_F = sample.face_seconds[keep]
        _check_reach(sample.id, "face", seconds_F, FACE_HZ, limits)
        ratio = masking.face_ratio if task in ("span_mvfr", "span_mvfc_kl") else None
        arrays["face_original_F342"] = sample.face[keep]
        arrays["face_probs_F8"] = sample.face_probs[keep]
        arrays["face_seconds_F"] = seconds_F
        (arrays["face_F342"], arrays["face_masked_F"], arrays["face_target_F"]) = _corrupt(
            sample.face[keep], ratio, masking, rng
        )
    if sample.speech is not None and limits.max_speech != 0:
        speech_SD = sample.speech[: limits.max_speech]
        seconds_S = (np.arange(len(speech_SD)) / SPEECH_HZ).astype(np.float32)
        _check_reach(sample.id, "speech", seconds_S, SPEECH_HZ, limits)
        ratio = masking.speech_ratio if task == "span_mafr" else None
        arrays["speech_original_SD"] = speech_SD
        arrays["speech_seconds_S"] = seconds_S
        (arrays["speech_SD"], arrays["speech_masked_S"], arrays["speech_target_S"]) = _corrupt(
            speech_SD, ratio, masking, rng
        )
    return Example(id=sample.id, task=task, ids_T=ids_T, wwmlm_labels_T=labels_T, **arrays)


def collate(examples: Sequence[Example], pad_id: int = 0) -> Batch:
    """Pad the clips to the longest of each modality, and list the targets of each task.

    pad_id: the tokenizer's; 0 is BERT's.
    """
    if not examples:
        raise ValueError("a batch of no clips; expected one or more examples")
    text_ids_NT, text_mask_NT = _pad([e.ids_T for e in examples], pad_id)
    fields: dict[str, torch.Tensor] = {"text_ids_NT": text_ids_NT, "text_mask_NT": text_mask_NT}
    num_tokens = int(text_mask_NT.sum())
    last_seconds = {"face": 0.0, "speech": 0.0}
    names = {
        "face": ("face_NFC", "face_mask_NF", "face_masked_NF", "face_seconds_NF"),
        "speech": ("speech_NSD", "speech_mask_NS", "speech_masked_NS", "speech_seconds_NS"),
    }
    for modality, (feature, mask, masked, seconds) in names.items():
        if all(_frames(e, modality)[0] is None for e in examples):
            continue
        rows = list(zip(*(_frames(e, modality) for e in examples), strict=True))
        fields[feature], fields[mask] = _pad(rows[0], 0)
        fields[masked], _ = _pad(rows[1], False)
        fields[seconds], _ = _pad(rows[2], 0.0)
        num_tokens += int(fields[mask].sum())
        last_seconds[modality] = float(fields[seconds].max())

    targets = {}
    for task in TASKS:
        if any(e.task == task for e in examples):
            width = {"text": "text_ids_NT", "face": "face_NFC", "speech": "speech_NSD"}
            padded_length = fields[width[TASK_MODALITY[task]]].shape[1]
            targets[task] = _targets(task, examples, padded_length)
    return Batch(
        ids=[e.id for e in examples],
        targets=targets,
        counts={task: t.values.numel() for task, t in targets.items()},
        num_tokens=num_tokens,
        face_last_seconds=last_seconds["face"],
        speech_last_seconds=last_seconds["speech"],
        **fields,
    )


@lru_cache(maxsize=8)
def ordinary_pieces(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Ids that may stand in for another piece: all but the special and the [unused] ones."""
    special = set(tokenizer.all_special_ids)
    return np.array(
        sorted(
            i
            for piece, i in tokenizer.get_vocab().items()
            if i not in special and not piece.startswith("[unused")
        ),
        dtype=np.int64,
    )


def _pieces(
    sample: ClipSample, tokenizer: PreTrainedTokenizerBase, limits: Limits
) -> tuple[np.ndarray, np.ndarray]:
    """Ids with [CLS] and [SEP], and the word of each piece (-1: special)."""
    if not sample.words or limits.max_pieces == 0:
        return np.array([tokenizer.cls_token_id], dtype=np.int64), np.array([-1])
    encoding = tokenizer(
        sample.words, is_split_into_words=True, truncation=False, padding=False, verbose=False
    )
    ids = encoding["input_ids"]
    # A transcript may hold "[SEP]" itself; a prompt does hold "[MASK]".
    special = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id}
    words = zip(ids, encoding.word_ids(), strict=True)
    word_T = np.array([-1 if i in special or word is None else word for i, word in words])
    num_pieces = len(ids) - 2
    room = limits.max_text_positions - 2
    if limits.max_pieces is not None:
        room = min(room, limits.max_pieces)
    if num_pieces > room:
        raise ClipDropped(
            "text_too_long", f"{sample.id} has {num_pieces} word pieces, the limit is {room}"
        )
    return np.array(ids, dtype=np.int64), word_T


def _check_reach(clip: str, modality: str, seconds: np.ndarray, hz: float, limits: Limits) -> None:
    last = len(seconds) - 1
    if limits.positions == "seconds":
        last = int(np.floor(seconds[-1] * hz + 0.501))
    if last >= limits.max_frame_positions:
        raise ClipDropped(
            "beyond_positions",
            f"{clip} has a {modality} frame at position {last} ({seconds[-1]:.1f} s), the table "
            f"ends at {limits.max_frame_positions - 1}; set max_faces / max_speech, or raise "
            "max_frame_positions",
        )


def _corrupt(
    features: np.ndarray,
    ratio: float | None,
    masking: MaskingSettings,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, masked, target; untouched when `ratio` is None."""
    if ratio is None:
        nothing = np.zeros(len(features), dtype=bool)
        return features, nothing, nothing
    corrupted = mask_spans(features, ratio, masking, rng)
    return corrupted.features_FC, corrupted.masked_F, corrupted.target_F


def _frames(example: Example, modality: str) -> tuple[np.ndarray | None, ...]:
    """Features, masked and seconds of one modality."""
    if modality == "face":
        return example.face_F342, example.face_masked_F, example.face_seconds_F
    return example.speech_SD, example.speech_masked_S, example.speech_seconds_S


def _pad(rows: Sequence[np.ndarray | None], fill: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [n, ...] to [N, longest, ...] and the mask of what is real; None is no row at all."""
    present = [row for row in rows if row is not None]
    longest = max(len(row) for row in present)
    padded = np.full((len(rows), longest, *present[0].shape[1:]), fill, dtype=present[0].dtype)
    mask_NL = np.zeros((len(rows), longest), dtype=bool)
    for n, row in enumerate(rows):
        if row is not None:
            padded[n, : len(row)] = row
            mask_NL[n, : len(row)] = True
    return torch.from_numpy(padded), torch.from_numpy(mask_NL)


def _targets(task: str, examples: Sequence[Example], padded_length: int) -> Targets:
    """Positions and values of one task, over the clips that carry it."""
    index, values = [], []
    for n, e in enumerate(examples):
        if e.task != task:
            continue
        if task == "wwmlm":
            at, value = np.flatnonzero(e.wwmlm_labels_T != IGNORED), e.wwmlm_labels_T
        elif task == "span_mvfr":
            at, value = np.flatnonzero(e.face_target_F), e.face_original_F342
        elif task == "span_mvfc_kl":
            at, value = np.flatnonzero(e.face_target_F), e.face_probs_F8
        else:
            at, value = np.flatnonzero(e.speech_target_S), e.speech_original_SD
        index.append(n * padded_length + at)
        values.append(value[at])
    return Targets(
        index_M=torch.from_numpy(np.concatenate(index).astype(np.int64)),
        values=torch.from_numpy(np.concatenate(values)),
    )
