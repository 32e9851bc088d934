"""Asking a hub whose HTTP is broken or hostile: one line, soon, and the token stays with the hub."""

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest

from sana_cli.checkpoints import hub as client
from sana_cli.errors import SanaError

OK = b"HTTP/1.1 200 OK\r\n"
HEADER = 200_000  # bytes of a huge one
ANSWERS = {
    "nothing": b"",
    "noise": bytes(range(256)) * 40,
    "another protocol": b"220 mail.example ESMTP\r\n",
    "half a status": b"HTTP/1.1 2",
    "no end of the headers": OK + b"X: " + b"x" * HEADER,
    "huge header": OK + b"X: " + b"x" * HEADER + b"\r\n\r\n{}",
    "many headers": OK + b"".join(b"X%d: %s\r\n" % (i, b"y" * 90) for i in range(5_000)) + b"\r\n{}",
    "bad header": OK + b"X Y\x00: \xff\r\n\r\n{}",
    "bad length": OK + b"Content-Length: many\r\n\r\n{}",
    "negative length": OK + b"Content-Length: -5\r\n\r\n{}",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length too large": OK + b"Content-Length: 99\r\n\r\n{}",
    "bad chunks": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "bad gzip": OK + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
    "gzip of no JSON": OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"x" * 100_000),
    "odd charset": OK + b"Content-Type: application/json; charset=nope\r\n\r\n\xff",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "odd status": b"HTTP/1.1 999 What\r\n\r\n",
    "status with an escape": b"HTTP/1.1 500 \x1b[2J\r\nContent-Length: 0\r\n\r\n",
    "message with lines": b"HTTP/1.1 400 Bad\r\nX-Error-Message: a\x0bhint: run rm\r\nContent-Length: 0\r\n\r\n",
    "huge message": b"HTTP/1.1 403 No\r\nX-Error-Message: " + b"m" * 60_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "message in latin-1": b"HTTP/1.1 400 Bad\r\nX-Error-Message: \xfcber\xff\r\nContent-Length: 0\r\n\r\n",
    "error of another shape": b'HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n["error"]',
    "endless error": b"HTTP/1.1 500 No\r\nContent-Length: 999999999999\r\n\r\n" + b"[" * 100_000,
    "error in no charset": b"HTTP/1.1 400 Bad\r\nContent-Type: text/x; charset=zlib\r\nContent-Length: 1\r\n\r\nx",
    "to itself": b"HTTP/1.1 302 Found\r\nLocation: /api/models/own/tiny\r\nContent-Length: 0\r\n\r\n",
    "to a file": b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
    "to no address": b"HTTP/1.1 302 Found\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n",
    "to a bad port": b"HTTP/1.1 302 Found\r\nLocation: http://h:port/\r\nContent-Length: 0\r\n\r\n",
    "to bytes": b"HTTP/1.1 302 Found\r\nLocation: http://\xff\xfe/\r\nContent-Length: 0\r\n\r\n",
    "to a host too long": b"HTTP/1.1 302 Found\r\nLocation: http://" + b"a" * 300 + b".b/\r\nContent-Length: 0\r\n\r\n",
    "to a closed port": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
    "bad cookie": OK + b"Set-Cookie: \xff=;;;\x01\r\nContent-Length: 2\r\n\r\n{}",
}  # fmt: skip


@contextmanager
def answering(answer: Callable[[], bytes]) -> Iterator[str]:
    """A server that sends the same bytes to everybody, and hangs up."""
    server = socket.create_server(("127.0.0.1", 0))
    sockets = [server]

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            sockets.append(connection)
            with connection:
                try:
                    connection.recv(65536)
                    connection.sendall(answer())
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass
                except OSError:
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        for each in sockets:  # a client may keep its connection for the next request
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_whatever_comes_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, answer: bytes
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with answering(lambda: answer) as url:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        with pytest.raises(SanaError) as caught:
            client.ask("own/tiny")
    error = caught.value
    assert error.code == 3
    assert url in error.message
    assert error.hint
    assert len(error.message) < 300
    assert (error.message + error.hint).isprintable()
    assert not (tmp_path / "hub").exists()


def test_a_token_stays_with_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever a hub redirects to does not get it: another host, another port, another scheme."""
    monkeypatch.setenv("HF_TOKEN", "hf_ofmine")
    seen: list[bytes] = []

    @contextmanager
    def listening() -> Iterator[int]:
        server = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(OK + b"Content-Length: 2\r\n\r\n{}")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)
        server.close()

    for host in ("127.0.0.1", "localhost"):
        with listening() as port:
            answer = b"HTTP/1.1 302 Found\r\nLocation: http://%s:%d/x\r\nContent-Length: 0\r\n\r\n"
            with answering(partial(bytes, answer % (host.encode(), port))) as url:
                monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
                with pytest.raises(SanaError, match="does not answer like"):
                    client.ask("own/tiny")
    assert len(seen) == 2
    assert all(b"GET /x" in request for request in seen)
    assert not any(b"ofmine" in request for request in seen)
