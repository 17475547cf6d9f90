"""Where a training waits for the device, by torch's warnings (torch.cuda.set_sync_debug_mode)."""

import re
import sys
from collections import Counter
from collections.abc import Callable

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

WAIT = re.compile(r"^(\S+?):(\d+): UserWarning: called a synchronizing", re.MULTILINE)

WATCHED = "all steps were watched for waits"


def watched(first: int, last: int) -> list[str]:
    """The command of a pretraining that warns of every wait from after the update of step `first`
    to that of step `last`."""
    code = f"from pretrain.check.watch import train_watched; train_watched({first}, {last})"
    return [sys.executable, "-W", "always", "-c", code]


def train_watched(first: int, last: int) -> None:
    """Of the words of this process."""
    from pretrain.cli import leave, main

    register_optimizer_step_post_hook(after_step(first, last))
    leave(main())


def after_step(first: int, last: int) -> Callable[..., None]:
    """A hook of torch's optimizers, whichever engine calls them."""
    done = 0

    def hook(*_: object) -> None:
        nonlocal done
        done += 1
        torch.cuda.set_sync_debug_mode("warn" if first <= done < last else "default")
        if done == last:
            print(WATCHED, flush=True)

    return hook


def count_waits(log: str) -> Counter[str]:
    """`file:line` to how often torch warned there that the device was waited for."""
    return Counter(f"{path}:{number}" for path, number in WAIT.findall(log))
