"""One bar over the steps of a run."""

import contextlib
from collections.abc import Iterator

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pretrain.runtime import Runtime


@contextlib.contextmanager
def progress_bar(runtime: Runtime, done: int, steps: int) -> Iterator[tqdm]:
    """A bar of rank 0, where stderr is a terminal; lines of the log go above it. Elsewhere it shows
    nothing, and `update` does nothing."""
    disable = None if runtime.is_main else True  # None: on a terminal alone
    with tqdm(total=steps, initial=done, unit="step", disable=disable) as bar:
        above = contextlib.nullcontext() if bar.disable else logging_redirect_tqdm([runtime.log])
        with above:
            yield bar
