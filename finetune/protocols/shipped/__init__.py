"""Fold files that ship, one JSON each, known by their names: `data.protocol=iemocap-speaker10`.

Units are named as the adapters of data_pipeline.corpora name speakers and recordings. Each file is
made by a rule of finetune.protocols.shipped.rules, and a test holds it to it.
"""

from pathlib import Path

FOLDER = Path(__file__).parent


def shipped_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def shipped_file(name: str) -> Path | None:
    """The file of a shipped protocol; None where `name` is none's."""
    return FOLDER / f"{name}.json" if name in shipped_names() else None
