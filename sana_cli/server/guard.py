"""Check every request before its route: who asks, from which page, under which name, and how large the body is.

A server on loopback is reachable by every page in the user's browser. Such a page cannot set Host, and a browser says
in Origin where a request comes from: both are checked, so that neither another site's form nor a name that was rebound
to 127.0.0.1 gets in. Keys are compared in constant time.
"""

import asyncio
import base64
import binascii
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from starlette.datastructures import Headers

from sana_cli.server.limits import Limits
from sana_cli.server.problems import Problem, answer, dialect_of

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
OPEN_PATHS = (
    "/healthz",
    "/",
    "/favicon.ico",
    "/v1/hello",
)  # need no key; neither does what is under /page/


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Keys and names that let a request in."""

    secret: str  # of this user's own commands
    keys: tuple[str, ...] = ()  # (): none is needed
    names: tuple[
        str, ...
    ] = ()  # host names that this server answers to, apart from localhost and addresses

    def knows(self, key: str, among: tuple[str, ...]) -> bool:
        """Compare with each, in a time that depends on neither what matches nor where they differ."""
        digest = sha256(key.encode(errors="surrogateescape")).digest()
        matches = [hmac.compare_digest(digest, sha256(one.encode()).digest()) for one in among]
        return any(matches)


class Guard:
    """The outermost application but for the log."""

    def __init__(self, app: App, *, doors: Doors, limits: Limits) -> None:
        self._app, self._doors, self._limits = app, doors, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = _Body(receive, self._limits)
        try:
            self._check(scope, headers)
            self._check_length(headers)
            await self._app(scope, body.receive, send)
        except Problem as problem:
            response = answer(problem, dialect_of(scope))
            if problem.status in (408, 413):  # what is left of the body is not read
                response.headers["Connection"] = "close"
            await response(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        if not self._answers_to(_name_of(host)):
            raise Problem(
                421, f"this server does not answer to the name {host[:80]!r}",
                "use its address, or start it with --name",
            )  # fmt: skip
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (
            f"http://{host.lower()}",
            f"https://{host.lower()}",
        ):
            raise Problem(
                403,
                "a page of another origin cannot use this server",
                "open the page that it serves",
            )
        if headers.get("sec-fetch-site") == "cross-site" and scope["path"] != "/":
            raise Problem(
                403, "a page of another site cannot use this server", "open the page that it serves"
            )
        key = _key_of(headers)
        scope["sana.own"] = key is not None and self._doors.knows(key, (self._doors.secret,))
        free = scope["path"] in OPEN_PATHS or scope["path"].startswith("/page/")
        if (
            self._doors.keys
            and not free
            and not scope["sana.own"]
            and not self._doors.knows(key or "", self._doors.keys)
        ):
            raise Problem(
                401, "a key is needed" if key is None else "this key is not known",
                "send Authorization: Bearer KEY", code="invalid_api_key",
                headers={"WWW-Authenticate": 'Bearer realm="sana", Basic realm="sana"'},
            )  # fmt: skip

    def _answers_to(self, name: str) -> bool:
        if name in ("localhost", *self._doors.names):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True  # nobody rebinds an address

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            raise Problem(400, "Content-Length is no number", "send a number")
        if len(length) > 18 or int(length) > self._limits.body_bytes:
            raise _too_large(self._limits)


class _Body:
    """Gives the application its body as it comes, and no longer or larger than the limits."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._size, self._ended = 0, False
        self._deadline = asyncio.get_running_loop().time() + limits.body_seconds

    async def receive(self) -> MutableMapping[str, Any]:
        if self._ended:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            raise Problem(
                408,
                f"the body did not come within {self._limits.body_seconds:g} s",
                "send it at once",
            ) from error
        self._size += len(message.get("body", b""))
        if self._size > self._limits.body_bytes:
            raise _too_large(self._limits)
        self._ended = not message.get("more_body", False)
        return message


def _too_large(limits: Limits) -> Problem:
    return Problem(
        413, f"the body is larger than {limits.body_bytes // 2**20} MiB", "send smaller pictures"
    )


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    name = host.lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


def _key_of(headers: Headers) -> str | None:
    """The key of a request: a bearer token, or the password of Basic, which A1111's clients send."""
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return headers.get("x-api-key")
