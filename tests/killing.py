"""Kill an extraction again and again, let it end, and compare with one that was left alone.

The tests do it with a toy extractor; with the real encoders it takes a while:

    python tests/killing.py 20 --config configs/data/demo.yaml workers=2
"""

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

Command = Callable[[Path], list[str]]
"""The command that extracts into a folder."""


def shard_bytes(folder: Path) -> dict[str, bytes]:
    """Name to content of tars and manifests."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("[0-9]*.*"))}


def kill_at_any_time(command: Command, root: Path, num_kills: int) -> list[Path]:
    """SIGKILL `num_kills` runs at random moments; every fourth time one of the workers first.

    Makes root/clean by a run left alone, and killed folders, each ended by a whole run. Returns
    the latter; the caller compares.
    """
    started = time.monotonic()
    subprocess.run(command(root / "clean"), capture_output=True, check=True)
    duration = time.monotonic() - started
    rng = random.Random(0)
    folders = [root / "killed-0"]
    kills = 0
    while kills < num_kills:
        run = subprocess.Popen(
            command(folders[-1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.1, 1.0) * duration)
        if kills % 4 == 3:
            children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
            subprocess.run(["kill", "-9", *children[-1:]], stderr=subprocess.DEVNULL)
            time.sleep(0.05 * duration)
        run.kill()
        if run.wait() == 0:  # it had reached the end
            folders.append(root / f"killed-{len(folders)}")
        else:
            kills += 1
    for folder in folders:
        subprocess.run(command(folder), capture_output=True, check=True)
    return folders


def main() -> None:
    num_kills, *words = sys.argv[1:]
    extract = [sys.executable, "-m", "data_pipeline.extract", *words]
    with tempfile.TemporaryDirectory() as root:
        clean = Path(root, "clean")
        folders = kill_at_any_time(lambda f: [*extract, f"output={f}"], Path(root), int(num_kills))
        expected = shard_bytes(clean)
        for folder in folders:
            found = shard_bytes(folder)
            wrong = [n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n)]
            same = "differs in " + ", ".join(sorted(wrong)) if wrong else "the same bytes"
            print(f"{folder.name}: {len(found)} files, {same}")
        print(f"{num_kills} kills over {len(folders)} runs; {len(expected)} files in a clean one")


if __name__ == "__main__":
    main()
