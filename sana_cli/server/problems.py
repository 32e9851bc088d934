"""Errors on their way to a client: which HTTP status they are, and how each dialect words them."""

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from starlette.responses import JSONResponse, Response

from sana_cli.config.generation import FIELDS
from sana_cli.errors import ExitCode, SanaError
from sana_cli.remote.wire import NOT_ASKED
from sana_cli.server.served_models import NoSuchModel
from sana_cli.system.redact import without_secrets
from sana_cli.text import closest, in_sentences

Dialect = Literal["native", "openai", "a1111"]
STATUS_OF = {
    ExitCode.USAGE: 400, ExitCode.REFUSED: 400, ExitCode.ENVIRONMENT: 503, ExitCode.CHECKPOINT: 503,
    ExitCode.INTERRUPTED: 409,
}  # fmt: skip
_ALL_FIELDS = "look at /openapi.json"
_FLAGS = {
    flag: field.name
    for field in FIELDS.values()
    for flags in field.option.flags
    for flag in flags.split("/")
    if flag.startswith("--")
}


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


def dialect_of(path: str) -> Dialect:
    """The dialect that a path belongs to."""
    if path.startswith("/sdapi/"):
        return "a1111"
    return "openai" if path.startswith(("/v1/images/", "/v1/models")) else "native"


def answer(problem: Problem, dialect: Dialect) -> Response:
    """The problem as the clients of a dialect expect it."""
    return JSONResponse(
        _BODIES[dialect](problem), status_code=problem.status, headers=problem.headers
    )


def native_error(error: SanaError) -> dict[str, Any]:
    """An error within an event or a job: the command's exit code, and its words."""
    return {"code": int(error.code), "message": error.message, "hint": error.hint}


def _native(problem: Problem) -> dict[str, Any]:
    code = problem.exit_code if problem.exit_code is not None else int(_exit_code(problem.status))
    return {"error": {"code": code, "message": problem.message, "hint": problem.hint}}


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
    return {"error": name, "detail": sentence(problem), "body": "", "errors": problem.message}


_BODIES = {"native": _native, "openai": _openai, "a1111": _a1111}


def sentence(problem: Problem) -> str:
    """Message and hint in one text, with fields in place of the command's flags."""
    return in_fields(without_secrets(in_sentences(problem.message, problem.hint)))


def in_fields(text: str) -> str:
    """Name fields where the command names flags: `--guidance` is `guidance_scale`."""
    return re.sub(r"--[a-z][a-z-]*", lambda found: _FLAGS.get(found[0], found[0]), text)


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
    if plain == "size":  # of the command and of OpenAI's interface
        return "width and height"
    field = _FLAGS.get(f"--{plain.replace('_', '-')}")
    if field in NOT_ASKED or plain in NOT_ASKED:
        return ""
    return field or closest(plain, FIELDS.keys() - NOT_ASKED) or ""


def json_text(document: object) -> str:
    """JSON of what we send; numbers are finite."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
