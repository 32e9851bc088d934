"""The end of a process of our own: all that is to be done is done, and then it is over."""

import subprocess
import sys

import pytest

ENDS = """
import atexit, sys, threading, time
from sana_cli.system.ending import end_with, register_last
register_last()
class Torn:
    def __del__(self, say=print):
        say("taken apart")
atexit.register(print, "registered")
threading.Thread(target=lambda: (time.sleep(0.05), print("thread"))).start()
kept = Torn()
{then}
"""


@pytest.mark.parametrize(
    ("then", "code", "last"),
    [
        ("end_with(3); sys.exit(3)", 3, []),
        ("end_with(0)", 0, []),
        ("raise RuntimeError", 1, ["taken apart"]),  # a bug: as Python ends
    ],
)
def test_threads_and_what_is_registered_come_first(then: str, code: int, last: list[str]) -> None:
    words = [sys.executable, "-c", ENDS.replace("{then}", then)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split("\n")[:-1]) == (
        code,
        ["thread", "registered", *last],
    )
