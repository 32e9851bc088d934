"""What Windows and macOS lack or refuse: locks by fcntl, signals, forks, files that are open, letters of consoles."""

import ast
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import pytest

from quant.files import changing, is_abandoned, replace_file
from sana_cli.checkpoints.lora_file import parse_lora
from sana_cli.config.choices import split_scale
from sana_cli.errors import ExitCode, SanaError
from sana_cli.files import new_file
from sana_cli.images.file_names import Named, expand
from sana_cli.system.process import AskedToEnd, ending_by_signals, exit_code

ROOT = Path(__file__).parents[3]


class InUse(PermissionError):
    """Refuse as Windows does while another program has a file open."""

    def __init__(self, winerror: int) -> None:
        super().__init__(13, "The process cannot access the file")
        self.winerror = winerror


class Busy:
    """Rename as Windows does: refused so many times, while somebody reads the target."""

    def __init__(self, times: float, winerror: int = 32) -> None:
        self.times, self.winerror, self.asked = times, winerror, 0

    def __call__(self, source: Path, target: Path) -> None:
        self.asked += 1
        if self.asked <= self.times:
            raise InUse(self.winerror)
        os.replace(source, target)


# -- files that are open ---------------------------------------------------------------------------


@pytest.mark.parametrize("winerror", [5, 32])
def test_a_file_that_is_read_is_replaced_once_the_reader_is_done(
    winerror: int, tmp_path: Path
) -> None:
    source, target = tmp_path / "new", tmp_path / "old"
    source.write_text("new")
    target.write_text("old")
    replace_file(source, target, rename=Busy(3, winerror))
    assert (target.read_text(), source.exists()) == ("new", False)


def test_a_file_that_stays_open_is_kept(tmp_path: Path) -> None:
    source, target = tmp_path / "new", tmp_path / "old"
    source.write_text("new")
    target.write_text("old")
    with pytest.raises(InUse):
        replace_file(source, target, rename=Busy(float("inf")), patience_s=0.05)
    assert target.read_text() == "old"


def test_a_folder_that_cannot_be_written_is_not_tried_twice(tmp_path: Path) -> None:
    refused = Busy(1, winerror=0)
    with pytest.raises(PermissionError):
        replace_file(tmp_path / "new", tmp_path / "old", rename=refused)
    assert refused.asked == 1


def test_the_error_names_what_to_close(tmp_path: Path) -> None:
    picture = tmp_path / "fox.png"
    picture.write_text("old")
    with pytest.raises(SanaError) as caught, new_file(picture, overwrite=True):
        raise InUse(32)
    assert caught.value.message == f"cannot replace {picture}: another program has it open"
    assert caught.value.hint.startswith("close the program that has fox.png open")
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert [path.name for path in tmp_path.iterdir()] == ["fox.png"]


# -- locks without fcntl ---------------------------------------------------------------------------


def test_a_file_that_cannot_be_renamed_belongs_to_a_living_process(tmp_path: Path) -> None:
    left = tmp_path / ".sana-x.tmp"
    left.write_text("half")
    assert not is_abandoned(left, locks=None), "too young to tell"
    os.utime(left, (time.time() - 3600,) * 2)
    assert not is_abandoned(left, locks=None, rename=Busy(1))
    assert is_abandoned(left, locks=None)
    assert left.read_text() == "half", "only asked, not removed"
    assert not is_abandoned(tmp_path / "gone", locks=None)


def test_changes_without_fcntl_come_one_after_another(tmp_path: Path) -> None:
    counter = tmp_path / "new" / "counter"

    def count() -> None:
        for _ in range(5):
            with changing(counter, locks=None):
                number = int(counter.read_text()) if counter.exists() else 0
                time.sleep(0.001)
                counter.write_text(str(number + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.read_text() == "20"


def test_a_change_without_fcntl_does_not_wait_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    with (
        changing(path, locks=None),
        pytest.raises(TimeoutError, match="another process is changing it"),
        changing(path, locks=None, patience_s=0.02),
    ):
        pass
    with changing(path, locks=None):
        path.write_text("free again")


# -- signals ---------------------------------------------------------------------------------------


def _system(*names: str) -> Any:
    """A module `signal` with these signals alone; the handlers are kept in `handlers`."""
    handlers: dict[int, Any] = {}
    numbers = {name: number for number, name in enumerate(names, start=15)}
    return SimpleNamespace(
        SIG_DFL=signal.SIG_DFL, handlers=handlers, signal=handlers.__setitem__,
        getsignal=lambda number: handlers.get(number, signal.SIG_DFL), **numbers,
    )  # fmt: skip


@pytest.mark.parametrize("names", [("SIGTERM",), ("SIGTERM", "SIGBREAK"), ("SIGTERM", "SIGHUP")])
def test_each_signal_that_the_system_has_ends_the_command(names: tuple[str, ...]) -> None:
    system = _system(*names)
    for name in names:
        number = getattr(system, name)
        with ending_by_signals(system):
            assert set(system.handlers) == {getattr(system, each) for each in names}
            with pytest.raises(AskedToEnd):
                system.handlers[number](number, None)
            assert exit_code(ExitCode.INTERRUPTED) == 128 + number
        assert set(system.handlers.values()) == {signal.SIG_DFL}
    with ending_by_signals(_system()):
        pass  # leaves no signal for the tests that follow


# -- paths -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "scale"),
    [
        (r"C:\loras\style.safetensors", r"C:\loras\style.safetensors", None),
        (r"C:\loras\style.safetensors:0.8", r"C:\loras\style.safetensors", 0.8),
        (r"\\server\share\a.safetensors:-0.3", r"\\server\share\a.safetensors", -0.3),
        ("C:/loras/style.safetensors:1", "C:/loras/style.safetensors", 1.0),
    ],
)
def test_the_colon_of_a_drive_is_no_scale(text: str, path: str, scale: float | None) -> None:
    assert split_scale(text) == (path, scale)
    assert parse_lora(text) == (path, 1.0 if scale is None else scale)


@pytest.mark.parametrize(
    "wish", ["con", "nul.txt", r"a\b", "a/b", "c:d", 'q"?*<>|', "dots...", "spaces  ", "tab\t", "COM1"]
)  # fmt: skip
def test_an_id_becomes_a_name_that_windows_takes(wish: str) -> None:
    (path,) = expand(Path("out/{id}.png"), [Named("a fox", 1, 1, wish)])
    name = PureWindowsPath(path).name
    assert path.parent == Path("out")
    assert not set(name) & set('\\/:*?"<>|\t')
    assert name.partition(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1"}
    assert not name.removesuffix(".png").endswith((".", " "))


# -- consoles --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "words", "code", "shown"),
    [
        ("cp1252", ("models",), 0, "builtin"),
        ("cp437", ("generate", "--help"), 0, "What to draw"),
        ("cp1252", ("info", "小さい🦊.png"), 2, "error: "),
        ("cp932", ("info", "é🦊.png"), 2, "error: "),
    ],
    ids=["models", "help", "error", "error-in-japan"],
)
def test_a_console_without_unicode_shows_every_text(
    encoding: str, words: tuple[str, ...], code: int, shown: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "sana_cli", *words], env=environment, cwd=tmp_path, capture_output=True, check=False,
    )  # fmt: skip
    said = (done.stdout + done.stderr).decode(encoding)
    assert (done.returncode, "Traceback" in said) == (code, False), said
    assert shown in said


