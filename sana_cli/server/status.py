"""Report what the server does: `/healthz`, `/v1/status`, `/metrics`, and the proof that it is this user's own."""

import os

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sana_cli import __version__
from sana_cli.remote.state_file import proof_of
from sana_cli.server.native import job_facts
from sana_cli.server.problems import dialect_of
from sana_cli.server.requests import desk_of


async def healthz(request: Request) -> Response:
    """GET /healthz: 200 while requests are taken."""
    desk = desk_of(request)
    if desk.queue.is_closed or desk.engine.problem is not None:
        return PlainTextResponse("ending\n", 503)
    return PlainTextResponse("ok\n")


async def status(request: Request) -> Response:
    """GET /v1/status: models in memory, what runs, what waits."""
    desk = desk_of(request)
    return JSONResponse({
        "version": __version__,
        "pid": os.getpid(),
        **desk.status(),
        **desk.engine.status(),
        "models": [served.name for served in desk.models.names()],
        "jobs": [job_facts(job, dialect_of(request.scope)) for job in desk.jobs.open()],
    })  # fmt: skip


async def hello(request: Request) -> Response:
    """GET /v1/hello: proves to a command that knows the state file that this is the server which wrote it."""
    nonce = request.headers.get("x-sana-nonce", "")[:128]
    secret: str = request.app.state.secret
    proof = proof_of(secret, nonce)
    checks = desk_of(request).engine.checks_prompts
    return JSONResponse({"version": __version__, "proof": proof, "checks_prompts": checks})


async def metrics(request: Request) -> Response:
    """GET /metrics, for Prometheus."""
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4")


ROUTES = [
    Route("/healthz", healthz, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
    Route("/v1/status", status, methods=["GET"]),
    Route("/v1/hello", hello, methods=["GET"]),
]
