"""Log each request as one line of JSON on stderr: what came, from whom, how it ended. No prompts, no keys."""

import json
import time
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO

from sana_cli.server.guard import App, Receive, Scope, Send
from sana_cli.server.metrics import Metrics
from sana_cli.server.problems import dialect_of

_LONGEST = 200  # characters of a path


class AccessLog:
    """The outermost application: it sees every answer, refusals too."""

    def __init__(self, app: App, *, metrics: Metrics, out: TextIO | None) -> None:
        """`out`: where lines go; None: nowhere."""
        self._app, self._metrics, self._out = app, metrics, out

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, sent = time.perf_counter(), _Sent(send)
        try:
            await self._app(scope, receive, sent.send)
        finally:
            self._write(scope, sent, time.perf_counter() - started)

    def no_http(self, client: str) -> None:
        """Log what was no HTTP: the protocol answered with 400, and no application saw it."""
        self._metrics.answered("native", 400)
        self._write_line(client, {"method": "", "path": "", "status": 400, "api": "native"})

    def _write(self, scope: Scope, sent: "_Sent", seconds: float) -> None:
        path = scope["path"]
        dialect = dialect_of(scope)
        api = "sana" if scope.get("sana.own") or dialect == "command" else dialect
        self._metrics.answered(api, sent.status)
        facts = {
            "method": scope["method"],
            "path": path[:_LONGEST],
            "status": sent.status,
            "bytes": sent.bytes,
            "ms": round(1000 * seconds, 1),
            "api": api,
            **({"job": sent.job} if sent.job else {}),
        }
        self._write_line((scope.get("client") or ("",))[0], facts)

    def _write_line(self, client: str, facts: dict[str, Any]) -> None:
        if self._out is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "client": client, **facts}
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()


class _Sent:
    """Counts what is answered."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status, self.bytes, self.job = 0, 0, ""  # 0: the client left before an answer

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            names = dict(message.get("headers", []))
            self.job = names.get(b"x-sana-job", b"").decode("latin-1")
        else:
            self.bytes += len(message.get("body", b""))
        await self._send(message)
