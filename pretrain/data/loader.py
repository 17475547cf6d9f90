"""Shards -> the clips of every optimizer step: the same for any number of ranks, resumable.

An epoch has one global order: the shards permuted by (seed, epoch), the clips permuted inside each
shard. It is cut into `num_lanes` equal runs, and lane l reads run l from front to back; the fewer
than num_lanes clips left over are others every epoch. Lanes, not files, are dealt to the ranks
(lane % world_size), and a step takes batch_clips / num_lanes clips of every lane. So

- which clips meet in step t depends on (seed, t), never on the number of ranks;
- every rank has equally many clips in every step, whatever the shards hold, so none can hang;
- the whole state is an epoch and a position for each lane;
- a rank holds a few numbers a shard and no list of clips (`clip_index`, `order`).

A clip that cannot be used (too many word pieces, or without the stream of the step's objective) is
counted, by reason, and the next one of its lane takes its place.

Lanes are read in this process, or by `workers` beside it; what the Loader itself does is to cut a
step into batches.
"""

import atexit
import collections
import hashlib
import json
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from pretrain.data.clip_index import ClipIndex
from pretrain.data.collate import Example, collate_evenly
from pretrain.data.example import Limits
from pretrain.data.lanes import LaneReader, LaneStep, LoaderError
from pretrain.data.masking import MaskingSettings
from pretrain.data.order import ORDER
from pretrain.data.packing import Rows, length_of
from pretrain.data.workers import Workers
from pretrain.model.batch import AnyBatch


class _Closed(Exception):
    """Ends the thread, wherever it is in the making of a step."""


@dataclass(frozen=True, kw_only=True)
class StepData:
    """What one rank computes in one optimizer step."""

    batches: list[AnyBatch]
    """Micro-batches, on the CPU."""
    num_clips: int
    num_tokens: int
    """Word pieces, face frames and speech states, without padding."""
    num_positions: int
    """Those that are computed, padding too."""
    num_squares: int
    """The sum over the clips of their tokens squared, by which attention grows."""
    dropped: dict[str, int]
    """Reason to number of clips that were passed over."""

    def count(self, objective: str) -> int:
        """Of `objective` over the micro-batches; what its sum of losses is divided by."""
        return sum(batch.counts.get(objective, 0) for batch in self.batches)


