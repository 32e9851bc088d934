"""Errors on their way to a client: which HTTP status they are, and how each dialect words them."""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from sana_cli.config.generation import FIELDS, FLAGS
from sana_cli.errors import ExitCode, SanaError
from sana_cli.remote.wire import COMMANDS_AGENT, NOT_ASKED
from sana_cli.server.served_models import NoSuchModel
from sana_cli.system.redact import without_secrets
from sana_cli.text import closest, in_sentences

Dialect = Literal["command", "native", "openai", "a1111"]  # command: native, of `sana generate`
STATUS_OF = {
    ExitCode.USAGE: 400, ExitCode.REFUSED: 400, ExitCode.ENVIRONMENT: 503, ExitCode.CHECKPOINT: 503,
    ExitCode.INTERRUPTED: 409,
}  # fmt: skip
_ALL_FIELDS = "look at /openapi.json"
_NAMES = {"--size": "width and height"} | {flag: field.name for flag, field in FLAGS.items()}


class Problem(Exception):
    """A refused request: an error, its HTTP status, and headers that go with it."""

    def __init__(
        self, status: int, message: str, hint: str = "", *, code: str = "", param: str | None = None,
        headers: Mapping[str, str] | None = None, exit_code: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint
        self.code, self.param, self.headers = code, param, dict(headers or {})
        self.exit_code = exit_code

    @classmethod
    def of(cls, error: SanaError) -> "Problem":
        """An error of sana. Its words are kept; `in_fields` writes flags as fields."""
        status = 404 if isinstance(error, NoSuchModel) else STATUS_OF.get(error.code, 500)
        code = {ExitCode.REFUSED: "content_policy_violation"}.get(error.code, "")
        return cls(
            status, error.message, error.hint,
            code="model_not_found" if isinstance(error, NoSuchModel) else code,
            exit_code=int(error.code),
        )  # fmt: skip


def dialect_of(scope: Scope) -> Dialect:
    """The dialect of a request: by its path, and by whether `sana generate` sends it, which shows errors as its own."""
    path = scope["path"]
    if path.startswith("/sdapi/"):
        return "a1111"
    if path.startswith(("/v1/images/", "/v1/models")):
        return "openai"
    is_command = Headers(scope=scope).get("user-agent", "").startswith(COMMANDS_AGENT)
    return "command" if is_command else "native"


def answer(problem: Problem, dialect: Dialect) -> Response:
    """The problem as the clients of a dialect expect it."""
    return JSONResponse(
        _BODIES[dialect](problem), status_code=problem.status, headers=problem.headers
    )


def native_error(error: SanaError, dialect: Dialect) -> dict[str, Any]:
    """An error within an event or a job: the command's exit code, and its words."""
    return _in_words(int(error.code), error.message, error.hint, dialect)


def _native(problem: Problem, dialect: Dialect) -> dict[str, Any]:
    code = problem.exit_code if problem.exit_code is not None else int(_exit_code(problem.status))
    return {"error": _in_words(code, problem.message, problem.hint, dialect)}


def _in_words(code: int, message: str, hint: str, dialect: Dialect) -> dict[str, Any]:
    if dialect != "command":
        message, hint = in_fields(message), in_fields(hint)
    return {"code": code, "message": message, "hint": hint}


def _exit_code(status: int) -> ExitCode:
    return ExitCode.USAGE if status < 500 and status != 429 else ExitCode.ENVIRONMENT


def _openai(problem: Problem) -> dict[str, Any]:
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    usual = "invalid_request_error" if problem.status < 500 else "server_error"
    return {
        "error": {
            "message": sentence(problem),
            "type": kinds.get(problem.status, usual),
            "param": problem.param,
            "code": problem.code or None,
        }
    }


def _a1111(problem: Problem) -> dict[str, Any]:
    name = {404: "NotFound", 422: "ValidationError"}.get(problem.status, "HTTPException")
    return {
        "error": name,
        "detail": sentence(problem),
        "body": "",
        "errors": in_fields(problem.message),
    }


_BODIES: Mapping[Dialect, Callable[[Problem], dict[str, Any]]] = {
    "command": partial(_native, dialect="command"), "native": partial(_native, dialect="native"),
    "openai": _openai, "a1111": _a1111,
}  # fmt: skip


def sentence(problem: Problem) -> str:
    """Message and hint in one text, with fields in place of the command's flags."""
    return in_fields(without_secrets(in_sentences(problem.message, problem.hint)))


def in_fields(text: str) -> str:
    """Name fields where the command names flags: `--guidance` is `guidance_scale`. Whole commands, in backticks, stay."""
    return re.sub(r"`[^`]*`|--[a-z][a-z-]*", lambda found: _NAMES.get(found[0], found[0]), text)


def validation_problem(message: str) -> Problem:
    """Translate what msgspec says of a body, with the field in front."""
    message, _, where = message.partition(" - at ")
    field = where.strip("`").removeprefix("$.").removeprefix("$")
    unknown = re.search(r"unknown field `(.*)`", message)
    param = field or (unknown[1] if unknown else None)
    words = f"{field}: {message[:1].lower()}{message[1:]}" if field else message
    meant = _meant(unknown[1]) if unknown and not field else ""
    hint = f"did you mean {meant}? /openapi.json lists all fields" if meant else _ALL_FIELDS
    return Problem(400, words.replace("`", ""), hint, param=param)


def _meant(name: str) -> str:
    """Return the field that an unknown one is likely to be: by the command's flag, else by its letters; "" for none."""
    plain = name.strip().casefold().replace("-", "_")
    field = _NAMES.get(f"--{plain.replace('_', '-')}")
    if field in NOT_ASKED or plain in NOT_ASKED:
        return ""
    return field or closest(plain, FIELDS.keys() - NOT_ASKED) or ""


def json_text(document: object) -> str:
    """JSON of what we send; numbers are finite."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
