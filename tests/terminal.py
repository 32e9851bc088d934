"""A program in a pseudo-terminal, as a person has it before them."""

import codecs
import os
import pty
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path


class Terminal:
    """Runs a program; `type` sends keys, `shows` waits for text, `end` for the exit code."""

    def __init__(
        self, command: Sequence[object], *, environment: dict[str, str], folder: Path | None = None
    ) -> None:
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored in the background of a shell
            if folder is not None:
                os.chdir(folder)
            words = [str(word) for word in command]
            os.execvpe(words[0], words, environment)

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def shows(self, text: str, *, seconds: float = 240) -> str:
        """What was shown up to and with `text`, which must appear in time; later calls begin behind it."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < deadline, self._lacks(text)
            assert self._read() or text in self.shown, self._lacks(text)
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def interrupt(self, *, seconds: float = 240) -> tuple[int, str]:
        """Press Ctrl-C at a question, and return what `end` returns.

        `input` sees no signal that comes between its last look for one and its read, some
        microseconds after the question is shown. Whoever gets no answer presses again, so this does.
        """
        return self.end(seconds=seconds, keys="\x03")

    def end(self, *, seconds: float = 240, keys: str = "") -> tuple[int, str]:
        """The exit code, and everything that was shown since the last call of `shows`; `keys` are typed every ten seconds."""
        started = typed = time.monotonic()
        if keys:
            self.type(keys)
        while self._read():
            now = time.monotonic()
            if now > started + seconds:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(f"did not end: ...{self.shown[-500:]!r}")
            if keys and now > typed + 10:
                typed = now
                self.type(keys)
        _, status = os.waitpid(self.pid, 0)
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(status), self.shown

    def _lacks(self, text: str) -> str:
        return f"{text!r} is not in ...{self.shown[-500:]!r}"

    def _read(self) -> bool:
        """Take what is there; False when the program has closed the terminal."""
        if not select.select([self._terminal], [], [], 0.1)[0]:
            return True
        try:
            part = os.read(self._terminal, 4096)
        except OSError:  # Linux says so when the other side is closed
            return False
        self.shown += self._decoder.decode(part)
        return bool(part)
