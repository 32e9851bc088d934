"""A cluster that cannot be used is told in one line and at once; no Ray is needed to say so."""

import io
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sana_cli.cluster.connection import (
    WithoutRay,
    _keep_to_log_files,
    connected,
    find_address,
    in_words,
    nodes_of,
)
from sana_cli.errors import ExitCode, SanaError


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def answering(server: socket.socket, words: bytes) -> str:
    def answer() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            connection.sendall(words)

    threading.Thread(target=answer, daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_grpc_server_answers(server: socket.socket) -> None:
    address = answering(server, bytes([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 1]))
    assert find_address(address) == address


def test_only_handlers_of_ray_are_hushed() -> None:
    class OfRay(logging.StreamHandler):  # type: ignore[type-arg]
        __module__ = "ray._private.log"

    logger, handlers = logging.getLogger("ray"), (OfRay(), logging.StreamHandler())
    for handler in handlers:
        logger.addHandler(handler)
    try:
        _keep_to_log_files()
        assert [handler.level for handler in handlers] == [logging.CRITICAL, logging.NOTSET]
    finally:
        for handler in handlers:
            logger.removeHandler(handler)


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_another_server_is_no_cluster(server: socket.socket, words: bytes) -> None:
    with pytest.raises(SanaError, match="no Ray cluster answers") as error:
        find_address(answering(server, words))
    assert error.value.code == ExitCode.ENVIRONMENT


def test_a_closed_port_is_told_at_once(server: socket.socket) -> None:
    address = f"127.0.0.1:{server.getsockname()[1]}"
    server.close()
    started = time.perf_counter()
    with pytest.raises(SanaError, match=f"no Ray cluster answers at {address}"):
        find_address(address)
    assert time.perf_counter() - started < 60, "Ray itself waits for minutes"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ray://127.0.0.1:10001", "client's address"), ("nonsense", "cannot be"), ("host:0", "cannot be"),
        ("host:99999", "cannot be"), ("http://host:1", "cannot be"),
    ],
)  # fmt: skip
def test_what_is_no_address(address: str, words: str) -> None:
    with pytest.raises(SanaError, match=words) as error:
        find_address(address)
    assert error.value.code == ExitCode.USAGE


def test_auto_follows_the_variable_then_this_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: socket.socket
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert find_address("local") is None
    assert find_address("auto") is None, "nothing runs here"
    address = answering(server, bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text(address)
    assert find_address("auto") == address
    server.close()
    assert find_address("auto") is None, "it has ended since"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(SanaError, match="no Ray cluster answers"):
        find_address("auto")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert find_address("auto") is None


def test_other_versions_are_named() -> None:
    said = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.12.1\n"
        "This process on node 127.0.0.1:6379 was started with:\n    Ray: 2.60.0\n    Python: 3.11.2\n"
    )
    error = in_words(said, "head:6379")
    assert error.message == (
        "the cluster at head:6379 runs other versions: there Ray 2.59.0 with Python 3.12.1, "
        "here Ray 2.60.0 with Python 3.11.2"
    )
    assert error.code == ExitCode.ENVIRONMENT
    assert "cannot start Ray on this machine: x" in in_words(OSError("x"), None).message
    assert "RAY_AUTH_MODE=token" in in_words(OSError("Failed to connect"), "head:6379").hint


def test_nodes_are_those_that_may_hold_workers() -> None:
    def node(name: str, alive: bool = True, **resources: float) -> dict[str, object]:
        return {
            "NodeManagerHostname": "h", "NodeID": name * 8, "Alive": alive, "Resources": {"memory": 5.0, **resources},
        }  # fmt: skip

    class Ray:
        def __init__(self, *nodes: dict[str, object]) -> None:
            self.nodes = lambda: list(nodes)

    found = nodes_of(Ray(node("a"), node("b", CPU=2.0), node("c", alive=False, CPU=2.0), node("d", GPU=1.0)))  # fmt: skip
    assert [each.name for each in found] == ["h/bbbbbb", "h/dddddd"]
    assert (found[0].cpus, found[1].gpus, found[0].memory) == (2, 1, 5)
    with pytest.raises(SanaError, match="no node with a core or a GPU"):
        nodes_of(Ray(node("a")))


def test_what_threads_of_ray_print_does_not_reach_stdout() -> None:
    stream = io.StringIO()
    out = WithoutRay(stream)
    for name in ("ray_listen_error_messages", "ours"):
        thread = threading.Thread(target=print, args=(name,), kwargs={"file": out}, name=name)
        thread.start()
        thread.join()
    print("document", file=out)
    out.flush()
    assert stream.getvalue() == "ours\ndocument\n"


class TalkativeRay(ModuleType):
    """Ray as it looks from here, which prints what it kept back while it leaves the cluster."""

    connections = 0

    def is_initialized(self) -> bool:
        return self.connections > 0

    def init(self, address: str, **settings: Any) -> None:
        self.connections += 1

    def shutdown(self) -> None:
        self.connections -= 1
        sys.stdout.write("(raylet) A worker died or was killed while executing a task\n")


def test_what_ray_prints_when_it_leaves_does_not_reach_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray, data = TalkativeRay("ray"), ModuleType("ray.data")
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", data)
    monkeypatch.setattr(ray, "data", data, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the connection sets variables of Ray
    with connected("127.0.0.1:6379"):
        sys.stdout.write("document\n")
    assert capsys.readouterr().out == "document\n"
    assert ray.connections == 0
