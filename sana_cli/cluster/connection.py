"""Connect to a Ray cluster, or start one here. Whatever cannot work is said in one line, within seconds.

Ray itself waits for minutes for an address that does not answer, so it is asked for a sign of life before.
"""

import logging
import os
import re
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, TextIO, cast

from sana_cli.cluster.sizing import Node
from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.system.packages import pip_install

AUTO, LOCAL = "auto", "local"
_PATIENCE_S = 5.0
_OBJECTS = 200 * 2**20  # bytes of Ray's store on a machine where we start it: rows are small
# The beginning of HTTP/2, which gRPC speaks: the client's words, and an empty frame of settings.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS_FRAME = 4


def require_ray() -> None:
    """SanaError where Ray Data is not installed."""
    missing = [name for name in ("ray", "pyarrow", "fsspec") if find_spec(name) is None]
    if missing:
        raise SanaError(
            f"--ray needs packages that are not installed here: {', '.join(missing)}",
            hint=pip_install("ray[data]"),
            code=ExitCode.ENVIRONMENT,
        )


def find_address(wanted: str) -> str | None:
    """Return host and port of the cluster that `--ray` names; None where one is to be started here.

    `auto` is RAY_ADDRESS, else a Ray that runs on this machine, else a new one. SanaError for an address that cannot be
    one, or does not answer.
    """
    if wanted == LOCAL:
        return None
    address = wanted
    if wanted == AUTO:
        address = os.environ.get("RAY_ADDRESS", "").strip()
        if address in ("", AUTO):
            found = _running_here()
            return found if found and _answers(*_host_and_port(found)) else None
        if address == LOCAL:
            return None
    if address.startswith("ray://"):
        raise usage_error(
            f"{address} is a Ray client's address, over which Ray Data does not run",
            "run the command on a node of the cluster, or submit it with `ray job submit` (docs/scale.md): --ray auto",
        )
    host, port = _host_and_port(address)
    if not _answers(host, port):
        raise SanaError(
            f"no Ray cluster answers at {address}",
            hint="look whether it runs: ray status --address HOST:PORT; the port of `ray start --head` is 6379",
            code=ExitCode.ENVIRONMENT,
        )
    return address


def _host_and_port(address: str) -> tuple[str, int]:
    found = re.fullmatch(r"\[?([^\s/\[\]]+?)\]?:(\d{1,5})", address)
    if found is None or not 0 < int(found[2]) < 2**16:
        raise usage_error(
            f"--ray cannot be {address!r}", "give HOST:PORT, auto, or local for a new Ray here"
        )
    return found[1], int(found[2])


def _running_here() -> str | None:
    """Return the address of the last Ray that was started on this machine."""
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    try:
        text = (Path(folder) / "ray/ray_current_cluster").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if re.fullmatch(r"\S+:\d{1,5}", text) else None


def _answers(host: str, port: int) -> bool:
    """Return whether a gRPC server answers there, as Ray's head does."""
    try:
        with socket.create_connection((host, port), timeout=_PATIENCE_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return True  # what it says is encrypted
            connection.settimeout(_PATIENCE_S)
            connection.sendall(_HELLO)
            frame = b""
            while len(frame) < 4 and (piece := connection.recv(9)):
                frame += piece
            return len(frame) >= 4 and frame[3] == _SETTINGS_FRAME
    except OSError:
        return False


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect to a cluster, or start one (None), and leave it afterwards; yields the module `ray`. Raises SanaError."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of this process: we report its errors
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # of a busy machine
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:  # as fast as without Ray, whose workers have niceness 15 otherwise
        os.environ.setdefault("RAY_worker_niceness", "0")
    import ray.data

    _keep_to_log_files()
    if ray.is_initialized():  # by a program that calls us
        yield ray
        return
    own = {"include_dashboard": False, "object_store_memory": _OBJECTS} if address is None else {}
    try:
        with _hushed():
            ray.init(
            address or LOCAL, logging_level="ERROR", log_to_driver=False, configure_logging=False, **own
        )  # fmt: skip
    except Exception as error:
        raise in_words(error, address) from error
    try:
        with redirect_stdout(cast(TextIO, WithoutRay(sys.stdout))):
            yield ray
    finally:
        with redirect_stdout(StringIO()):  # it prints what it kept back of messages that repeat
            ray.shutdown()


class WithoutRay:
    """A text stream without what Ray's own threads print: a paragraph on stdout for each worker that dies."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, unless a thread of Ray calls."""
        if threading.current_thread().name.startswith("ray_"):
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        """Pass everything else on to the stream."""
        return getattr(self._stream, name)


def _keep_to_log_files() -> None:
    """Leave what Ray's Python code says in its log files: nodes and outcomes report what matters here."""
    for name in ("ray", "ray.data"):
        for handler in logging.getLogger(name).handlers:
            of_ray = type(handler).__module__.startswith("ray.")  # a caller's own keep their level
            if of_ray and isinstance(handler, logging.StreamHandler):
                handler.setLevel(logging.CRITICAL)


@contextmanager
def _hushed() -> Iterator[None]:
    """Drop what Ray's C++ code, and the processes that it starts, write to stderr meanwhile: they write past Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def in_words(error: Exception, address: str | None) -> SanaError:
    """Say in one line why Ray could not be reached or started."""
    text = " ".join(str(error).split())
    where = address or "this machine"
    if re.search(r"version mismatch", text, re.IGNORECASE):
        versions = re.findall(r"Ray: (\S+) Python: (\S+)", text)
        named = [f"Ray {ray} with Python {python}" for ray, python in versions]
        detail = f": there {named[0]}, here {named[1]}" if len(named) == 2 else f": {text}"
        return SanaError(
            f"the cluster at {where} runs other versions{detail}",
            hint="use the same versions of Python and Ray on all machines",
            code=ExitCode.ENVIRONMENT,
        )
    if address is None:
        what, hint = "cannot start Ray on", "look at the logs in /tmp/ray/session_latest/logs"
    else:
        what = "cannot connect to the Ray cluster at"
        hint = (
            "look at `ray status`; if the cluster asks for a token, set RAY_AUTH_MODE=token here, "
            "with ~/.ray/auth_token of its head"
        )
    return SanaError(
        f"{what} {where}: {text or type(error).__name__}", hint=hint, code=ExitCode.ENVIRONMENT
    )


def nodes_of(ray: Any) -> list[Node]:
    """List the machines of the cluster that are alive and may hold workers. SanaError where there is none."""
    nodes = [
        Node(
            name=str(each["NodeManagerHostname"]) + _short_id(each),
            id=str(each["NodeID"]),
            cpus=float(each["Resources"].get("CPU", 0)),
            gpus=float(each["Resources"].get("GPU", 0)),
            memory=int(each["Resources"].get("memory", 0)),
        )
        for each in ray.nodes()
        if each["Alive"]
    ]
    nodes = [
        node for node in nodes if node.cpus >= 1 or node.gpus >= 1
    ]  # not a head that only directs
    if not nodes:
        raise SanaError(
            "the cluster has no node with a core or a GPU to give",
            hint="start some: ray start --address HOST:PORT",
            code=ExitCode.ENVIRONMENT,
        )
    return nodes


def _short_id(node: dict[str, Any]) -> str:
    """Return the beginning of a node's id: several nodes may run on one machine."""
    return f"/{str(node['NodeID'])[:6]}"
