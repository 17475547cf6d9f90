"""What differs between nodes, and what a training would refuse: from facts alone."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

from data_pipeline.doctor import Finding
from data_pipeline.errors import UserError
from pretrain.config import PretrainConfig
from pretrain.data.loader import check_ranks
from pretrain.doctor.facts import Facts

MUST_AGREE = ("torch", "NCCL")
"""Libraries whose ranks do not understand each other across versions."""
MAX_CLOCK_SECONDS = 2.0
"""Between the clocks of two nodes: times of files are compared."""
MAX_NAMES = 4
"""So many nodes are named."""


def check_launcher(facts: list[Facts], device: str) -> Iterator[Finding]:
    """How the ranks were started, and whether each has a GPU of its own, and each GPU a rank."""
    yield from _errors(facts, "gpu")
    found = True
    for host, of_host in by(facts, lambda fact: fact.host).items():
        local, gpus = [fact.local_rank for fact in of_host], max(f.num_gpus for f in of_host)
        twice = [rank for rank, count in Counter(local).items() if count > 1]
        if twice:
            what = f"{host}: local rank {twice[0]} is there {local.count(twice[0])} times"
            yield _error(what, "each process of a node needs a LOCAL_RANK of its own, from 0")
        elif gpus and max(local) >= gpus and not _each_its_own(of_host):
            yield _error(
                f"{host}: {len(local)} ranks (local ranks up to {max(local)}), of which each sees "
                f"{gpus} GPU{'s' * (gpus > 1)}",
                "start one rank a GPU; in a Slurm job give all GPUs to the node (--gpus-per-node), "
                "or one to each task (--gpus-per-task=1)",
            )
        elif gpus > len(local):
            what = f"{host}: {gpus} GPUs for {len(local)} rank{'s' * (len(local) > 1)}"
            yield _warning(what, "the others are idle: start one rank a GPU")
        elif not gpus and device == "cuda":
            yield _error(f"{host}: torch sees no GPU, run.device=cuda", "ask the job for GPUs")
        else:
            continue
        found = False
    sides = by(facts, lambda fact: "GPUs" if fact.num_gpus else "the CPU")
    if len(sides) > 1:
        yield _error(f"ranks on {_sides(sides)}", "ask for GPUs on every node, or run.device=cpu")
    elif found:
        launchers = ", ".join(by(facts, lambda fact: fact.launcher))
        yield _ok(
            f"{len(facts)} rank{'s' * (len(facts) > 1)} on {next(iter(sides))}, started by "
            f"{launchers}"
        )


def _each_its_own(of_host: list[Facts]) -> bool:
    """Whether srun shows each rank one GPU; that they differ is for the start to see."""
    return all(fact.num_gpus == 1 and fact.launcher.startswith("srun") for fact in of_host)


def check_versions(facts: list[Facts]) -> Iterator[Finding]:
    """Libraries, drivers, GPUs and code of the nodes."""
    same = []
    for name in dict.fromkeys(name for fact in facts for name in fact.versions):
        sides = by(facts, lambda fact, name=name: fact.versions.get(name, "none"))
        if len(sides) == 1:
            same.append(f"{name} {next(iter(sides))}")
            continue
        level = _error if name in MUST_AGREE else _warning
        yield level(f"{name} is {_sides(sides)}", "install one environment on all nodes")
    if same:
        yield _ok(f"the same on all nodes: {', '.join(same)}")
    sides = by(facts, lambda fact: fact.commit)
    if len(sides) > 1:
        yield _error(f"the code is at {_sides(sides)}", "ranks of two codes wait for each other")
    else:
        yield _ok(f"code at commit {facts[0].commit}")
    sides = by([fact for fact in facts if fact.gpu], lambda fact: fact.gpu)
    if len(sides) > 1:
        yield _warning(f"GPUs are {_sides(sides)}", "all wait for the slowest in every step")


def check_clocks(seconds: list[float], hosts: list[str]) -> Finding:
    """seconds: since 1970, of each rank, taken at one moment."""
    spread = max(seconds) - min(seconds)
    if spread > MAX_CLOCK_SECONDS:
        ahead, behind = (hosts[seconds.index(pick(seconds))] for pick in (max, min))
        what = f"the clock of {ahead} is {spread:.1f} s ahead of that of {behind}"
        return _warning(what, "times of files are compared: set the clocks by chrony or ntp")
    return _ok(f"clocks are within {spread:.2f} s")


def check_data(facts: list[Facts], config: PretrainConfig, world_size: int) -> Iterator[Finding]:
    """Shards, the tars that were read, passport, model, and how clips fit the ranks."""
    yield from _errors(facts, "shards")
    seen = [fact for fact in facts if fact.shards is not None]
    for folder in dict.fromkeys(folder for fact in seen for folder in fact.shards):
        sides = by(seen, lambda fact, folder=folder: "{} shards ({})".format(*fact.shards[folder]))
        if len(sides) > 1:
            fix = "copy the folder again, or give one that all nodes share"
            yield _error(f"{folder} holds {_sides(sides)}", fix)
        else:
            yield _ok(f"{folder} holds {next(iter(sides))}" + on_all(seen, facts))
    yield from _errors(facts, "tar")
    read = [fact.tar for fact in facts if fact.tar is not None]
    if read:
        names = {path for path, _, _ in read}
        slowest = min(num_bytes / seconds for _, num_bytes, seconds in read)
        yield _ok(
            f"{len(read)} of {len(facts)} ranks read a shard drawn at random "
            f"({', '.join(sorted(names)[:MAX_NAMES])}), whole and as its manifest says, at "
            f"{slowest / 1e6:.0f} MB/s or more"
        )
    yield from _same(facts, "passport", "passport of the streams {}")
    yield from _same(facts, "weights", "the tokenizer is there, the model has {:,} weights")
    yield from _errors(facts, "clips")
    if facts[0].clips is not None:
        yield _fit(facts[0].clips, config, world_size)


def _same(facts: list[Facts], name: str, told: str) -> Iterator[Finding]:
    """Whether all nodes found the same value of the field `name`, which `told` has a place for."""
    yield from _errors(facts, name)
    having = [fact for fact in facts if getattr(fact, name) is not None]
    sides = by(having, lambda fact: told.format(getattr(fact, name)))
    if len(sides) > 1:
        yield _error(_sides(sides), "copy shards, BERT and code to all nodes")
    elif sides:
        yield _ok(next(iter(sides)) + on_all(having, facts))


def check_output(facts: list[Facts]) -> Iterator[Finding]:
    """Path and holder of the output, and the newest checkpoint in it."""
    yield from _errors(facts, "output_free")
    yield from _errors(facts, "output")
    sides = by(facts, lambda fact: fact.output)
    if len(sides) > 1:
        yield _error(f"run.output is {_sides(sides)}", "start all ranks in one folder")
    holders = by([fact for fact in facts if fact.holder], lambda fact: fact.holder)
    for holder, who in holders.items():
        what = f"another run ({holder}) is writing to {who[0].output}, as {_hosts(who)} sees"
        yield _error(what, "stop it, or use another run.output")
    yield from _errors(facts, "checkpoint")
    seen = [fact for fact in facts if fact.checkpoint is not None]
    sides = by(seen, lambda fact: " ".join(fact.checkpoint[:2]).strip() or "no checkpoint yet")
    if len(sides) > 1:
        yield _error(f"the newest checkpoint is {_sides(sides)}", "run.output must be one folder")
    elif seen:
        yield _checkpoint(*seen[0].checkpoint[:2], changes=seen[0].checkpoint[3])


def _checkpoint(name: str, digest: str, *, changes: list[str]) -> Finding:
    if not name:
        return _ok("no checkpoint in run.output: the run starts anew")
    told = f"; changed since: {', '.join(changes)}" if changes else ""
    if not digest:
        return _warning(f"{name} has no digests.json: its files are not compared{told}")
    return _ok(f"the run goes on from {name}, which is whole and of this passport and model{told}")


def _fit(clips: list[Any], config: PretrainConfig, world_size: int) -> Finding:
    num_shards, num_clips = clips
    data = config.data
    try:
        check_ranks(num_shards, num_clips, data.num_lanes, world_size, data.batch_clips)
    except UserError as error:
        return _error(str(error))
    return _ok(
        f"{num_clips} clips to train on in {num_shards} shards, {data.num_lanes} lanes, "
        f"{world_size} rank{'s' * (world_size > 1)}: they fit"
    )


def by(facts: Iterable[Facts], key: Callable[[Facts], Hashable]) -> dict[Any, list[Facts]]:
    """Value to the facts that have it, in the order of ranks."""
    sides: dict[Any, list[Facts]] = {}
    for fact in facts:
        sides.setdefault(key(fact), []).append(fact)
    return sides


def on_all(having: list[Facts], facts: list[Facts]) -> str:
    hosts = dict.fromkeys(fact.host for fact in facts)
    if len({fact.host for fact in having}) < len(hosts):
        return f" on {_hosts(having)}"
    return " on all nodes" if len(hosts) > 1 else ""


def _errors(facts: list[Facts], name: str) -> Iterator[Finding]:
    """What went wrong in one look, once for all nodes that tell it in the same words."""
    failed = [fact for fact in facts if name in fact.errors]
    for words, who in by(failed, lambda fact: fact.errors[name]).items():
        yield _error(f"{_hosts(who)}: {words}")


def _sides(sides: dict[Any, list[Facts]]) -> str:
    """`2.8 on n1, n2; 2.7 on n3`"""
    return "; ".join(f"{value} on {_hosts(who)}" for value, who in sides.items())


def _hosts(facts: list[Facts]) -> str:
    hosts = list(dict.fromkeys(fact.host for fact in facts))
    more = f" and {len(hosts) - MAX_NAMES} more" if len(hosts) > MAX_NAMES else ""
    return ", ".join(hosts[:MAX_NAMES]) + more


def _ok(what: str) -> Finding:
    return Finding(level="ok", what=what)


def _warning(what: str, fix: str = "") -> Finding:
    return Finding(level="warning", what=what, fix=fix)


def _error(what: str, fix: str = "") -> Finding:
    return Finding(level="error", what=what, fix=fix)
