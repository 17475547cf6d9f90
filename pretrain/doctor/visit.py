"""One visit: the ranks meet, look, try network and disk, and the leader prints the page."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.doctor import Finding
from pretrain.config import PretrainConfig
from pretrain.doctor.disk import check_disk, check_room, probe
from pretrain.doctor.facts import Facts, checkpoint_bytes, look, to_json
from pretrain.doctor.findings import (
    check_clocks,
    check_data,
    check_launcher,
    check_output,
    check_versions,
)
from pretrain.doctor.group import check_sums, sum_over_ranks
from pretrain.doctor.meeting import LeaderRefused, Meeting, MeetingError, open_meeting
from pretrain.doctor.page import page
from pretrain.runtime import find_ranks, meeting_place

LEAVE_SECONDS = 10.0
"""The leader waits so long for the others, at the end."""


def visit(config: PretrainConfig, launcher: str) -> bool:
    """Whether an error was found, the same on every rank that came; one of them prints the page.

    Where rank 0 is not reached, the first rank of each node prints what it found there.
    """
    rank, local_rank, world_size = find_ranks()
    meeting = open_meeting(rank, world_size)
    host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    mine = look(config, rank=rank, local_rank=local_rank, host=host, launcher=launcher)
    facts, findings = [mine], []
    try:
        facts = [Facts(**found) for found in meeting.gather("facts", to_json(mine))]
        findings.append(check_meeting(meeting, [fact.host for fact in facts]))
        for finding in examine(config, meeting, facts, mine):
            findings.append(finding)
    except MeetingError as error:
        findings.append(Finding(level="error", what=str(error)))
    failed = any(finding.level == "error" for finding in findings)
    if meeting.leads and (local_rank == 0 or not meeting.missed):
        print(page(facts, findings, world_size), flush=True)
    return _agree(meeting, failed)


def examine(
    config: PretrainConfig, meeting: Meeting, facts: list[Facts], mine: Facts
) -> Iterator[Finding]:
    """All findings, from what all ranks found; every rank goes through all of it, in step.

    Raises MeetingError where a rank falls silent.
    """
    hosts = [fact.host for fact in facts]
    launched = list(check_launcher(facts, config.run.device))
    yield from launched
    yield from check_versions(facts)
    meeting.gather("ready", True)
    clocks = meeting.gather("clock", time.time())
    if len(set(hosts)) > 1:
        yield check_clocks(clocks, hosts)
    # Where some have no GPU, or never came, the others would wait for them in vain.
    if not meeting.absent and not any(finding.level == "error" for finding in launched):
        sums, runtime = sum_over_ranks(config.run)
        found = list(check_sums(meeting.gather("sums", sums), hosts))
        yield from found
        if runtime is not None and not any(finding.level == "error" for finding in found):
            runtime.finish()
    yield from check_data(facts, config, meeting.world_size)
    yield from check_output(facts)
    try:
        seen = probe(meeting, mine.host, Path(facts[0].output))
    except LeaderRefused as error:
        what = f"cannot write beside run.output={facts[0].output}: {error}"
        yield Finding(level="error", what=what, fix="a folder that can be written, with room left")
        return
    yield from check_disk(seen, facts[0].output)
    yield from _room(config, facts[0])


def check_meeting(meeting: Meeting, hosts: list[str]) -> Finding:
    """Whether all ranks came; hosts: of those that did."""
    if meeting.world_size == 1:
        what = "one rank: nothing is compared between nodes"
        fix = "start it as the training will be (srun, torchrun, deepspeed --module)"
        return Finding(level="ok", what=what, fix=fix)
    address, port = meeting_place()
    place = f"rank 0 at {address}:{port}"
    if meeting.missed:
        return Finding(
            level="error",
            what=f"rank {meeting.rank} on {hosts[0]} did not reach the others, {place}: "
            f"{meeting.missed.rstrip('.')}; this page has {hosts[0]} alone",
            fix="is rank 0 running, its port free (MASTER_PORT) and open between the nodes?",
        )
    if meeting.absent:
        nodes = os.environ.get("SLURM_STEP_NODELIST")
        of = f", of the nodes {nodes} those of {', '.join(dict.fromkeys(hosts))}" if nodes else ""
        return Finding(
            level="error",
            what=f"rank {', '.join(map(str, meeting.absent))} of {meeting.world_size} did not come "
            f"to {place}; the others did{of}",
            fix="look at the log of their nodes; can they reach that port?",
        )
    return Finding(level="ok", what=f"{meeting.world_size} ranks met, {place}")


def _room(config: PretrainConfig, leader: Facts) -> Iterator[Finding]:
    """Of the checkpoint that is there, or of the model's size."""
    size = leader.checkpoint[2] if leader.checkpoint is not None else 0
    if not size and leader.weights is not None:
        size = checkpoint_bytes(leader.weights)
    if size and leader.output_free is not None:
        there = len(list(Path(leader.output, "checkpoints").glob("step-*")))
        keep = config.run.keep_checkpoints
        yield check_room(leader.output_free, size, keep, there, leader.output)


def _agree(meeting: Meeting, failed: bool) -> bool:
    """The leader's word on it, once all have come to their end; it holds the meeting until they
    have heard. From here on nobody hears TERM: srun sends it to all at the first bad end, and it
    would give the others another exit code than 2."""
    if meeting.world_size > 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if meeting.missed:
        return True
    try:
        _all_say(meeting, "ended")
        failed = meeting.from_leader("failed", lambda: failed)
        _all_say(meeting, "heard")
    except MeetingError:
        return True
    return failed


def _all_say(meeting: Meeting, name: str) -> None:
    """Give `name`; the leader waits a while for all of them."""
    if not meeting.leads:
        meeting.post(f"{name}/{meeting.rank}", True)
        return
    with contextlib.suppress(MeetingError):  # one has gone before: the page says so
        meeting.gather(name, True, LEAVE_SECONDS)
