"""The files by which commands find a running server: one for each, in the user's runtime folder, readable by nobody else.

A file holds the port and a secret. The secret opens the server to this user's commands, and by it a server proves
that it is the one which wrote the file.
"""

import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

from quant.files import read_small
from sana_cli import __version__
from sana_cli.config.places import runtime_folder

_LARGEST = 4096  # bytes of a file
_PATTERN = "serve-*.json"


class Running(NamedTuple):
    """A server of this user."""

    host: str
    port: int
    secret: str
    pid: int
    version: str

    @classmethod
    def new(cls, host: str, port: int) -> Self:
        """This process, with a new secret."""
        import secrets  # which commands do not need

        secret = secrets.token_urlsafe(32)
        return cls(host=host, port=port, secret=secret, pid=os.getpid(), version=__version__)


def proof_of(secret: str, nonce: str) -> str:
    """Return what only the server with this secret can answer to a nonce: its keyed BLAKE2b (RFC 7693), in hexadecimal."""
    try:
        from _blake2 import (
            blake2b,  # hashlib's own: that loads OpenSSL, a tenth of a command's start
        )
    except ImportError:
        from hashlib import blake2b
    return blake2b(nonce.encode(), key=secret.encode()[:64], digest_size=32).hexdigest()


@contextmanager
def announced(running: Running) -> Iterator[None]:
    """Let commands find a server within the block. Without a folder that only this user can read, none does."""
    try:
        path = runtime_folder() / f"serve-{running.port}.json"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _is_private(path.parent):
            raise PermissionError(path.parent)
        temporary = path.with_name(f".{path.name}.{running.pid}")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(running._asdict(), file)
        temporary.replace(path)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        if _read(path) == running:
            with suppress(OSError):
                path.unlink()


def running_servers() -> list[Running]:
    """The servers that have announced themselves and whose process is alive, the latest first."""
    try:
        folder = runtime_folder()
        if not _is_private(folder):
            return []
        paths = sorted(folder.glob(_PATTERN), key=_written, reverse=True)
    except OSError:
        return []
    found = []
    for path in paths:
        running = _read(path)
        if running is not None and _is_alive(running.pid):
            found.append(running)
    return found


def _written(path: Path) -> float:
    """When a file was written; 0 for one that has gone meanwhile, which hides no other server."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: Path) -> Running | None:
    try:
        said = json.loads(read_small(path, _LARGEST))
        running = Running(**said)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    kinds = {"host": str, "port": int, "secret": str, "pid": int, "version": str}
    if any(type(said[name]) is not kind for name, kind in kinds.items()):
        return None
    is_usable = (
        0 < running.port < 2**16
        and 0 < running.pid < 2**31
        and running.secret.isascii()
        and re.fullmatch(r"[\w.:%-]+", running.host, re.ASCII)
    )
    return running if is_usable else None


def _is_private(folder: Path) -> bool:
    """Check that a folder is this user's, and that nobody else can write to it."""
    about = folder.stat()
    if not hasattr(os, "getuid"):  # Windows: the folder is in the user's profile
        return True
    return about.st_uid == os.getuid() and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":  # there signal 0 is Ctrl-C, and would end the process
        import psutil

        return bool(psutil.pid_exists(pid))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
