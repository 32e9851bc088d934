"""The ASGI application: guarded routes of every dialect, and errors in the caller's dialect."""

from collections.abc import Sequence
from typing import TextIO

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from sana_cli.server import a1111, native, openai, openapi, status, web_page
from sana_cli.server.access_log import AccessLog
from sana_cli.server.desk import Desk
from sana_cli.server.guard import Doors, Guard
from sana_cli.server.metrics import Metrics
from sana_cli.server.problems import Problem, answer, dialect_of


def make_app(
    desk: Desk, *, doors: Doors, metrics: Metrics, log: TextIO | None,
    more: Sequence[BaseRoute] = (),
) -> AccessLog:  # fmt: skip
    """The whole application; `more` are routes next to the dialects'."""
    inner = Starlette(
        routes=[
            *native.ROUTES,
            *openai.ROUTES,
            *a1111.ROUTES,
            *openapi.ROUTES,
            *status.ROUTES,
            *web_page.ROUTES,
            *more,
        ],
        exception_handlers={Problem: _refused, HTTPException: _not_routed, Exception: _failed},
    )
    inner.state.a1111_model = None
    inner.state.desk, inner.state.metrics, inner.state.secret = desk, metrics, doors.secret
    return AccessLog(Guard(inner, doors=doors, limits=desk.limits), metrics=metrics, out=log)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return answer(error, dialect_of(request.scope))


async def _failed(request: Request, error: Exception) -> Response:
    """A bug: its traceback is in the log, and nothing of it in the answer."""
    problem = Problem(500, "a bug ended this request", "the server's log shows where")
    return answer(problem, dialect_of(request.scope))


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:80]
    words = {404: f"there is no {path} here", 405: f"{path} takes no {request.method}"}
    problem = Problem(
        error.status_code, words.get(error.status_code, str(error.detail)),
        "/openapi.json lists what there is", headers=error.headers,
    )  # fmt: skip
    return answer(problem, dialect_of(request.scope))
