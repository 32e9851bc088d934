"""Download a single published file, and keep it only if it is the published one."""

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sana_cli import __version__
from sana_cli.checkpoints.obtaining import Access
from sana_cli.errors import ExitCode, SanaError
from sana_cli.files import new_file

if TYPE_CHECKING:
    from urllib.error import URLError

_CHUNK = 2**18  # bytes
_TIMEOUT_S = 30.0
_LARGEST = 64 * 2**20  # bytes of a single file


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFile:
    """A file at an address; its content by git's name (`blob_id`) or its SHA-256."""

    what: str  # in messages
    source: str
    name: str
    size: int  # bytes, approximately
    blob_id: str = ""
    sha256: str = ""

    def is_in(self, content: bytes) -> bool:
        """Return whether this is the published content."""
        if self.sha256:
            return hashlib.sha256(content).hexdigest() == self.sha256
        return git_blob_id(content) == self.blob_id


def download(published: PublishedFile, path: Path, access: Access) -> None:
    """Download a file to `path`. SanaError (environment) where that fails; nothing is kept then."""
    from http.client import HTTPException  # 30 ms with what it imports, where torch is not
    from urllib.error import HTTPError, URLError

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        content = _received(published, access)
    except (URLError, OSError, HTTPException) as error:
        message = f"cannot download {published.what}: {getattr(error, 'reason', error)}"
        hint = f"put it there yourself: curl -L -o {path} {published.source}"
        if isinstance(error, URLError) and not isinstance(error, HTTPError):
            message, retry = _unreachable(published.source, error)
            hint = f"{retry}, or {hint}"
        raise SanaError(message, hint=hint, code=ExitCode.ENVIRONMENT) from error
    if not published.is_in(content):
        raise SanaError(
            f"{published.source} is not the published file: its content has another digest",
            hint="a proxy may have answered in its place; nothing was kept",
            code=ExitCode.ENVIRONMENT,
        )
    with new_file(path, overwrite=True) as file:
        file.write(content)


def _unreachable(source: str, error: "URLError") -> tuple[str, str]:
    from urllib.parse import urlsplit

    from sana_cli.checkpoints.hub_errors import unreachable  # 0.2 s

    address = urlsplit(source)
    reason = error.reason if isinstance(error.reason, BaseException) else error
    return unreachable(f"{address.scheme}://{address.netloc}", reason)


def _received(published: PublishedFile, access: Access) -> bytes:
    from urllib.request import Request, urlopen

    request = Request(published.source, headers={"User-Agent": f"sana/{__version__}"})
    progress = access.progress or (lambda *_: None)
    found = bytearray()
    with contextlib.closing(urlopen(request, timeout=_TIMEOUT_S)) as answer:
        while chunk := answer.read(_CHUNK):
            found += chunk
            if len(found) > _LARGEST:
                raise OSError("the answer is longer than the file")
            progress(published.name, len(found), max(published.size, len(found)))
    return bytes(found)


def git_blob_id(content: bytes) -> str:
    """The name that git gives a file's content, which a commit pins."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
