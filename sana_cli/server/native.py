"""The native API, `/v1/jobs`: a job is made, watched by server-sent events, and deleted to cancel it."""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sana_cli.config.generation import FILES
from sana_cli.server.desk import Wanted
from sana_cli.server.jobs import Event, Finished, Job
from sana_cli.server.problems import (
    Dialect,
    Problem,
    dialect_of,
    json_text,
    native_error,
    validation_problem,
)
from sana_cli.server.requests import (
    client_of,
    decoded_or_problem,
    desk_of,
    is_own,
    json_body,
)
from sana_cli.server.schema import job_request, options_of

MEDIA_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
_PING_SECONDS = 15  # between signs of life, for proxies that end silent connections


async def create(request: Request) -> Response:
    """POST /v1/jobs"""
    desk = desk_of(request)
    body, wanted = await _wanted(request)
    job = await desk.submit(wanted)
    if body.stream:
        return event_stream(request, job, with_file=not wanted.keep, cancels=True)
    return JSONResponse(
        job_facts(job, dialect_of(request.scope)), 202, headers={"Location": f"/v1/jobs/{job.id}"}
    )


async def check(request: Request) -> Response:
    """POST /v1/jobs/check: what would be drawn, or the error, without drawing."""
    _, wanted = await _wanted(request)
    work = await desk_of(request).check(wanted)
    if work.uploads is not None:
        work.uploads.remove()
    pictures = [
        {"seed": p.seed, "width": p.width, "height": p.height, "steps": p.steps_to_run}
        for p in work.pictures
    ]
    return JSONResponse({"model": work.checkpoint.name, "pictures": pictures})


