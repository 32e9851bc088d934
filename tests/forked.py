"""`sana` in a process of its own that is a fork of this one: torch is there already, which takes seconds to import.

For tests of what processes do to each other, and of what a kill leaves. What a new process imports and sets up is not
shown here, but by those that start `python -m sana_cli`.
"""

import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import NoReturn

_LIMIT_S = 240  # a fork that hangs ends by SIGALRM, and its test fails


class Forked:
    """Runs `work()`, whose result is the exit code. The names are those of `subprocess.Popen`."""

    def __init__(self, work: Callable[[], int]) -> None:
        import torch

        # Threads are not copied, and a computation that is shared among several would wait for them for ever.
        assert torch.get_num_threads() == 1
        read, write = os.pipe()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by `communicate`
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _become(work, write, self._said.fileno())
        os.close(write)
        self.stdout = open(read, encoding="utf-8")  # noqa: SIM115 -- closed by `communicate`

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Return the exit code, or the signal that ended it as a negative number."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        """Wait for the end; return the rest of stdout, and stderr."""
        with self.stdout, self._said:
            rest = self.stdout.read()
            self.wait()
            # The other process has moved the place that both write to, which the file object here does not know.
            os.lseek(self._said.fileno(), 0, os.SEEK_SET)
            return rest, self._said.read().decode()


def forked_sana(*words: object) -> Forked:
    """Begin `sana WORDS...`."""

    def work() -> int:
        from sana_cli.__main__ import run

        sys.argv = ["sana", *map(str, words)]
        try:
            run()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    return Forked(work)


def _become(work: Callable[[], int], out: int, err: int) -> NoReturn:
    """Do the work in the new process and end it. Nothing of pytest, which it is a copy of, may run."""
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8"
        )
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(2, "w", closefd=False)),
            "utf-8",
            "backslashreplace",
            line_buffering=True,
        )
        sys.excepthook = sys.__excepthook__
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_LIMIT_S)
        code = work()
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 -- it would run the tests that follow
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stderr.flush()
        os._exit(code)
