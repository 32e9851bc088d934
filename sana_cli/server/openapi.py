"""The OpenAPI document of the server, at `/openapi.json`: its schemas are those that decode the requests."""

from functools import cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sana_cli import __version__
from sana_cli.config.generation import FILES
from sana_cli.server.a1111 import Img2Img, PngInfo, Txt2Img
from sana_cli.server.openai import OUR_FIELDS, ImageRequest
from sana_cli.server.schema import job_request

_REF = "#/components/schemas/{name}"
_ERRORS = {
    400: "refused: what cannot be drawn", 401: "a key is needed", 403: "a page of another origin",
    404: "there is none", 405: "another method", 408: "the body came too slowly", 409: "cancelled",
    413: "the body is too large", 415: "another kind of body", 421: "another host name",
    422: "refused: what is not known", 429: "too many requests wait", 503: "the server ends",
}  # fmt: skip


@cache
def document() -> dict[str, Any]:
    """Make the document."""
    job = job_request()
    kinds = (job, Txt2Img, Img2Img, PngInfo, ImageRequest)
    refs, schemas = msgspec.json.schema_components(kinds, ref_template=_REF)
    named = dict(zip(("job", "txt2img", "img2img", "png", "image"), refs, strict=True))
    own = schemas["JobRequest"]["properties"]
    schemas["ImageRequest"]["properties"] |= {name: own[name] for name in OUR_FIELDS}
    form = {
        **schemas["ImageRequest"]["properties"],
        **{name: {"type": "string", "format": "binary"} for name in FILES},
    }
    schemas["ImageForm"] = {"type": "object", "properties": form, "required": ["prompt", "image"]}
    paths = {
        "/v1/jobs": {
            "post": _operation("Make a job", named["job"], answers={200: "its events", 202: "the job"}),
            "get": _operation("List jobs"),
        },
        "/v1/jobs/check": {"post": _operation("Show what would be drawn", named["job"])},
        "/v1/jobs/{id}": {
            "get": _operation("Show a job", at=("id",)),
            "delete": _operation("Cancel a job", at=("id",), answers={200: "it was over", 202: "it ends"}),
        },
        "/v1/jobs/{id}/events": {"get": _operation("Follow a job", at=("id",))},
        "/v1/jobs/{id}/preview.png": {"get": _operation("Look at a running picture", at=("id",))},
        "/v1/jobs/{id}/pictures/{number}.png": {
            "get": _operation("Get a picture", at=("id", "number"))
        },
        "/v1/status": {"get": _operation("Show what the server does")},
        "/v1/models": {"get": _operation("List models")},
        "/v1/models/{name}": {"get": _operation("Show a model", at=("name",))},
        "/v1/images/generations": {"post": _operation("Draw", named["image"])},
        "/v1/images/edits": {
            "post": _operation("Redraw", {"$ref": _REF.format(name="ImageForm")}, kind="multipart/form-data")
        },
        "/sdapi/v1/txt2img": {"post": _operation("Draw", named["txt2img"])},
        "/sdapi/v1/img2img": {"post": _operation("Redraw", named["img2img"])},
        "/sdapi/v1/png-info": {"post": _operation("Read settings", named["png"])},
        "/sdapi/v1/progress": {"get": _operation("Show progress")},
        "/sdapi/v1/interrupt": {"post": _operation("Stop the running picture")},
        "/sdapi/v1/sd-models": {"get": _operation("List models")},
        "/sdapi/v1/samplers": {"get": _operation("List samplers")},
        "/sdapi/v1/options": {
            "get": _operation("Show options"),
            "post": _operation("Choose the model", {"type": "object"}),
        },
        "/healthz": {"get": _operation("Show whether requests are taken")},
        "/metrics": {"get": _operation("Show numbers for Prometheus")},
    }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "sana", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(
    summary: str, body: dict[str, Any] | None = None, *, kind: str = "application/json",
    at: tuple[str, ...] = (), answers: dict[int, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    told = {**(answers or {200: "done"}), **_ERRORS}
    found: dict[str, Any] = {
        "summary": summary,
        "responses": {str(status): {"description": words} for status, words in told.items()},
    }
    if body is not None:
        found["requestBody"] = {"required": True, "content": {kind: {"schema": body}}}
    if at:
        found["parameters"] = [
            {
                "name": name, "in": "path", "required": True,
                "schema": {"type": "integer", "minimum": 0} if name == "number" else {"type": "string"},
            }
            for name in at
        ]  # fmt: skip
    return found


async def openapi(request: Request) -> Response:
    """GET /openapi.json"""
    return JSONResponse(document())


ROUTES = [Route("/openapi.json", openapi, methods=["GET"])]
