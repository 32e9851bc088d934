"""multipart/form-data, as OpenAI's clients send files: texts and files by the names of their fields."""

from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from sana_cli.server.problems import Problem

_MOST_FIELDS, _MOST_FILES = 100, 4
_LONGEST_TEXT = 2**20  # bytes of a field


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The fields of a form."""

    texts: dict[str, str]
    files: dict[str, tuple[str, bytes]]  # name of the file, content


async def read_form(request: Request) -> Form:
    """Read a form. `image[]` is `image`. Raises Problem for anything else."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Problem(415, "the body is no form", "send multipart/form-data")
    texts: dict[str, str] = {}
    files: dict[str, tuple[str, bytes]] = {}
    try:
        parsing = request.form(
            max_files=_MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=_LONGEST_TEXT
        )
        async with parsing as form:
            for name, value in form.multi_items():
                name = name.removesuffix("[]")
                if name in texts or name in files:
                    raise Problem(
                        400, f"{name[:80]} is said twice", f"send one {name[:80]}", param=name[:80]
                    )
                if isinstance(value, UploadFile):
                    files[name] = value.filename or "", await value.read()
                else:
                    texts[name] = value
    except (MultiPartException, HTTPException, KeyError, UnicodeDecodeError) as error:
        said = getattr(error, "detail", None) or getattr(error, "message", None) or "it is damaged"
        raise Problem(
            400, f"the form cannot be read: {said}", "send multipart/form-data"
        ) from error
    except ClientDisconnect as error:
        raise Problem(400, "the connection ended within the body") from error
    return Form(texts=texts, files=files)
