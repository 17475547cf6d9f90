"""Where the doctor's ranks meet: a store of names and JSON, at the address that training meets at.

It stands before there is a process group, so it also serves when gloo or NCCL are what is ill, and
when some ranks never come: the others go on with those that are there. Nothing is pickled.
"""

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from data_pipeline.errors import UserError
from pretrain.runtime import meeting_place

MEET_SECONDS = 120.0
"""How long ranks wait for one another at first; a job's processes start within seconds."""
WORK_SECONDS = 600.0
"""How long one waits for what another does: a checkpoint is read, a tar, a slow disk."""
POLL_SECONDS = 0.05
PREFIX = "memobert-doctor"


class MeetingError(UserError):
    """A rank that does not answer."""


class LeaderRefused(UserError):
    """What the leader was to do for all, and could not."""


class Meeting:
    """The ranks that came, and what they tell each other.

    store: of torch.distributed, one for all ranks.
    """

    def __init__(self, store: dist.Store, rank: int, world_size: int, missed: str = "") -> None:
        self.store = dist.PrefixStore(PREFIX, store)
        self.rank = rank
        self.world_size = world_size
        self.missed = missed
        """Why the other ranks were not reached; empty where they were."""
        self.present = [rank] if missed else list(range(world_size))
        """Ranks that came, in order; the first of them leads."""

    @property
    def leads(self) -> bool:
        return self.rank == self.present[0]

    @property
    def absent(self) -> list[int]:
        """Ranks that never came."""
        return sorted(set(range(self.world_size)) - set(self.present))

    def gather(self, name: str, mine: Any, seconds: float = WORK_SECONDS) -> list[Any]:
        """What every present rank gave under `name`, in their order; all of them call it.

        Raises MeetingError, which names the ranks that gave nothing within `seconds`.
        """
        self.post(f"{name}/{self.rank}", mine)
        silent = self._missing([f"{name}/{rank}" for rank in self.present], seconds)
        if silent:
            raise MeetingError(
                f"rank {', '.join(key.rpartition('/')[2] for key in silent)} gave no answer within "
                f"{seconds:g} s ({name}): its own messages, or the log of its node, say why"
            )
        return [self._read(f"{name}/{rank}") for rank in self.present]

    def from_leader(self, name: str, work: Callable[[], Any]) -> Any:
        """What `work()` gives on the leader, on every rank; it is of JSON.

        Raises LeaderRefused on all of them where the leader's disk refuses it, MeetingError where
        the leader does not answer.
        """
        if self.leads:
            try:
                told = {"gives": work()}
            except OSError as error:
                told = {"error": f"{error.strerror or error} ({error.filename})"}
            self.post(name, told)
        elif self._missing([name], WORK_SECONDS):
            raise MeetingError(f"rank {self.present[0]} gave no answer ({name})")
        told = self._read(name)
        if "error" in told:
            raise LeaderRefused(told["error"])
        return told["gives"]

    def is_told(self, name: str) -> bool:
        """Whether the leader has come to the end of its work `name`."""
        return self._ask(lambda: self.store.check([name]))

    def call_roll(self) -> None:
        """Wait for the others; the leader says who is there, and the others believe it."""
        if self.missed or self.world_size == 1:
            return
        self.post(f"here/{self.rank}", True)
        if self.leads:
            names = [f"here/{rank}" for rank in range(self.world_size)]
            absent = self._missing(names, MEET_SECONDS)
            came = [rank for rank, name in enumerate(names) if name not in absent]
            self.post("present", came)
        elif self._missing(["present"], 2 * MEET_SECONDS):  # it may have started later
            raise MeetingError("rank 0 does not say who came")
        self.present = self._read("present")
        if self.rank not in self.present:
            raise MeetingError(f"rank {self.rank} came after the {MEET_SECONDS:g} s of the meeting")

    def _missing(self, names: list[str], seconds: float) -> list[str]:
        """Those of `names` that are not there after so many seconds."""
        until = time.monotonic() + seconds
        while not self._ask(lambda: self.store.check(names)):
            if time.monotonic() > until:
                return [n for n in names if not self._ask(lambda n=n: self.store.check([n]))]
            time.sleep(POLL_SECONDS)  # not the store's own wait, in which no signal is heard
        return []

    def post(self, name: str, value: Any) -> None:
        """Give `value`, of JSON, to whoever asks for `name`."""
        self._ask(lambda: self.store.set(name, json.dumps(value)))

    def _read(self, name: str) -> Any:
        return json.loads(self._ask(lambda: self.store.get(name)))

    def _ask(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except RuntimeError as error:
            gone = f"rank {self.present[0]} has gone, and the meeting with it"
            raise MeetingError(gone) from error


def open_meeting(rank: int, world_size: int) -> Meeting:
    """The meeting of all ranks, or of this one alone, which then says why in `missed`."""
    if world_size == 1:
        return Meeting(dist.HashStore(), rank, world_size)
    try:
        meeting = Meeting(_join(rank), rank, world_size)
        meeting.call_roll()
        return meeting
    except (RuntimeError, MeetingError) as error:
        why = str(error).strip().partition("\n")[0]
        return Meeting(dist.HashStore(), rank, world_size, missed=why)


def _join(rank: int) -> dist.Store:
    # torchrun has a store there already; else rank 0 opens it, and its process group shares it.
    opens = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    return dist.TCPStore(
        *meeting_place(),
        is_master=opens,
        timeout=timedelta(seconds=MEET_SECONDS),
        wait_for_workers=False,
        multi_tenant=True,
    )
