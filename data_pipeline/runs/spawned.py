"""Processes beside this one: started without its main module, ended with it."""

import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import os
import pickle
import sys
from typing import Any


def start_without_main(process: multiprocessing.process.BaseProcess, given: Any) -> None:
    """Start a "spawn" process that does not run the main module again, where it would look for what
    is pickled by name; nothing of ours is there. A user's script need not say
    `if __name__ == "__main__"` then, without which it would start from its top in each worker.

    given: what the process is given; where something of it is of the main module, that is run.
    """
    if b"__main__" in pickle.dumps(given):
        process.start()
        return
    main = sys.modules["__main__"]
    kept = {name: vars(main)[name] for name in ("__spec__", "__file__") if name in vars(main)}
    try:
        for name in kept:
            setattr(main, name, None)
        process.start()
    finally:
        for name, value in kept.items():
            setattr(main, name, value)


def end_with_parent() -> None:
    """End this process when its parent dies, whatever it is about; for a thread of its own."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(0)
