"""OpenAI's images API: `/v1/images/generations`, `/v1/images/edits` and `/v1/models`.

`seed`, `steps`, `guidance_scale`, `negative_prompt` and every other option of the native API are plain extra fields.
Fields of OpenAI's that have no meaning here (quality, style, user, ...) are taken and ignored, as its clients send them.
"""

import base64
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sana_cli.config.choices import parse_size
from sana_cli.config.generation import FIELDS, FILES, GenerationOptions
from sana_cli.errors import SanaError
from sana_cli.remote.wire import NOT_ASKED
from sana_cli.server.desk import Desk, Wanted
from sana_cli.server.forms import read_form
from sana_cli.server.jobs import Finished, Job
from sana_cli.server.problems import Problem, json_text, sentence, validation_problem
from sana_cli.server.requests import client_of, desk_of, is_own, json_body, wait_for
from sana_cli.server.schema import job_request

_HOSTED = (
    "dall-e-2",
    "dall-e-3",
    "gpt-image-1",
    "gpt-image-1-mini",
    "gpt-image-1.5",
    "chatgpt-image-latest",
)
OUR_FIELDS = [
    n for n in FIELDS
    if n not in (*NOT_ASKED, *FILES, "prompt", "model", "count", "width", "height", "format", "quality")
]  # fmt: skip


class ImageRequest(msgspec.Struct, kw_only=True):
    """The fields of OpenAI's that mean something here."""

    prompt: str
    model: str | None = None
    n: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    size: str | None = None
    response_format: str | None = None
    output_format: str | None = None
    background: str | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Meta(ge=0, le=3)] | None = None
    width: int | None = None
    height: int | None = None


async def generate(request: Request) -> Response:
    """POST /v1/images/generations"""
    raw = await json_body(request)
    try:
        asked = msgspec.json.decode(raw, type=ImageRequest)
        extra = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise validation_problem(str(error)) from error
    said = {name: extra[name] for name in OUR_FIELDS if name in extra}
    return await _answer(request, asked, _extra(said), files={}, kind="image_generation")


async def edit(request: Request) -> Response:
    """POST /v1/images/edits, as a form: `image`, and `mask` whose transparent parts are redrawn."""
    form = await read_form(request)
    try:
        asked = msgspec.convert(form.texts, type=ImageRequest, strict=False)
    except msgspec.ValidationError as error:
        raise validation_problem(str(error)) from error
    if "image" not in form.files:
        raise Problem(400, "there is no image", "send the file as `image`", param="image")
    files = dict(form.files)
    if "mask" in files:
        from sana_cli.server.masks import redrawn_where_transparent

        files["mask"] = await redrawn_where_transparent(*files["mask"])
    said = {name: form.texts[name].encode() for name in OUR_FIELDS if name in form.texts}
    quoted = {k: v if _is_json(k, v) else msgspec.json.encode(v.decode()) for k, v in said.items()}
    return await _answer(request, asked, _extra(quoted), files=files, kind="image_edit")


def _is_json(name: str, value: bytes) -> bool:
    """Check whether a form's text is a JSON number or word; other texts, and those of text fields, are strings."""
    try:
        found = msgspec.json.decode(value)
    except msgspec.DecodeError:
        return False
    return found is None or not (
        FIELDS[name].value == "text" or isinstance(found, str | dict | list)
    )


def _extra(said: dict[str, Any]) -> dict[str, Any]:
    """Our own options among the fields. Raises Problem."""
    raw = b"{%s}" % b",".join(b'"%s":%s' % (k.encode(), bytes(v)) for k, v in said.items())
    try:
        body = msgspec.json.decode(raw, type=job_request())
    except msgspec.DecodeError as error:
        raise validation_problem(str(error)) from error
    return {name: getattr(body, name) for name in OUR_FIELDS}


async def _answer(
    request: Request, asked: ImageRequest, extra: dict[str, Any], *,
    files: dict[str, tuple[str, bytes]], kind: str,
) -> Response:  # fmt: skip
    desk = desk_of(request)
    _require_png(asked)
    width, height = _sides(asked)
    model = None if asked.model in _HOSTED else asked.model
    options = GenerationOptions.of(
        prompt=asked.prompt, model=model, count=asked.n, width=width, height=height, **extra
    )
    streams = bool(asked.stream)
    partial = asked.partial_images or 0
    wanted = Wanted(
        options=options, client=client_of(request), dialect="openai", files=files,
        keep=not streams, previews=streams and partial > 0,
        is_own=is_own(request),
    )  # fmt: skip
    job = await desk.submit(wanted)
    if streams:
        return _stream(desk, job, kind, partial)
    await wait_for(request, job)
    if job.error is not None:
        raise Problem.of(job.error)
    if job.status != "done":
        raise Problem(409, "the request was cancelled", "send it again")
    data = [_item(request, job, picture, asked.response_format) for picture in job.pictures]
    return JSONResponse(
        {"created": int(job.created), "output_format": "png", "size": _size(job), "data": data},
        headers={"X-Sana-Job": job.id},
    )


