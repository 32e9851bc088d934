"""The page at `/`, as files of the package: no build step, and nothing of another host."""

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sana_cli.server.problems import Problem

_KINDS = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_HEADERS = {
    # Pictures that are shown are blobs, and previews and chosen files data URLs; all else comes from this server.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


async def page(request: Request) -> Response:
    """GET /"""
    return _file("index.html")


async def part(request: Request) -> Response:
    """GET /page/NAME: what the page is made of."""
    return _file(request.path_params["name"])


def _file(name: str) -> Response:
    if name not in _KINDS:  # a fixed list: no path of a request reaches the disk
        raise Problem(404, "the page has no such part", "open /")
    content = files("sana_cli.server").joinpath("web", name).read_bytes()
    return Response(content, headers={**_HEADERS, "Content-Type": _KINDS[name]})


async def icon(request: Request) -> Response:
    """GET /favicon.ico, which browsers ask for unasked."""
    return _file("icon.svg")


ROUTES = [
    Route("/", page, methods=["GET"]),
    Route("/page/{name}", part, methods=["GET"]),
    Route("/favicon.ico", icon, methods=["GET"]),
]
