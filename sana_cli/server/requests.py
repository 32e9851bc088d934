"""Read what every dialect needs of a request: its body, and who sent it."""

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect, Request

from sana_cli.errors import SanaError
from sana_cli.server.desk import Desk
from sana_cli.server.jobs import Job
from sana_cli.server.problems import Problem
from sana_cli.server.uploads import decoded

_LOOPBACK = ("127.0.0.1", "::1")


def desk_of(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def is_own(request: Request) -> bool:
    """Check whether it carries this user's secret: then it comes from the user's own command."""
    return bool(request.scope.get("sana.own"))


def client_of(request: Request) -> str:
    """Name who takes turns with others: a host, or a connection from this machine, where a host is everybody."""
    host, port = request.client or ("", 0)
    return f"{host}:{port}" if host in _LOOPBACK else host


async def json_body(request: Request) -> bytes:
    """The body of a JSON request. Raises Problem for another kind: forms are what foreign pages can send."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "the body is no JSON", "send Content-Type: application/json")
    try:
        return await request.body()
    except ClientDisconnect as error:
        raise Problem(400, "the connection ended within the body") from error


async def wait_for(request: Request, job: Job) -> None:
    """Wait for the end of a job; where the client leaves before, cancel it."""
    leaving = asyncio.ensure_future(_disconnected(request))
    ending = asyncio.ensure_future(job.wait())
    try:
        await asyncio.wait([leaving, ending], return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            desk_of(request).cancel(job)
            await ending
    finally:
        leaving.cancel()
        ending.cancel()
        if not job.is_over:
            desk_of(request).cancel(job)


async def _disconnected(request: Request) -> None:
    message: dict[str, Any] = {}
    while message.get("type") != "http.disconnect":
        message = dict(await request.receive())


def decoded_or_problem(text: str, field: str) -> bytes:
    """The bytes of a base64 text. Raises Problem."""
    try:
        return decoded(text, field)
    except SanaError as error:
        problem = Problem.of(error)
        problem.param = field
        raise problem from error
