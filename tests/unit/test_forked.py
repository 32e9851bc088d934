"""A fork shows its words, its exit code and the signal that ended it, as any other process would."""

import os
import signal

from tests.forked import Forked, forked_sana


def test_words_and_code_of_a_command() -> None:
    version, mistake = forked_sana("--version"), forked_sana("generate", "--nonsense")
    out, err = version.communicate()
    assert (version.returncode, out[:5], err) == (0, "sana ", "")
    out, err = mistake.communicate()
    assert (mistake.returncode, out) == (2, "")
    assert "--nonsense" in err


def test_an_error_is_shown_and_ends_the_fork() -> None:
    def fail() -> int:
        raise ZeroDivisionError("a bug")

    process = Forked(fail)
    assert "ZeroDivisionError: a bug" in process.communicate()[1]
    assert process.returncode == 70


def test_a_kill() -> None:
    process = Forked(lambda: os.kill(os.getpid(), signal.SIGKILL) or 0)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
