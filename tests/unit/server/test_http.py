"""One request and its reply: what is no HTTP, or ends early, is told apart from an answer."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from sana_cli.remote.http import BadAnswer, Reply, ask

OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def replied() -> Iterator[Callable[..., Reply]]:
    """The reply of a server that sends these bytes and no more."""
    here, there = socket.socketpair()

    def begin(sent: bytes, *, keep: bool = False) -> Reply:
        def send() -> None:
            with suppress(OSError):  # the other end reads no further
                there.sendall(sent)
                there.shutdown(socket.SHUT_WR)

        sending = threading.Thread(target=send)
        sending.start()
        try:
            return ask(here, "GET", "/", b"", {"Host": "x"}, keep=keep, seconds=5)
        finally:
            if here.fileno() == -1:  # closed, so that sending ends
                there.close()
            sending.join()

    yield begin
    here.close()
    there.close()


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (OK + b"Content-Length: 2\r\n\r\nabc", b"ab"), (OK + b"content-length:2\r\n\r\nab", b"ab"),
        (OK + b"\r\nto the end", b"to the end"), (OK + b"Content-Length: 0\r\n\r\n", b""),
    ],
    ids=["told", "small letters", "not told", "empty"],
)  # fmt: skip
def test_bodies(replied: Callable[..., Reply], sent: bytes, body: bytes) -> None:
    with replied(sent) as reply:
        assert (reply.status, reply.read()) == (200, body)


def test_lines_come_as_they_are(replied: Callable[..., Reply]) -> None:
    with replied(OK + b"\r\nevent: a\ndata: {}\n\n") as reply:
        assert list(reply.lines()) == [b"event: a\n", b"data: {}\n", b"\n"]


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 ok\r\n\r\n", OK + b"Content-Length: 3\r\n", b"HTTP/1.1 200" + b"x" * 70_000,
        OK + b"X: y\r\n" * 20_000 + b"\r\n",
    ],
    ids=["nothing", "other", "no number", "no end", "long line", "long head"],
)  # fmt: skip
def test_what_is_no_reply(replied: Callable[..., Reply], sent: bytes) -> None:
    with pytest.raises(BadAnswer):
        replied(sent)


def test_a_body_that_ends_early(replied: Callable[..., Reply]) -> None:
    with replied(OK + b"Content-Length: 9\r\n\r\nabc") as reply, pytest.raises(BadAnswer):
        reply.read()


def test_a_connection_that_stays_needs_a_length(replied: Callable[..., Reply]) -> None:
    with pytest.raises(BadAnswer):
        replied(OK + b"\r\nabc", keep=True)


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\0", "a\nb"])
def test_headers_are_lines(value: str) -> None:
    here, there = socket.socketpair()
    with there, pytest.raises(ValueError, match="no line"):
        ask(here, "GET", "/", b"", {"X": value}, keep=False, seconds=5)
    assert here.fileno() == -1
