"""SHA-256 of whole files, found once for each state of a file, and ahead of time where they will be needed. No torch.

The digests of a quantized folder are compared before every use. Hashing needs no Python, so that a second core does it
while torch is imported, which takes as long; it also brings the file into the system's cache.
"""

import hashlib
import os
import threading
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from pathlib import Path

from quant.files import open_regular

_PIECE = 2**18  # bytes
_PIECE_AHEAD = 2**24  # whoever imports meanwhile gives a thread its turn at Python every 5 ms only

State = tuple[str, int, int, int]  # path, inode, size, time of the last change
_found: dict[State, Future[str]] = {}
_lock = threading.Lock()


def known_digest(path: Path, *, piece: int = _PIECE) -> str:
    """Return a file's SHA-256, read once for each state of the file; waits for a thread that reads it now.

    `piece`: bytes that are read at a time. OSError.
    """
    key = state_of(path)
    with _lock:
        theirs = _found.get(key)
        ours = _found.setdefault(key, Future())
    if theirs is not None:
        with suppress(CancelledError):
            return theirs.result()
        return _digest(path, piece)  # where the other thread failed, for an error of our own
    try:
        ours.set_result(_digest(path, piece))
    except BaseException:
        with _lock:
            del _found[key]  # the next one tries again
        ours.cancel()
        raise
    return ours.result()


def state_of(path: Path) -> State:
    """Return what distinguishes contents of a file without reading it. OSError."""
    found = path.stat()
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns


def digest_ahead(paths: Iterable[Path]) -> threading.Thread | None:
    """Find the digests of files in a thread, one after the other; None where there are none.

    Errors are those of whoever needs the digest.
    """
    wanted = list(paths)

    def find() -> None:
        for path in wanted:
            with suppress(OSError, MemoryError):
                known_digest(path, piece=_PIECE_AHEAD)

    if not wanted:
        return None
    # A daemon: a process that ends early does not wait for gigabytes.
    thread = threading.Thread(target=find, name="digests", daemon=True)
    thread.start()
    return thread


def _digest(path: Path, piece: int) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        view = memoryview(bytearray(max(1, min(piece, os.fstat(file.fileno()).st_size))))
        while count := file.readinto(view):
            digest.update(view[:count])
    return digest.hexdigest()