async def _wanted(request: Request) -> tuple[Any, Wanted]:
    raw = await json_body(request)
    try:
        body = msgspec.json.decode(raw, type=job_request(is_own=is_own(request)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise validation_problem(str(error)) from error
    files = {
        kind: (upload.name, decoded_or_problem(upload.data, kind))
        for kind in FILES
        if (upload := getattr(body, kind)) is not None
    }
    if (
        is_own(request)
        and (place := body.decoder or "").startswith("/")
        and not Path(place).exists()
    ):
        raise Problem(404, "this server does not see that decoder", "draw here: --local")
    return body, Wanted(
        options=options_of(body), client=client_of(request), dialect="native", files=files,
        keep=body.keep, previews=body.previews, preview_every=body.preview_every,
        is_own=is_own(request),
    )  # fmt: skip


async def list_jobs(request: Request) -> Response:
    """GET /v1/jobs: the newest first."""
    jobs, dialect = desk_of(request).jobs.newest(), dialect_of(request.scope)
    return JSONResponse({"jobs": [job_facts(job, dialect) for job in jobs]})


async def show(request: Request) -> Response:
    """GET /v1/jobs/ID"""
    return JSONResponse(job_facts(_job(request), dialect_of(request.scope)))


async def cancel(request: Request) -> Response:
    """DELETE /v1/jobs/ID: cancel it; one that is over stays as it is."""
    job = _job(request)
    desk_of(request).cancel(job)
    return JSONResponse(job_facts(job, dialect_of(request.scope)), 202 if not job.is_over else 200)


async def events(request: Request) -> Response:
    """GET /v1/jobs/ID/events: what has happened, then what happens. Closing it cancels nothing."""
    return event_stream(request, _job(request), with_file=False, cancels=False)


async def picture(request: Request) -> Response:
    """GET /v1/jobs/ID/pictures/N.png, or .jpg, .webp: as the job's format is"""
    job, number, suffix = (
        _job(request),
        request.path_params["number"],
        request.path_params["suffix"],
    )
    asked = (number, suffix)
    found = next((p for p in job.pictures if (p.index, p.suffix) == asked and job.keep), None)
    if found is None:
        raise Problem(
            404, f"job {job.id} has no picture {number}.{suffix[:20]}", "look at its pictures"
        )
    try:
        content = await asyncio.to_thread(found.read)
    except OSError as error:
        raise Problem(404, "the file of this picture is gone", "draw it again") from error
    headers = {"Cache-Control": "private, max-age=31536000, immutable"}
    return Response(content, media_type=MEDIA_TYPES[suffix], headers=headers)


async def preview(request: Request) -> Response:
    """GET /v1/jobs/ID/preview.png: what a running picture looks like so far."""
    job = _job(request)
    if job.preview is None:
        raise Problem(404, f"job {job.id} has no preview now", 'ask for them: "previews": true')
    return Response(job.preview, media_type="image/png", headers={"Cache-Control": "no-store"})


def _job(request: Request) -> Job:
    job = desk_of(request).jobs.find(request.path_params["id"])
    if job is None:
        raise Problem(404, "there is no such job", "GET /v1/jobs lists the latest")
    return job


def job_facts(job: Job, dialect: Dialect) -> dict[str, Any]:
    """A job for programs; its error in the words of a dialect."""
    params = job.work.pictures
    return {
        "id": job.id,
        "status": job.status,
        "place": job.place,
        "model": job.work.checkpoint.name,
        "prompt": params[0].prompt,
        "seeds": [p.seed for p in params],
        "width": params[0].width,
        "height": params[0].height,
        "created": round(job.created, 3),
        "started": round(job.started, 3) or None,
        "finished": round(job.finished, 3) or None,
        "picture": job.current,
        "step": job.step,
        "steps": job.steps,
        "notices": job.notices,
        "error": native_error(job.error, dialect) if job.error else None,
        "pictures": [picture_facts(job, p) for p in job.pictures],
        "events": f"/v1/jobs/{job.id}/events",
    }


def picture_facts(job: Job, finished: Finished, *, with_file: bool = False) -> dict[str, Any]:
    """A finished picture for programs."""
    url = f"/v1/jobs/{job.id}/pictures/{finished.index}.{finished.suffix}" if job.keep else None
    file = {finished.suffix: base64.b64encode(finished.read()).decode()} if with_file else {}
    return {"index": finished.index, "url": url, **finished.facts, **file}


def event_stream(
    request: Request, job: Job, *, with_file: bool, cancels: bool
) -> StreamingResponse:
    """Server-sent events of a job; `cancels`: closing the connection cancels it."""
    desk, dialect = desk_of(request), dialect_of(request.scope)

    async def lines() -> AsyncIterator[bytes]:
        happened = job.events()
        waiting: asyncio.Future[Event] | None = None
        try:
            while True:
                waiting = asyncio.ensure_future(anext(happened))
                while not (await asyncio.wait([waiting], timeout=_PING_SECONDS))[0]:
                    yield b": still here\n\n"
                event = waiting.result()
                data = await asyncio.to_thread(_data, job, event, dialect, with_file=with_file)
                yield f"event: {event.name}\ndata: {json_text(data)}\n\n".encode()
        except StopAsyncIteration:
            return
        finally:
            if waiting is not None:
                waiting.cancel()
            if cancels and not job.is_over:
                desk.cancel(job)

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Sana-Job": job.id}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


def _data(job: Job, event: Event, dialect: Dialect, *, with_file: bool) -> Mapping[str, Any]:
    if event.name == "queued":
        return {"id": job.id, "seeds": [p.seed for p in job.work.pictures], **event.data}
    if event.name == "preview":
        return {**event.data, "png": base64.b64encode(event.data["png"]).decode()}
    if event.name == "picture":
        return picture_facts(job, event.data["picture"], with_file=with_file)
    if "error" in event.data:
        return {**event.data, "error": native_error(event.data["error"], dialect)}
    return event.data


ROUTES = [
    Route("/v1/jobs", create, methods=["POST"]),
    Route("/v1/jobs", list_jobs, methods=["GET"]),
    Route("/v1/jobs/check", check, methods=["POST"]),
    Route("/v1/jobs/{id}", show, methods=["GET"]),
    Route("/v1/jobs/{id}", cancel, methods=["DELETE"]),
    Route("/v1/jobs/{id}/events", events, methods=["GET"]),
    Route("/v1/jobs/{id}/pictures/{number:int}.{suffix}", picture, methods=["GET"]),
    Route("/v1/jobs/{id}/preview.png", preview, methods=["GET"]),
]