class Loader:
    """The infinite stream of steps of one rank.

        with Loader(...) as loader:
            data = loader.next_step()

    Args:
        clips: those to train on, held-out ones taken away.
        tokenizer, limits, masking: what a clip becomes, see make_example.
        batch_clips, micro_batch_clips, num_lanes: as in DataSettings.
        weights: objective to its weight.
        mixing: "step" or "clip".
        seed: fixes order, objectives and masks.
        rows: how a step is cut into joined batches; None pads micro_batch_clips to one shape.
        rank, world_size: of this process.
        workers: processes that read the lanes, which `close` ends; 0 reads them here.
        prefetch_steps: prepared ahead by a thread, which `close` ends; the state is that of the
            step handed out last.
        pin_for: a GPU, for which the batches are put where it can fetch them while it computes.

    Raises LoaderError for numbers of lanes, ranks, clips or shards that do not fit together.
    """

    def __init__(
        self,
        clips: ClipIndex,
        *,
        tokenizer: PreTrainedTokenizerBase,
        limits: Limits,
        masking: MaskingSettings,
        batch_clips: int,
        micro_batch_clips: int,
        num_lanes: int,
        weights: dict[str, float],
        mixing: str,
        seed: int,
        rows: Rows | None = None,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        prefetch_steps: int = 0,
        pin_for: torch.device | None = None,
    ) -> None:
        self.num_clips = clips.num_clips
        check_ranks(len(clips), self.num_clips, num_lanes, world_size, batch_clips)
        self.clips = clips
        self.tokenizer = tokenizer
        self.clips_per_lane = batch_clips // num_lanes
        self.micro_batch_clips = micro_batch_clips
        self.rows = rows
        self.num_lanes = num_lanes
        self.seed = seed
        self.lanes = range(rank, num_lanes, world_size)
        self.readers = [
            LaneReader(
                clips,
                lanes,
                tokenizer=tokenizer,
                limits=limits,
                masking=masking,
                clips_per_lane=self.clips_per_lane,
                num_lanes=num_lanes,
                weights=weights,
                mixing=mixing,
                seed=seed,
            )
            for lanes in _dealt(self.lanes, workers)
        ]
        self._workers = Workers(self.readers) if workers else None
        self.prefetch_steps = prefetch_steps
        self.pin_for = pin_for
        self.step = 0
        self.places_L2 = np.zeros((num_lanes, 2), dtype=np.int64)  # epoch, position in the run
        self._handed_out: tuple[int, np.ndarray] = (0, self.places_L2.copy())
        self._steps: Iterator[StepData] | None = None
        self._room = threading.Semaphore(prefetch_steps)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End thread and workers and wait for them; no step can be had afterwards.

        The interpreter must not end before it: a thread that is then in native code (tokenizer,
        collation, pinning) is unwound through it, and the process aborts after its work is done.
        """
        self._closing.set()
        self._room.release()
        if self._workers is not None:
            self._workers.close()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        atexit.unregister(self.close)

    @property
    def run_length(self) -> int:
        """Clips of one lane in one epoch."""
        return self.num_clips // self.num_lanes

    def next_step(self) -> StepData:
        """This rank's share of the next step."""
        if self._closing.is_set():
            raise RuntimeError("next_step() of a loader that was closed")
        if self._steps is None:
            self._start()
            self._steps = self._prefetched() if self.prefetch_steps else self._stream()
        data, self._handed_out = next(self._steps)
        return data

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands after the step handed out last.

        Lanes of other ranks stand at -1: the elementwise maximum of all ranks' `places_L2` is
        the state of the run, and what `load_state_dict` wants.
        """
        step, places_L2 = self._handed_out
        mine = np.full_like(places_L2, -1)
        mine[self.lanes] = places_L2[self.lanes]
        return {"step": step, "places_L2": mine, "clips": self.fingerprint(), "order": ORDER}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after `state`, at any number of ranks. Call it before the first step."""
        if self._steps is not None:
            raise LoaderError("load_state_dict comes before the first step")
        if state.get("order", 1) != ORDER:
            raise LoaderError(
                f"this checkpoint was made by another version of the code, which dealt out the "
                f"clips in another order ({state.get('order', 1)}, this code has {ORDER}), so its "
                "place among them means nothing here; go on with the code of the commit that its "
                "provenance.json names, or start anew with another run.output"
            )
        if state["clips"] != self.fingerprint():
            raise LoaderError(
                "the training clips, run.seed, data.batch_clips or data.num_lanes are not those "
                "this checkpoint was made with; restore them, or start anew with another run.output"
            )
        self.step = int(state["step"])
        self.places_L2 = np.array(state["places_L2"], dtype=np.int64)
        if self.places_L2.shape != (self.num_lanes, 2) or (self.places_L2 < 0).any():
            raise LoaderError(f"bad loader state: {self.places_L2.tolist()}")
        self._handed_out = (self.step, self.places_L2.copy())

    def fingerprint(self) -> str:
        """Digest of all that fixes which clips meet in which step."""
        about = [ORDER, self.seed, self.num_lanes, self.clips_per_lane, len(self.clips)]
        digest = hashlib.sha256(json.dumps(about).encode())
        digest.update(self.clips.counts_S.astype("<i4"))
        digest.update(self.clips.digests_SD)
        return digest.hexdigest()

    def _start(self) -> None:
        """The readers, where the stream stands."""
        atexit.register(self.close)  # for a user of this class who does not
        for reader in self.readers:
            reader.start_at(self.step, self.places_L2)
        if self._workers is not None:
            self._workers.start()

    def _stream(self) -> Iterator[tuple[StepData, tuple[int, np.ndarray]]]:
        while True:
            parts = self._read()
            examples = self._in_order(parts)
            batches = self._cut(examples)
            if self.pin_for is not None:
                batches = [batch.pin_memory() for batch in batches]
            self.step += 1
            dropped: collections.Counter[str] = collections.Counter()
            for part in parts:
                dropped.update(part.dropped)
                for lane, place in part.places.items():
                    self.places_L2[lane] = place
            data = StepData(
                batches=batches,
                num_clips=len(examples),
                num_tokens=sum(batch.num_tokens for batch in batches),
                num_positions=sum(batch.num_positions for batch in batches),
                num_squares=sum(length_of(example) ** 2 for example in examples),
                dropped=dict(dropped),
            )
            yield data, (self.step, self.places_L2.copy())

    def _read(self) -> list[LaneStep]:
        """What all readers give to the next step."""
        self._check_open()  # workers that were ended may have told steps before
        if self._workers is None:
            return [reader.read_step(self._check_open) for reader in self.readers]
        try:
            return self._workers.read_step()
        except LoaderError:
            self._check_open()  # closed: that is why they ended
            raise

    def _in_order(self, parts: list[LaneStep]) -> list[Example]:
        """Lane after lane, whoever read it."""
        of_lane: dict[int, list[Example]] = {}
        for reader, part in zip(self.readers, parts, strict=True):
            for number, lane in enumerate(reader.lanes):
                first = number * self.clips_per_lane
                of_lane[lane] = part.examples[first : first + self.clips_per_lane]
        return [example for lane in self.lanes for example in of_lane[lane]]

    def _cut(self, examples: list[Example]) -> list[AnyBatch]:
        """Micro-batches; sums and counts make any cut exact."""
        if self.rows is not None:
            return self.rows(examples)
        return collate_evenly(examples, self.micro_batch_clips, self.tokenizer.pad_token_id)

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise _Closed

    def _prefetched(self) -> Iterator[tuple[StepData, tuple[int, np.ndarray]]]:
        """`_stream`, computed ahead in a thread. What it raises is raised here."""
        ready: queue.Queue[Any] = queue.Queue()

        def fill() -> None:
            try:
                if (
                    self.pin_for is not None
                ):  # a thread begins at GPU 0, and would take memory there
                    torch.cuda.set_device(self.pin_for)
                for item in self._stream():
                    ready.put(item)
                    self._room.acquire()
            except _Closed:
                return
            except BaseException as error:
                ready.put(error)

        self._thread = threading.Thread(target=fill, name="loader", daemon=True)
        self._thread.start()
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            self._room.release()
            yield item


