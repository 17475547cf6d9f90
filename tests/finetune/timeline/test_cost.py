import subprocess
import sys

from finetune.timeline.cost import Cost


def test_a_line_adds_stages_up_and_holds_them_against_the_video():
    cost = Cost()
    cost.seconds_of.update({"cutting": 2.0, "extraction": 6.0})
    with cost.of("cutting"):
        pass
    assert cost.line(40.0).startswith(
        "40 s of video in 8.0 s, 5.0x real time: cutting 2.0 s (20.0x), extraction 6.0 s (6.7x); "
        "largest process "
    )


HELD = """
import subprocess, sys
from finetune.timeline.cost import largest_process
before = largest_process()
held = before + 200_000_000
subprocess.run([sys.executable, "-c", f"held = b'x' * {held}"], check=True)
print(held, largest_process())
"""


def test_the_largest_process_may_be_one_that_has_ended(root):
    done = subprocess.run(
        [sys.executable, "-c", HELD], cwd=root, capture_output=True, text=True, check=True
    )
    held, largest = map(int, done.stdout.split())
    assert held < largest < held + 200_000_000
