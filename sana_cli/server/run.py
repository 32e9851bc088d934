"""Run a server in this process: its sockets, its signals, its end."""

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sana_cli import __version__
from sana_cli.errors import ExitCode, SanaError
from sana_cli.remote.state_file import Running, announced
from sana_cli.server.access_log import AccessLog
from sana_cli.server.app import make_app
from sana_cli.server.desk import Desk
from sana_cli.server.engine import Engine
from sana_cli.server.fair_queue import FairQueue
from sana_cli.server.guard import Doors
from sana_cli.server.limits import Limits
from sana_cli.server.metrics import Metrics
from sana_cli.server.picture_store import PictureStore
from sana_cli.server.served_models import ServedModels

if TYPE_CHECKING:
    from sana_cli.pipeline.safety import SafetyCheck

_log = logging.getLogger("sana.serve")
_CLOSE_SECONDS = 5  # for connections, after the deadline
_CONNECTIONS = 1000  # at once
_BACKLOG = 512  # connections that wait to be taken
_NO_ADDRESS = "name an address of this machine: --host 127.0.0.1, or 0.0.0.0 for all that it has"
_NOT_BOUND: dict[int | None, str] = {  # an unknown name has a number of its own
    errno.EADDRINUSE: "another server may run there (`sana ps`); --port 0 takes a free one",
    errno.EACCES: "the system keeps this port, as others below 1024: name a higher one, or --port 0 for a free one",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The settings of a server."""

    host: str
    port: int  # 0: a free one
    models: ServedModels
    limits: Limits
    keys: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    max_memory: int | None = None
    keep_alive: float | None = 300.0
    output: Path | None = None
    safety: "SafetyCheck | None" = None
    log: TextIO | None = None
    grace_seconds: float = 5.0  # for a stage that cannot be interrupted, after the deadline


Stop = Callable[[], None]  # ends a server in order; a second call at once. For any thread


def run(serving: Serving, *, listening: Callable[[str, int, Stop], None]) -> None:
    """Serve until a signal or `Stop` asks to end. `listening` is called with address, port and the latter.

    SanaError where the address cannot be bound.
    """
    sock = _bound(serving.host, serving.port)
    port = sock.getsockname()[1]
    running = Running.new(_reachable(serving.host), port)
    with announced(running):
        asyncio.run(
            _serve(
                serving, sock, running.secret,
                lambda stop: listening(serving.host, port, stop),
            )
        )  # fmt: skip


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as undone:
        try:
            sock = undone.enter_context(socket.socket(family))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))
        except (OSError, OverflowError, TypeError) as error:  # TypeError: signs that no name has
            reason = getattr(error, "strerror", None) or str(error)
            raise SanaError(
                f"cannot listen on {host}, port {port}: {reason}",
                hint=_NOT_BOUND.get(getattr(error, "errno", None), _NO_ADDRESS),
                code=ExitCode.ENVIRONMENT,
            ) from error
        undone.pop_all()
        return sock


def _reachable(host: str) -> str:
    """The address by which this machine's own commands reach the server."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


class _Server(uvicorn.Server):
    """uvicorn's server without its signals: they are ours."""

    def capture_signals(self) -> Any:
        return nullcontext()


async def _serve(
    serving: Serving, sock: socket.socket, secret: str, listening: Callable[[Stop], None]
) -> None:
    metrics, limits = Metrics(), serving.limits
    queue, store = FairQueue(limits.queue), PictureStore(serving.output)
    engine = Engine(
        queue, store, limits=limits, metrics=metrics, max_memory=serving.max_memory,
        keep_alive=serving.keep_alive, safety=serving.safety,
    )  # fmt: skip
    desk = Desk(queue=queue, engine=engine, models=serving.models, limits=limits)
    loop = asyncio.get_running_loop()
    engine.moved = lambda: _from_thread(loop, desk.tell_places)
    _watch(metrics, desk)
    doors = Doors(secret=secret, keys=serving.keys, names=serving.names)
    app = make_app(desk, doors=doors, metrics=metrics, log=serving.log)
    server = _Server(_config(app, limits))
    ending = _Ending(desk, server, limits.drain_seconds)
    handled = [
        number for number in (signal.SIGINT, signal.SIGTERM) if _handle(loop, number, ending)
    ]
    sock.listen(_BACKLOG)  # before the address is printed: who connects now waits for an answer
    listening(lambda: _from_thread(loop, ending))
    engine.start()
    try:
        await server.serve(sockets=[sock])
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
        queue.close()
        for job in desk.jobs.open():
            job.cancel()
        if await asyncio.to_thread(engine.join, serving.grace_seconds):
            store.close()
        else:  # the command ends the process and its threads; another program continues
            _log.error("a stage did not end in time")


def _config(app: AccessLog, limits: Limits) -> uvicorn.Config:
    class Protocol(_Protocol):
        head_seconds = limits.head_seconds
        no_http = app.no_http

    return uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", ws="none", http=Protocol, loop="asyncio",
        proxy_headers=False,
        timeout_keep_alive=30, timeout_graceful_shutdown=_CLOSE_SECONDS, limit_concurrency=_CONNECTIONS,
        server_header=False, headers=[("server", f"sana/{__version__}")],
        h11_max_incomplete_event_size=64 * 1024,
    )  # fmt: skip


class _Protocol(H11Protocol):
    """Ends a connection whose first request does not come: uvicorn would wait for ever. Logs what is no HTTP."""

    head_seconds = 10.0
    no_http: Callable[[str], None]  # called with the client's host

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(self.head_seconds, self._end_if_silent)

    def send_400_response(self, msg: str) -> None:
        cycle: Any = self.cycle  # None before the first request
        if cycle is None or cycle.response_complete:  # else that request is logged
            self.no_http(self.client[0] if self.client else "")
        super().send_400_response(msg)

    def _end_if_silent(self) -> None:
        if self.scope is None and not self.transport.is_closing():
            self.transport.close()


class _Ending:
    """Ends the server: in order at the first signal, at once at a second one."""

    def __init__(self, desk: Desk, server: uvicorn.Server, seconds: float) -> None:
        self._desk, self._server, self._seconds = desk, server, seconds
        self._draining: asyncio.Task[None] | None = None

    def __call__(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain(self._seconds))
        else:
            for job in self._desk.jobs.open():
                self._desk.cancel(job)

    async def _drain(self, seconds: float) -> None:
        await self._desk.finish(seconds)
        self._server.should_exit = True


def _handle(loop: asyncio.AbstractEventLoop, number: int, what: Callable[[], None]) -> bool:
    """Handle a signal in the loop. False where the system or the thread cannot."""
    try:
        loop.add_signal_handler(number, what)
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    return True


def _from_thread(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(what)


def _watch(metrics: Metrics, desk: Desk) -> None:
    metrics.watch("sana_queue_length", "Requests that wait", lambda: len(desk.queue))
    metrics.watch(
        "sana_models_loaded", "Models in memory", lambda: len(desk.engine.status()["loaded"])
    )
    metrics.watch(
        "sana_model_evictions", "Models that made room or were idle",
        lambda: desk.engine.status()["evictions"],
    )  # fmt: skip
    metrics.watch(
        "sana_resident_bytes", "Memory of the process",
        lambda: desk.engine.status().get("resident_bytes", 0),
    )  # fmt: skip