def _require_png(asked: ImageRequest) -> None:
    for name, value, known in (
        ("response_format", asked.response_format, ("b64_json", "url")),
        ("output_format", asked.output_format, ("png",)),
        ("background", asked.background, ("auto", "opaque")),
    ):
        if value is not None and value not in known:
            raise Problem(
                400, f"{name} cannot be {value[:40]!r}", f"use {' or '.join(known)}", param=name
            )


def _sides(asked: ImageRequest) -> tuple[int | None, int | None]:
    if asked.size in (None, "auto"):
        return asked.width, asked.height
    try:
        return parse_size(str(asked.size))
    except SanaError as error:
        problem = Problem.of(error)
        problem.param = "size"
        raise problem from error


def _size(job: Job) -> str:
    first = job.work.pictures[0]
    return f"{first.width}x{first.height}"


def _item(request: Request, job: Job, picture: Finished, wish: str | None) -> dict[str, Any]:
    facts = {"seed": picture.facts["seed"], "revised_prompt": None}
    if wish == "url":
        url = f"{request.base_url}v1/jobs/{job.id}/pictures/{picture.index}.png"
        return {"url": url, **facts}
    return {"b64_json": base64.b64encode(picture.read()).decode(), **facts}


def _stream(desk: Desk, job: Job, kind: str, partial: int) -> StreamingResponse:
    """OpenAI's events: partial images, and one `completed` for each picture."""

    async def lines() -> AsyncIterator[bytes]:
        sent = 0
        try:
            async for event in job.events():
                if (
                    event.name == "preview"
                    and sent < partial
                    and event.data["step"] < event.data["steps"]
                ):
                    due = (sent + 1) / (partial + 1)
                    if event.data["step"] / event.data["steps"] >= due:
                        yield _event(
                            job,
                            f"{kind}.partial_image",
                            event.data["png"],
                            partial_image_index=sent,
                        )
                        sent += 1
                elif event.name == "picture":
                    done = event.data["picture"]
                    yield _event(
                        job, f"{kind}.completed", done.read(), seed=done.facts["seed"], usage=_USAGE
                    )
                    sent = 0
                elif event.data.get("error") is not None:
                    problem = Problem.of(event.data["error"])
                    body = {
                        "type": "error",
                        "error": {"message": sentence(problem), "code": problem.code or None},
                    }
                    yield f"event: error\ndata: {json_text(body)}\n\n".encode()
        finally:
            if not job.is_over:
                desk.cancel(job)

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Sana-Job": job.id}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


_USAGE = {
    "input_tokens": 0, "output_tokens": 0, "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}  # fmt: skip


def _event(job: Job, name: str, png: bytes, **more: Any) -> bytes:
    body = {
        "type": name, "b64_json": base64.b64encode(png).decode(), "created_at": int(job.created),
        "size": _size(job), "quality": "auto", "background": "opaque", "output_format": "png", **more,
    }  # fmt: skip
    return f"event: {name}\ndata: {json_text(body)}\n\n".encode()


async def models(request: Request) -> Response:
    """GET /v1/models"""
    return JSONResponse(
        {"object": "list", "data": [_model(m) for m in desk_of(request).models.names()]}
    )


async def model(request: Request) -> Response:
    """GET /v1/models/NAME"""
    name = request.path_params["name"]
    for served in desk_of(request).models.names():
        if served.name == name:
            return JSONResponse(_model(served))
    raise Problem(
        404,
        f"this server has no model {name[:80]!r}",
        "GET /v1/models lists them",
        code="model_not_found",
    )


def _model(served: Any) -> dict[str, Any]:
    return {"id": served.name, "object": "model", "created": served.created, "owned_by": "sana"}


ROUTES = [
    Route("/v1/images/generations", generate, methods=["POST"]),
    Route("/v1/images/edits", edit, methods=["POST"]),
    Route("/v1/models", models, methods=["GET"]),
    Route("/v1/models/{name:path}", model, methods=["GET"]),
]
