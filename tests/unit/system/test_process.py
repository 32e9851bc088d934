"""What becomes of signals, of standard streams that do not work, and of errors that no code expected."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sana_cli import cli
from sana_cli.errors import ExitCode
from sana_cli.system.process import AskedToEnd, ending_by_signals, exit_code, was_asked_to_end
from tests.faults import PanicException, raising

SIGNALS = [signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _usual_signals(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Those who run the tests may ignore some, as nohup does."""
    before = [signal.signal(number, signal.SIG_DFL) for number in SIGNALS]
    yield
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_an_exception_within_the_block_alone(number: signal.Signals) -> None:
    with ending_by_signals():
        with pytest.raises(AskedToEnd):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # a second one, while the first is cleaned up after
        assert was_asked_to_end()
        assert exit_code(ExitCode.INTERRUPTED) == 128 + number
        assert exit_code(ExitCode.USAGE) == ExitCode.USAGE
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ending_by_signals():
        os.kill(os.getpid(), signal.SIGHUP)
        assert not was_asked_to_end()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("stage", ["denoise", "decode", "save"])
def test_a_signal_cleans_up_as_ctrl_c_does(
    sana: Callable[..., Any],
    before_computing: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    number: signal.Signals,
) -> None:
    def end(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.chdir(tmp_path)
    Path("p.txt").write_text("a cat\na dog\n")
    with ExitStack() as during:
        if stage == "save":
            monkeypatch.setattr(Image.Image, "save", end)
        else:
            during.enter_context(before_computing(stage, end))
        result = sana("generate", "--prompts", "p.txt", "--size", "64x64", "--steps", "1")
    assert result.code == 128 + number, result.err
    assert "error: interrupted" in result.err
    left = {path.name for path in tmp_path.iterdir()} - {"p.txt"}
    kept = set() if stage == "denoise" else {"1-a-cat.png.latents.safetensors"}
    assert left == kept


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (MemoryError(), 3, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 3, "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 3, "out of memory"),
        (RecursionError("maximum recursion depth exceeded"), 2, "what was given is nested"),
        (OverflowError("int too large to convert to float"), 2, "a number is too large"),
        (ModuleNotFoundError("No module named 'x'", name="x"), 3, "the package x is missing"),
        (ImportError("/lib/x.so: undefined symbol: y"), 3, "a package is missing or broken"),
        (PanicException("index out of bounds\nbacktrace"), 1, "a library gave up: index out of"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 3, "cannot use /x/y: Permi"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory"), 3, "no temporary fold"),
        (OSError(errno.ENOSPC, "No space left on device"), 3, "cannot write the result: No spa"),
        (OSError(errno.EBADF, "Bad file descriptor"), 3, "cannot write the result: Bad file"),
        (OSError("libx.so: cannot open shared object file"), 3, "libx.so: cannot open shared"),
        ("\udcff".encode, 2, "a name or text is not valid"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_errors_that_no_code_expected(
    capsys: pytest.CaptureFixture[str],
    error: Any,
    code: int,
    told: str,
    debug: bool,
) -> None:
    def fail() -> int:
        if callable(error):
            error()
        raise error

    assert cli.at_the_edge([*(["--debug"] if debug else []), "models"], fail) == code
    err = capsys.readouterr().err
    lines = err.splitlines()
    assert lines[-2].startswith(f"error: {told}"), err
    assert lines[-1].startswith("hint: ")
    assert (len(lines) == 2) != debug
    assert ("Traceback" in err) == debug


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyError("x"), RuntimeError("of ours")])
def test_bugs_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        cli.at_the_edge(["models"], raising(error))


@pytest.mark.parametrize(
    ("command", "redirection", "code"),
    [
        ("--version", ">/dev/full", 3),
        ("--version", ">&-", 3),
        ("--version", "<&-", 0),
        ("--version", "2>&-", 0),
        ("--version", "2>/dev/full", 0),
        ("--version", ">&- 2>&- <&-", 3),
        ("models --nonsense", "2>/dev/full", 2),
        ("models --nonsense", "2>&-", 2),
        ("models --nonsense", ">&- 2>&- <&-", 2),
    ],
)
def test_streams_that_do_not_work(command: str, redirection: str, code: int) -> None:
    """A full or closed stderr decides nothing; a result that cannot be written is an error."""
    line = f"exec '{sys.executable}' -m sana_cli {command} {redirection}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_ctrl_c_before_anything_is_imported() -> None:
    """The program's own modules take 100 ms, and people change their minds at once."""
    program = (
        "import runpy, sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'sana_cli.commands':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "runpy.run_module('sana_cli', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (ExitCode.INTERRUPTED, "")
    assert done.stderr == "error: interrupted\n"
