"""A clip table or a folder of videos, as a corpus: checked, its defaults filled in.

The way to bring any corpus, and to see what an extraction would make of a table before it runs.
"""

from pathlib import Path

from data_pipeline.schema import Reject
from data_pipeline.table.clips import OnReject, load_clips


def clips(root: Path, on_reject: OnReject) -> list[dict[str, str]]:
    """The good rows of the table, folder or video `root`; the others go to `on_reject`."""
    rejects: list[Reject] = []
    rows = [
        {name: "" if value is None else str(value) for name, value in clip.to_dict().items()}
        for clip in load_clips(root, rejects)
    ]
    for reject in rejects:
        on_reject(reject)
    return rows
