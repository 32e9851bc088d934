"""Small files that are read whole or refused, and files that are written whole or not at all.

Names may lead anywhere: to a FIFO, which would block a reader for ever, to a device, which a rename would replace, or
to gigabytes. So readers open without blocking, take regular files only, and have a limit; writers refuse to replace
anything but a regular file or a link. Every error is an OSError.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from quant.plain_text import decode_text

try:
    import fcntl
except ImportError:  # Windows: there a file that is open can be neither renamed nor replaced
    fcntl = None  # type: ignore[assignment]

SMALL = 64 * 2**20  # bytes of the largest small file: tokenizers of 34 MB are read whole, too
_PREFIX, _SUFFIX = ".sana-", ".tmp"  # of files that have no name of their own yet
_LOCK_FILE = f"{_PREFIX}lock"
_ABANDONED_S = 60  # without a write, and without the lock of a living process
_LOOK_EVERY_S = 60
_next_look: dict[Path, float] = {}  # when a folder is searched again for abandoned files
_PATIENCE_S = 10  # for another process that changes a file, which takes milliseconds
_READ_S = 2  # for a program that reads the file to replace: a viewer, a search index, a scanner for viruses
_IN_USE = (5, 32)  # Windows: access denied, sharing violation


# -- reading ---------------------------------------------------------------------------------------


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file (or a link to one) for reading; raise OSError at once for anything else."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    handle = os.open(path, flags | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise not_regular(path)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_small(path: Path, limit: int = SMALL) -> bytes:
    """Read a regular file of at most `limit` bytes; raise OSError for anything else."""
    content = b""
    with open_regular(path) as file:
        # As much at a time as the file is long: a buffer of the limit's size would be taken from the memory.
        step = os.fstat(file.fileno()).st_size + 1
        while len(content) <= limit and step <= limit + 1 and (piece := file.read(max(step, 4096))):
            content += piece
    if len(content) > limit or step > limit + 1:
        raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
    return content


def read_small_text(path: Path, limit: int = SMALL) -> str:
    """Read a small file as text, in any encoding that `decode_text` knows. Also raises ValueError."""
    return decode_text(read_small(path, limit))


def not_regular(path: Path) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", str(path))


# -- writing ---------------------------------------------------------------------------------------


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Open a binary file that gets its name when the block ends, and is gone if the block fails.

    Raises FileExistsError if the name is taken by then and `overwrite` is not set; OSError if the
    folder cannot be written, or the file to replace is not regular.
    """
    temporary = None
    try:
        require_replaceable(path)
        _remove_abandoned(path.parent)
        handle, name = make_temporary(path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            lock(file)
            yield file
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files
        _publish(temporary, path, overwrite=overwrite)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def make_temporary(folder: Path) -> tuple[int, str]:
    """Make a new file that is removed some time after its process was killed; return its handle and name."""
    # As tempfile does, whose import takes longer than writing a picture. A name of 64 random bits is free.
    path = folder / f"{_PREFIX}{os.urandom(8).hex()}{_SUFFIX}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    for more in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT"):
        flags |= getattr(os, more, 0)
    return os.open(path, flags, 0o600), str(path)


def require_replaceable(path: Path) -> None:
    """OSError for a path that is there and neither a regular file nor a link, of which only the link is replaced."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise not_regular(path)


def replace_file(
    source: Path,
    target: Path,
    *,
    rename: Callable[[Path, Path], object] = os.replace,
    patience_s: float = _READ_S,
) -> None:
    """Rename a file over another one. Windows refuses that while a program has the target open: wait for it a little.

    Raises PermissionError with `winerror` 5 or 32 where the program keeps it open.
    """
    end = time.monotonic() + patience_s
    while True:
        try:
            rename(source, target)
            return
        except PermissionError as error:
            if not is_in_use(error) or time.monotonic() >= end:
                raise
            time.sleep(0.01)


def is_in_use(error: OSError) -> bool:
    """Return whether Windows refused a file because a program has it open."""
    return getattr(error, "winerror", None) in _IN_USE


def _publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Give a finished file its name; without `overwrite` this fails if the name is taken."""
    if overwrite:
        require_replaceable(path)
        replace_file(temporary, path)
        return
    try:
        os.link(temporary, path)  # atomic, and refuses to replace
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        path.open("xb").close()
        replace_file(temporary, path)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


# -- who is alive ----------------------------------------------------------------------------------


def lock(file: BinaryIO) -> None:
    """Mark a file as one that a living process has open."""
    if fcntl is not None:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_abandoned(
    path: Path, *, locks: Any = fcntl, rename: Callable[[Path, Path], object] = os.rename
) -> bool:
    """Return whether the process that `lock`ed a file was killed; `locks` is fcntl, or None where there is none."""
    try:
        if time.time() - path.lstat().st_mtime < _ABANDONED_S:
            return False
        if locks is None:
            rename(path, path)  # changes nothing, and fails for a file that is open
            return True
        with open_regular(path) as file:
            locks.flock(file, locks.LOCK_EX | locks.LOCK_NB)
    except OSError:  # gone by now, another user's, no file of ours, or locked: alive
        return False
    return True


def _remove_abandoned(folder: Path) -> None:
    """Remove what processes left that were killed while they wrote here; not at each write, since folders are large."""
    now = time.monotonic()
    if now < _next_look.get(folder, now):
        return
    _next_look[folder] = now + _LOOK_EVERY_S
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        if is_abandoned(path):
            with suppress(OSError):
                path.unlink()


@contextmanager
def changing(path: Path, *, patience_s: float = _PATIENCE_S, locks: Any = fcntl) -> Iterator[None]:
    """Let one process at a time into such a block of a file: for reading it, changing it and writing it again.

    The folder is made if it is not there. It is what gets locked, so no lock file stays, and a kill ends the lock.
    Windows locks no folders: there, where `locks` is None, an empty lock file stays in it.
    TimeoutError if another process keeps it for `patience_s`; nothing is locked where a file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if locks is None:
        with _lock_file(path, patience_s):
            yield
        return
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        _lock_patiently(handle, path, patience_s)
        yield
    finally:
        os.close(handle)


@contextmanager
def _lock_file(path: Path, patience_s: float) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        held = FileLock(path.parent / _LOCK_FILE).acquire(timeout=patience_s, poll_interval=0.005)
    except Timeout as error:
        raise _still_changing(path) from error
    with held:
        yield


def _still_changing(path: Path) -> OSError:
    return TimeoutError(errno.ETIMEDOUT, "another process is changing it", str(path))


def _lock_patiently(handle: int, path: Path, patience_s: float) -> None:
    end = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise _still_changing(path) from error
            time.sleep(0.005)
        except OSError:
            return