def _dealt(lanes: Sequence[int], workers: int) -> list[Sequence[int]]:
    """The lanes of each reader; more workers than lanes would have nothing to read."""
    count = min(max(workers, 1), len(lanes))
    return [lanes[n::count] for n in range(count)]


def check_ranks(
    num_shards: int, num_clips: int, num_lanes: int, world_size: int, batch_clips: int
) -> None:
    """Raise LoaderError for numbers that do not fit together."""
    if world_size > num_shards:
        raise LoaderError(
            f"{num_shards} shards for {world_size} ranks; extract again with fewer clips a shard "
            f"(clips_per_shard={max(1, num_clips // world_size)} or less), or start at most "
            f"{num_shards} ranks"
        )
    if num_lanes % world_size:
        raise LoaderError(
            f"data.num_lanes={num_lanes} is no multiple of the {world_size} ranks; set it to "
            f"{_lanes_for(world_size, batch_clips)}"
        )
    if num_clips < num_lanes:
        raise LoaderError(
            f"{num_clips} training clips for data.num_lanes={num_lanes}; set it to at most "
            f"{num_clips}, or bring more clips"
        )


def _lanes_for(world_size: int, batch_clips: int) -> str:
    fits = [n for n in range(world_size, batch_clips + 1, world_size) if batch_clips % n == 0]
    if not fits:
        return f"a multiple, with data.batch_clips a multiple of {world_size} as well"
    return " or ".join(map(str, fits[:4])) + f" (they divide data.batch_clips={batch_clips})"
