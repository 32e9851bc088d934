"""multipart/form-data, as OpenAI's clients send files: texts and files by the names of their fields."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from sana_cli.server.problems import Problem
from sana_cli.server.uploads import not_kept

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
        async with _parsed(request) as form:
            for name, value in form.multi_items():
                name = _text(name, "the name of a field").removesuffix("[]")
                if name in texts or name in files:
                    raise Problem(
                        400, f"{name[:80]} is said twice", f"send one {name[:80]}", param=name[:80]
                    )
                if isinstance(value, UploadFile):
                    file_name = _text(value.filename or "", f"the file name of {name[:80]}")
                    files[name] = file_name, await value.read()
                else:
                    texts[name] = _text(value, name[:80])
    except OSError as error:  # large files are spooled to the disk
        raise Problem.of(not_kept(error)) from error
    except (MultiPartException, HTTPException, LookupError, UnicodeError) as error:
        said = getattr(error, "detail", None) or getattr(error, "message", None) or "it is damaged"
        raise Problem(
            400, f"the form cannot be read: {said.rstrip('.')}", "send multipart/form-data"
        ) from error
    except ClientDisconnect as error:
        raise Problem(400, "the connection ended within the body") from error
    return Form(texts=texts, files=files)


@asynccontextmanager
async def _parsed(request: Request) -> AsyncIterator[FormData]:
    """The form, with every byte of a text as one character: the parser would guess at an encoding, `_text` does not."""
    kind = re.sub(r";\s*charset\s*=[^;]*", "", request.headers["content-type"], flags=re.IGNORECASE)
    parser = MultiPartParser(
        Headers({"content-type": f"{kind}; charset=latin-1"}), request.stream(),
        max_files=_MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=_LONGEST_TEXT,
    )  # fmt: skip
    form = await parser.parse()
    try:
        yield form
    finally:
        await form.close()


def _text(value: str, what: str) -> str:
    """A text of a form. Raises Problem where it is not UTF-8."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError as error:
        what = what.encode(errors="replace").decode()
        raise Problem(400, f"{what} is not UTF-8", "send text in UTF-8", param=what) from error