# -- what only some systems have -------------------------------------------------------------------

ABSENT = {  # on Windows; those of the first three are absent on macOS, too
    "os": {
        "posix_fadvise", "sched_getaffinity", "sched_setaffinity", "fork", "forkpty", "getuid", "geteuid", "getgid", "chown",
        "getloadavg", "killpg", "getpgid", "setsid", "mkfifo", "mknod", "statvfs", "sysconf", "uname", "nice", "wait",
        "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "WNOHANG", "pread", "preadv", "sendfile",
        "memfd_create", "ttyname", "openpty", "fchown", "getpriority", "setpriority",
    },
    "signal": {"SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPIPE", "SIGTSTP", "SIGWINCH", "alarm", "setitimer", "pthread_sigmask", "pause"},
    "socket": {"AF_UNIX", "socketpair", "SO_REUSEPORT"},
    "time": {"tzset", "CLOCK_BOOTTIME"},
}  # fmt: skip
MODULES = {"fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "msvcrt", "winreg", "curses", "readline"}  # fmt: skip
GUARDS = ("hasattr(", "sys.platform", "os.name", "except ImportError", "suppress(ImportError", "except AttributeError")  # fmt: skip

_CAUGHT = "except (ImportError"


def unguarded(source: str) -> list[str]:
    """List uses of what some system lacks, in functions (or top-level statements) that do not ask for it."""
    found = []
    tree, lines = ast.parse(source), source.splitlines()
    for block in _blocks(tree):
        text = "\n".join(lines[block.lineno - 1 : block.end_lineno])
        asks_by_importing = any(f"import {name}" in text for name in MODULES)
        if any(guard in text for guard in GUARDS):
            continue
        if isinstance(block, ast.FunctionDef) and asks_by_importing and _CAUGHT in source:
            continue  # whoever calls it expects an ImportError
        for node in ast.walk(block):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.attr in ABSENT.get(node.value.id, ()):
                    found.append(f"{node.value.id}.{node.attr}")
            elif isinstance(node, ast.Import):
                found += [alias.name for alias in node.names if alias.name in MODULES]
            elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
                found.append(str(node.module))
    return found


def _blocks(tree: ast.Module) -> list[ast.stmt]:
    blocks: list[ast.stmt] = []
    for statement in tree.body:
        blocks += statement.body if isinstance(statement, ast.ClassDef) else [statement]
    return blocks


def test_what_a_system_lacks_is_asked_for_first() -> None:
    sources = [*(ROOT / "sana_cli").rglob("*.py"), *(ROOT / "quant").rglob("*.py"), *(ROOT / "calibration").rglob("*.py")]  # fmt: skip
    assert len(sources) > 200
    found = {
        str(path.relative_to(ROOT)): names
        for path in sources
        if (names := unguarded(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import os\ndef f():\n    return os.getuid()", ["os.getuid"]),
        ("def f():\n    import tty", ["tty"]),
        ("def f():\n    import tty\ndef g():\n    try:\n        f()\n    except (ImportError, OSError):\n        pass", []),
        ("import os\ndef f():\n    return os.getuid() if hasattr(os, 'getuid') else 0", []),
        ("import fcntl", ["fcntl"]),
        ("try:\n    import fcntl\nexcept ImportError:\n    fcntl = None", []),
        ("import signal\nclass A:\n    def f(self):\n        return signal.SIGKILL", ["signal.SIGKILL"]),
    ],
)  # fmt: skip
def test_unguarded_uses_are_found(source: str, names: list[str]) -> None:
    assert unguarded(source) == names
