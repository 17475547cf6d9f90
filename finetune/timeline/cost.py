"""What a prediction costs: seconds of each stage beside the length of the video, and memory."""

import contextlib
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator

KILOBYTES = 1 if sys.platform == "darwin" else 1024
"""What `ru_maxrss` counts in, in bytes."""

SHORTEST = 0.05
"""Seconds; a stage that took less is not told."""


class Cost:
    """A stopwatch of stages, in the order in which they first ran."""

    def __init__(self) -> None:
        self.seconds_of: Counter[str] = Counter()

    @contextlib.contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Within it the time counts for `stage`; a second time is added."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds_of[stage] += time.perf_counter() - started

    def line(self, video_seconds: float) -> str:
        """Of a run over so many seconds of video: its seconds, how many times faster than they
        last, the same by stage, and the most memory that one of its processes had."""
        total = sum(self.seconds_of.values())
        stages = ", ".join(
            f"{stage} {seconds:.1f} s ({_times(video_seconds, seconds)})"
            for stage, seconds in self.seconds_of.items()
            if seconds >= SHORTEST
        )
        return (
            f"{video_seconds:.0f} s of video in {total:.1f} s, {_times(video_seconds, total)} real "
            f"time: {stages}; largest process {largest_process() / 1e9:.1f} GB"
        )


def largest_process() -> int:
    """Bytes: the most that was resident of this process, or of one of its own that has ended."""
    of = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(who).ru_maxrss for who in of) * KILOBYTES


def _times(video_seconds: float, seconds: float) -> str:
    return f"{video_seconds / max(seconds, 1e-9):.1f}x"
