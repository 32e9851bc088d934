"""Talk to one server of ours: documents, events, and the proof that it is this user's."""

import json
import os
import socket
from collections.abc import Generator
from typing import Any, Self
from urllib.parse import urlsplit

from sana_cli import __version__
from sana_cli.errors import usage_error
from sana_cli.remote.http import BadAnswer, Reply, ask, connect
from sana_cli.remote.state_file import Running, proof_of, running_servers
from sana_cli.remote.wire import COMMANDS_AGENT

_CONNECT_SECONDS = (
    5.0  # to a server of this machine, which may be very busy; a port without one refuses at once
)
_FAR_SECONDS = 10.0
_SILENT_SECONDS = 60.0  # a server shows every 15 s that it is alive


class ServerLost(Exception):
    """A server does not answer, or stopped in the middle of an answer."""


class Answer(Exception):
    """A server answered with an error."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(error.get("message", ""))
        self.status, self.error = status, error


class Connection:
    """A server, and what opens it. Each request has a connection of its own, or the one that was proved to be ours."""

    def __init__(
        self, host: str, port: int, *, key: str, secure: bool = False, seconds: float
    ) -> None:
        self._host, self._seconds, self._secure = host, seconds, secure
        self._key, self.port = key, port
        self._kept: socket.socket | None = None  # for the next request
        self.version = ""
        self.checks_prompts = False

    @classmethod
    def own(cls, running: Running) -> Self:
        """A connection to a server of this user, which has proved that it is that. Raises ServerLost."""
        connection = cls(running.host, running.port, key="", seconds=_CONNECT_SECONDS)
        nonce = os.urandom(16).hex()
        said = connection.get("/v1/hello", {"X-Sana-Nonce": nonce}, keep=True)
        # No secret to guess by the time that this takes: each connection has a nonce of its own.
        if said.get("proof") != proof_of(running.secret, nonce):
            connection.close()
            raise ServerLost
        connection._key = running.secret
        connection._learn(said)
        return connection

    @classmethod
    def to(cls, url: str, key: str) -> Self:
        """A connection to the server at an address. Raises SanaError for what is none; ServerLost."""
        wrong = usage_error(
            f"{url!r} is no address of a server", "use http://HOST:PORT, auto or off"
        )
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
            if parts.scheme not in ("http", "https") or not host or parts.path not in ("", "/"):
                raise wrong
            if not host.isprintable() or " " in host:
                raise wrong
            secure = parts.scheme == "https"
            usual = 443 if secure else 7262
            connection = cls(host, port or usual, key=key, secure=secure, seconds=_FAR_SECONDS)
        except ValueError as error:  # brackets, ports, signs that no host has
            raise wrong from error
        connection._learn(connection.get("/v1/hello"))
        return connection

    def _learn(self, said: dict[str, Any]) -> None:
        self.version = str(said.get("version"))
        self.checks_prompts = said.get("checks_prompts") is True

    def get(
        self, path: str, headers: dict[str, str] | None = None, *, keep: bool = False
    ) -> dict[str, Any]:
        """The document at a path; `keep`: the next request uses the same connection. Raises ServerLost, Answer."""
        with self._sent("GET", path, None, headers, keep=keep) as reply:
            return self._document(reply)

    def post(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        """The answer to a document. Raises ServerLost, Answer."""
        with self._sent("POST", path, document) as reply:
            return self._document(reply)

    def events(
        self, path: str, document: dict[str, Any]
    ) -> Generator[tuple[str, dict[str, Any]], None, None]:
        """The server-sent events that answer a document. Raises ServerLost, Answer; closing it closes the connection."""
        with self._sent("POST", path, document) as reply:
            if reply.status != 200:
                self._document(reply)
                raise ServerLost
            name = ""
            try:
                for line in reply.lines():
                    if line.startswith(b"event: "):
                        name = line[7:].decode().strip()
                    elif line.startswith(b"data: "):
                        yield name, json.loads(line[6:])
            except (OSError, BadAnswer, ValueError) as error:
                raise ServerLost from error

    def _sent(
        self, method: str, path: str, document: dict[str, Any] | None,
        headers: dict[str, str] | None = None, *, keep: bool = False,
    ) -> Reply:  # fmt: skip
        host = f"[{self._host}]" if ":" in self._host else self._host
        own = {"Host": f"{host}:{self.port}", "User-Agent": f"{COMMANDS_AGENT}{__version__}"}
        headers = {**own, **(headers or {})}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        body = b""
        if document is not None:
            body, headers["Content-Type"] = json.dumps(document).encode(), "application/json"
        try:
            connection = self._kept or connect(
                self._host, self.port, secure=self._secure, seconds=self._seconds
            )
            self._kept = connection if keep else None
            return ask(connection, method, path, body, headers, keep=keep, seconds=_SILENT_SECONDS)
        except (OSError, BadAnswer, ValueError) as error:  # also a host that cannot be looked up
            raise ServerLost from error

    def _document(self, reply: Reply) -> dict[str, Any]:
        try:
            found = json.loads(reply.read())
        except (OSError, BadAnswer, ValueError) as error:
            raise ServerLost from error
        if not isinstance(found, dict):
            raise ServerLost
        if reply.status >= 400:
            said = found.get("error")
            raise Answer(reply.status, said if isinstance(said, dict) else {})
        return found

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()


def own_server() -> Connection | None:
    """A connection to the latest server of this user that has this version; None where none answers."""
    for running in running_servers():
        if running.version != __version__:
            continue
        try:
            connection = Connection.own(running)
        except (ServerLost, Answer):
            continue
        if connection.version == __version__:
            return connection
        connection.close()
    return None


def status_of(running: Running) -> dict[str, Any] | None:
    """Ask a server of this user for its status; None where it does not answer."""
    try:
        return Connection.own(running).get("/v1/status")
    except (ServerLost, Answer):
        return None
