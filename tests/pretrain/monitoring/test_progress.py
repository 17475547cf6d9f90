import dataclasses
import io
import sys

import pytest

from pretrain.monitoring.progress import progress_bar
from pretrain.runtime import RuntimeSettings, start


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stderr", "rank"), [(io.StringIO(), 0), (Terminal(), 1)])
def test_nothing_is_drawn_into_a_file_or_by_other_ranks(monkeypatch, stderr, rank):
    monkeypatch.setattr(sys, "stderr", stderr)
    runtime = dataclasses.replace(start(RuntimeSettings(device="cpu")), rank=rank)
    with progress_bar(runtime, 2, 10) as bar:
        bar.update()
        bar.set_postfix_str("loss 1.0", refresh=False)
    assert stderr.getvalue() == ""


def test_on_a_terminal_the_bar_goes_on_where_the_run_does_and_the_log_stands_above_it(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", screen)
    runtime = start(RuntimeSettings(device="cpu"))
    handlers = list(runtime.log.handlers)
    with progress_bar(runtime, 2, 10) as bar:
        bar.update()
        runtime.log.info("step 3 | loss 1.0")
        assert "step 3 | loss 1.0\n" in screen.getvalue()
        assert screen.getvalue().rpartition("\n")[2].lstrip("\r").startswith(" 30%")  # drawn again
    assert "3/10" in screen.getvalue()
    assert runtime.log.handlers == handlers
