"""A server in this process, with the built-in model, tiny pictures and a loop of its own."""

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from sana_cli.remote.state_file import Running, running_servers
from sana_cli.server.limits import Limits
from sana_cli.server.run import Serving, run
from sana_cli.server.served_models import ServedModels

SMALL = {"width": 64, "height": 64, "steps": 2}


@dataclass(slots=True)
class Server:
    """A running server."""

    url: str
    running: Running
    stop: Callable[[], None]
    thread: threading.Thread
    log: io.StringIO = field(default_factory=io.StringIO)

    def end(self) -> None:
        self.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, **more)


def start(**how: Any) -> Server:
    """Start a server; `how`: fields of `Serving`."""
    import torch  # noqa: F401  an engine that still imports it when a test ends would not end in time

    told: list[Any] = []
    there, log = threading.Event(), io.StringIO()

    def listening(host: str, port: int, stop: Callable[[], None]) -> None:
        told[:] = [f"http://{host}:{port}", port, stop]
        there.set()

    models = how.pop("models", ("builtin",))
    serving = Serving(
        host="127.0.0.1", port=0, models=ServedModels(models, default=None), log=log,
        **{"limits": Limits(), **how},
    )  # fmt: skip
    thread = threading.Thread(target=run, args=(serving,), kwargs={"listening": listening})
    thread.start()
    assert there.wait(60)
    url, port, stop = told
    running = next(each for each in running_servers() if each.port == port)
    return Server(url, running, stop, thread, log)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that several tests share: they leave no job behind."""
    started = start()
    yield started
    started.end()


@pytest.fixture
def starting() -> Iterator[Callable[..., Server]]:
    """Start servers of a test's own: `starting(limits=..., output=...)`."""
    started: list[Server] = []

    def begin(**how: Any) -> Server:
        started.append(start(**how))
        return started[-1]

    yield begin
    for each in started:
        each.end()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """The bytes of the file that the library alone draws: `expected("a cat", seed=1)`."""
    from sana_cli.pipeline import SanaPipeline

    folder: Path = tmp_path_factory.mktemp("expected")
    pipeline = SanaPipeline.open("builtin")

    def drawn(prompt: str, **options: Any) -> bytes:
        path = folder / "picture.png"
        pipeline(prompt, **{**SMALL, **options}).save(path, overwrite=True)
        return path.read_bytes()

    return drawn
