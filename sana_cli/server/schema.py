"""The body of a native request, made of the one table of options: a new option is a new field here."""

from functools import cache
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sana_cli.config.decoders import DECODERS, FULL
from sana_cli.config.generation import FIELDS, FILES, Field, GenerationOptions
from sana_cli.remote.wire import NOT_ASKED

_INT64 = 2**63 - 1
_HELP = {
    "prompt": "What to draw.",
    "template": "The text whose choices made the prompt; stored with the picture.",
}


class Upload(msgspec.Struct, forbid_unknown_fields=True):
    """A file: its content in base64 or as a data URL, and the name that the finished picture stores."""

    data: str
    name: Annotated[str, Meta(max_length=4096)] = ""


def _type(field: Field, *, is_own: bool = False) -> Any:
    """The type of a field; `is_own`: without limits, whose errors the resolver words as the command does."""
    option = field.option
    if field.name in FILES:
        return Annotated[Upload | None, Meta(description=_help(field))]
    kinds: dict[str, Any] = {
        "text": str, "whole number": int, "number": float, "true or false": bool, "texts": list[str],
    }  # fmt: skip
    kind: Any = str | int | float if field.takes_numbers else kinds[field.value]
    choices = (FULL, *DECODERS) if field.name == "decoder" else tuple(option.choices or ())
    if choices and not is_own:  # a decoder of a folder or the hub is the user's own to name
        kind = Literal[tuple(map(str, choices))]
    limits: dict[str, Any] = {}
    if option.limits and not is_own:
        low, high = option.limits
        limits["ge"] = low
        if high <= _INT64:
            limits["le"] = high
        else:
            limits["extra_json_schema"] = {"maximum": high}
    elif field.name == "prompt":
        limits["extra_json_schema"] = {"minLength": 1}
    kind = Annotated[kind, Meta(**limits)] if limits else kind
    return Annotated[kind | None, Meta(description=_help(field))]


def _help(field: Field) -> str:
    return field.option.help or _HELP.get(field.name, field.word)


OWN_FIELDS: list[tuple[str, Any, Any]] = [
    ("stream", Annotated[bool, Meta(description="Answer with server-sent events; closing the connection cancels.")], False),
    ("previews", Annotated[bool, Meta(description="Send pictures of what is not finished, too.")], False),
    ("preview_every", Annotated[int, Meta(ge=1, le=1000, description="Steps from one preview to the next.")] | None, None),
    ("keep", Annotated[bool, Meta(description="Keep the pictures in the gallery; false: only in the events.")], True),
]  # fmt: skip


@cache
def job_request(*, is_own: bool = False) -> Any:
    """The struct of `POST /v1/jobs`; `is_own`: from the user's own command, whose options are checked when resolved."""
    fields: list[Any] = [
        (field.name, _type(field, is_own=is_own), None)
        for field in FIELDS.values()
        if field.name not in NOT_ASKED
    ]
    return msgspec.defstruct(
        "JobRequest", [*fields, *OWN_FIELDS], forbid_unknown_fields=True, kw_only=True
    )


def options_of(body: Any) -> GenerationOptions:
    """The options that a decoded request sets; its files are not among them."""
    names = [n for n in FIELDS if n not in FILES]
    return GenerationOptions.of(**{name: getattr(body, name, None) for name in names})
