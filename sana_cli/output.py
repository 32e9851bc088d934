"""Files that appear whole or not at all, and never replace another unless asked to. No torch."""

import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from math import ceil
from pathlib import Path
from typing import BinaryIO

from sana_cli.errors import ExitCode, SanaError, usage_error

try:
    import fcntl
except ImportError:  # Windows, where files of a killed process stay
    fcntl = None  # type: ignore[assignment]

_PREFIX, _SUFFIX = ".sana-", ".tmp"  # of files that have no name of their own yet
_ABANDONED_S = 60  # without a write, and without the lock of a living process


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """A binary file that gets its name when the block ends, and is gone if the block fails.

    Raises SanaError when the folder cannot be written, or the file is there and `overwrite` is not.
    """
    temporary = None
    try:
        _remove_abandoned(path.parent)
        handle, name = _mkstemp(path)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            lock(file)
            yield file
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files
        _publish(temporary, path, overwrite=overwrite)
    except OSError as error:
        raise _unwritable(path, error, "--output") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _mkstemp(path: Path) -> tuple[int, str]:
    return tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=path.parent)


def lock(file: BinaryIO) -> None:
    """Mark a file as one that a living process has open."""
    if fcntl is not None:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_abandoned(folder: Path) -> None:
    """Remove what processes left that were killed while they wrote here."""
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        if is_abandoned(path):
            with suppress(OSError):
                path.unlink()


def is_abandoned(path: Path) -> bool:
    """Whether a file that was `lock`ed has been left behind by a process that was killed."""
    if fcntl is None:
        return False
    try:
        if time.time() - path.stat().st_mtime < _ABANDONED_S:
            return False
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # gone by now, another user's, or locked: alive
        return False
    return True


def _publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Give a finished file its name; without `overwrite` this fails if the name is taken."""
    if overwrite:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)  # atomic, and refuses to replace
    except FileExistsError as error:
        raise already_exists(path) from error
    except OSError:  # a file system without hard links
        try:
            path.open("xb").close()
        except FileExistsError as error:
            raise already_exists(path) from error
        temporary.replace(path)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def already_exists(path: Path) -> SanaError:
    return SanaError(
        f"{path} exists", hint="choose another --output, or --force", code=ExitCode.USAGE
    )


def _unwritable(path: Path, error: OSError, option: str) -> SanaError:
    return SanaError(
        f"cannot write {path}: {error.strerror or error}",
        hint=f"choose a folder that exists, is writable and has space, with {option}",
        code=ExitCode.ENVIRONMENT,
    )


def require_another(preview: Path, picture: Path) -> None:
    """SanaError (usage) where a preview and its picture would be one file."""
    if preview.resolve() == picture.resolve():
        raise usage_error(
            f"{preview} cannot be the picture and its preview",
            "give --preview-file another name",
        )


def check_writable(path: Path, option: str = "--output") -> None:
    """Fail before any work when `path`, which `option` names, could not be written afterwards."""
    if not path.parent.is_dir():
        raise no_folder(path.parent, option)
    try:
        handle, name = _mkstemp(path)
        os.close(handle)
        os.unlink(name)
        path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unwritable(path, error, option) from error
    if not path.is_symlink() and not path.is_file():
        raise SanaError(
            f"{path} is not a regular file", hint=f"choose another {option}", code=ExitCode.USAGE
        )


def no_folder(path: Path, option: str = "--output") -> SanaError:
    return SanaError(
        f"no such folder: {path}",
        hint=f"create it, or choose another {option}",
        code=ExitCode.USAGE,
    )


def printable(text: str) -> str:
    """Text for a terminal: control characters, which could steer it, become spaces."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def slug(prompt: str, *, limit: int = 48) -> str:
    """A file name's worth of a prompt: letters and digits of any script, joined by hyphens."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    # Names are limited in bytes; a character of some scripts takes three.
    cut = words.encode()[:limit].decode(errors="ignore").rstrip("-")
    return cut or "picture"


def counted(number: int, noun: str) -> str:
    """A number and what it counts: "1 step", "2 steps"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def readable_bytes(count: int) -> str:
    """A size for people, in powers of ten as disks and networks are sold."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def readable_memory(count: int, *, at_least: bool = False) -> str:
    """An amount of memory for people, in powers of two; rounded up if `at_least` so much is needed."""
    unit, places = ("GiB", 2) if count >= 2**30 else ("MiB", 0)
    amount = count / {"GiB": 2**30, "MiB": 2**20}[unit]
    if at_least:
        amount = ceil(amount * 10**places) / 10**places
    return f"{amount:.{places}f} {unit}"


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        printable(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
        for row in rows
    ]
