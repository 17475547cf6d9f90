"""The cells of the table of speech encoders: one class, its CSV and its Markdown."""

import csv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Score:
    """One cell of the table."""

    system: str
    probe: str
    measure: str
    mean: float
    spread: float
    """Standard deviation over seeds; 0 where there is one split only."""
    tested: int
    """Utterances, words or states in one test."""


def markdown(scores: list[Score]) -> str:
    """One row a system, one column a probe; a dash where a system was not measured."""
    probes = list(dict.fromkeys(s.probe for s in scores))
    names = list(dict.fromkeys(s.system for s in scores))
    cell = {(s.system, s.probe): s for s in scores}
    first = {s.probe: s for s in reversed(scores)}
    head = [f"{p} ({first[p].measure}, n={first[p].tested})" for p in probes]
    lines = ["| system | " + " | ".join(head) + " |", "| --- |" + " ---: |" * len(probes)]
    for name in names:
        texts = []
        for p in probes:
            score = cell.get((name, p))
            spread = f" ± {score.spread:.3f}" if score and score.spread else ""
            texts.append(f"{score.mean:.3f}{spread}" if score else "-")
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def read_scores(path: Path) -> list[Score]:
    """What `write_scores` wrote, to the four digits it kept."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            Score(
                system=row["system"],
                probe=row["probe"],
                measure=row["measure"],
                mean=float(row["mean"]),
                spread=float(row["spread"]),
                tested=int(row["tested"]),
            )
            for row in csv.DictReader(file)
        ]


def write_scores(scores: list[Score], stem: str, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with open(out / f"{stem}.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["system", "probe", "measure", "mean", "spread", "tested"])
        for s in scores:
            row = [s.system, s.probe, s.measure, f"{s.mean:.4f}", f"{s.spread:.4f}", s.tested]
            table.writerow(row)
    (out / f"{stem}.md").write_text(markdown(scores), encoding="utf-8")
    print("\n" + markdown(scores))
