"""Send an HTTP request and read its reply. http.client brings email and ssl along, and takes 30 ms to import.

As HTTP/1.0 the reply ends with the connection: a body has no chunks, and an event is read as it comes.
"""

import socket
from collections.abc import Iterator, Mapping
from typing import Self

_LARGEST_HEAD = 64 * 1024  # bytes


class BadAnswer(Exception):
    """The reply is no HTTP, or ended early."""


class Reply:
    """The status of a reply, and its body as it comes."""

    def __init__(self, connection: socket.socket, *, keep: bool) -> None:
        """Read the head. Raises BadAnswer, OSError."""
        self._connection, self._keep = connection, keep
        self._file = connection.makefile("rb")
        words = self._file.readline(_LARGEST_HEAD).split()
        if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
            raise BadAnswer
        self.status = int(words[1])
        self._left, read = -1, 0  # bytes of the body; -1: unknown
        while (line := self._file.readline(_LARGEST_HEAD)).strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length" and value.strip().isdigit():
                self._left = int(value)
            read += len(line)
            if read > _LARGEST_HEAD:
                raise BadAnswer
        if not line or (keep and self._left < 0):
            raise BadAnswer

    def lines(self) -> Iterator[bytes]:
        """The lines of the body, each as soon as it is there. Raises OSError."""
        yield from self._file

    def read(self) -> bytes:
        """The whole body. Raises BadAnswer where it ends early; OSError."""
        content = self._file.read(self._left)
        if self._left >= 0 and len(content) < self._left:
            raise BadAnswer
        return content

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if not self._keep:
            self._connection.close()


def connect(host: str, port: int, *, secure: bool, seconds: float) -> socket.socket:
    """Connect to a server within `seconds`. Raises OSError; ValueError for a host that cannot be one."""
    connection = _connected(host, port, seconds)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if secure:
            import ssl

            return ssl.create_default_context().wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise
    return connection


def _connected(host: str, port: int, seconds: float) -> socket.socket:
    if not host.replace(".", "").isdigit():
        return socket.create_connection((host, port), timeout=seconds)
    # An address needs no look-up, for which Python imports its tables of international names.
    connection = socket.socket()
    try:
        connection.settimeout(seconds)
        connection.connect((host, port))
    except BaseException:
        connection.close()
        raise
    return connection


def ask(
    connection: socket.socket, method: str, path: str, body: bytes, headers: Mapping[str, str], *,
    keep: bool, seconds: float,
) -> Reply:  # fmt: skip
    """Send a request; silence ends it after `seconds`. `keep`: the connection stays for one more.

    Raises BadAnswer, OSError; ValueError for a header that cannot be sent.
    """
    lines = [f"{method} {path} HTTP/1.{int(keep)}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    try:
        if not all(line.isprintable() for line in lines):
            raise ValueError("a header is no line")
        connection.settimeout(seconds)
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return Reply(connection, keep=keep)
    except BaseException:
        connection.close()
        raise
