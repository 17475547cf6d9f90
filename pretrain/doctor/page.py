"""The page: a table of the nodes, then the findings."""

from collections import Counter

from data_pipeline.doctor import Finding
from data_pipeline.markdown import markdown_table
from pretrain.doctor.facts import Facts
from pretrain.doctor.findings import by

HEADER = ("node", "ranks", "GPUs", "cores", "memory", "free: output", "free: shards")


def page(facts: list[Facts], findings: list[Finding], world_size: int) -> str:
    """All of it, without a newline at its end."""
    hosts = by(facts, lambda fact: fact.host)
    versions = list(dict.fromkeys(name for fact in facts for name in fact.versions))
    rows = [_row(host, who, versions) for host, who in hosts.items()]
    titles = [*HEADER, *versions, "code"]
    widths = [max(len(row[n]) for row in [titles, *rows]) for n in range(len(titles))]
    titles, *rows = (
        [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        for row in [titles, *rows]
    )
    nodes = f"{len(facts)} of {world_size} ranks on {len(hosts)} node{'s' * (len(hosts) > 1)}"
    head = f"doctor of a pretraining: {nodes}, run.output {facts[0].output}"
    lines = [head, "", markdown_table(titles, rows), "", *map(str, findings), "", end(findings)]
    return "\n".join(lines)


def end(findings: list[Finding]) -> str:
    """The last line: whether to queue the job. A job's script takes it for the reason it failed."""
    count = Counter(finding.level for finding in findings)
    errors, warnings = count["error"], count["warning"]
    told = f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    if not errors:
        return f"doctor: {told}; the run can start"
    first = next(finding for finding in findings if finding.level == "error")
    return f"doctor: {told}; mend the errors first: {first.what}"


def _row(host: str, who: list[Facts], versions: list[str]) -> list[str]:
    first = who[0]
    gpus = max(fact.num_gpus for fact in who)
    return [
        host,
        _ranks([fact.rank for fact in who]),
        f"{gpus} x {first.gpu or 'GPU'}" if gpus else "none",
        str(first.cores),
        f"{first.memory_bytes / 1e9:.0f} GB",
        _gigabytes(first.output_free),
        _gigabytes(first.shards_free),
        *[first.versions.get(name, "none") for name in versions],
        first.commit[:12] + "-dirty" * first.commit.endswith("-dirty"),
    ]


def _ranks(ranks: list[int]) -> str:
    """`0-3` of neighbours, else all of them."""
    if len(ranks) > 1 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]}-{ranks[-1]}"
    return ", ".join(map(str, ranks))


def _gigabytes(num_bytes: int | None) -> str:
    return "unknown" if num_bytes is None else f"{num_bytes / 1e9:,.0f} GB"
