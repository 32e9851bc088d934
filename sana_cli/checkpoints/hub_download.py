"""Ask a hub what a repo holds, and receive its files into the hub's cache.

huggingface_hub gives the session, the headers and the errors. Three things are ours, for it trusts its hub: every path
is made of checked digests (`hub_files`), no more bytes are taken than were announced, and content is kept only if it
has its digest. Files arrive in `blobs/DIGEST.sana.incomplete`, which outlives the process: huggingface_hub (since
1.18) deletes what it had when a download breaks off, 5 GB of text encoder included.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from huggingface_hub import __version__ as huggingface_hub_version
from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    DeviceCodeError,
    HfHubHTTPError,
    HTTPError,  # the base of the transport's errors, whichever httpx huggingface_hub builds on
    OIDCError,
)
from huggingface_hub.utils import (
    WeakFileLock,
    get_session,
    hf_raise_for_status,
    validate_repo_id,
)
from huggingface_hub.utils import logging as hub_logging

from quant.files import read_small, replace_file
from sana_cli import __version__
from sana_cli.checkpoints.hub_answer import LARGEST_ANSWER, BadAnswer, Listing, parse_listing
from sana_cli.checkpoints.hub_environment import TOKENS, is_token
from sana_cli.checkpoints.hub_files import RemoteFile, RepoFolder, has_digest, is_sound
from sana_cli.errors import ExitCode, SanaError
from sana_cli.progress import Formatter
from sana_cli.system.redact import without_secrets

Progress = Callable[[str, int, int], None]  # file, bytes done, bytes in total

_LONGEST_TOKEN = 10_000  # bytes of its file
_CHUNK = 2**20  # bytes that are written at once
_TRIES = 5  # in a row that bring nothing
_PAUSE_S = 1.0  # before the next one
_RANGE_NOT_SATISFIABLE = 416


def list_repo(repo_id: str, revision: str | None) -> Listing:
    """List a repo's files at one commit. Raises BadAnswer, or huggingface_hub's errors (see `hub_errors`)."""
    validate_repo_id(repo_id)
    url = f"{constants.ENDPOINT}/api/models/{repo_id}"
    if revision is not None:
        url += f"/revision/{quote(revision, safe='')}"
    with _stream(f"{url}?blobs=true", timeout=constants.HF_HUB_ETAG_TIMEOUT) as response:
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > LARGEST_ANSWER:
                raise BadAnswer(f"its answer is larger than {LARGEST_ANSWER:,} bytes")
    return parse_listing(bytes(body))


def read_piece(repo_id: str, revision: str, name: str, start: int, count: int) -> bytes:
    """Read at most `count` bytes of a file from `start`; a server without ranges also sends what
    precedes them.
    """
    if not count:
        return b""
    url = f"{constants.ENDPOINT}/{repo_id}/resolve/{quote(revision, safe='')}/{quote(name)}"
    headers = {"Range": f"bytes={start}-{start + count - 1}"}
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with _stream(url, timeout=timeout, headers=headers) as response:
        skipped = 0 if response.status_code == 206 else start
        received = bytearray()
        for chunk in response.iter_bytes():
            received += chunk
            if len(received) >= skipped + count:
                break
    return bytes(received[skipped : skipped + count])


def receive(
    repo_id: str, folder: RepoFolder, commit: str, file: RemoteFile, progress: Progress
) -> None:
    """Put a file into the cache and give it its name there, resuming what an earlier run left.

    Whatever has that name is replaced. SanaError if the content does not have its digest, twice.
    """
    folder.require_own_folders()
    blob, lock = folder.blob(file.digest), folder.lock(file.digest)
    for parent in (lock.parent, blob.parent):
        parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):  # so we also wait for other programs
        if not (blob.is_file() and is_sound(blob, file)):
            url = f"{constants.ENDPOINT}/{repo_id}/resolve/{commit}/{quote(file.name)}"
            _receive_blob(repo_id, folder, file, url, progress)
        folder.link(commit, file, symlinks=not constants.HF_HUB_DISABLE_SYMLINKS)
    if file.is_large:
        progress(file.name, file.size, file.size)


def _receive_blob(
    repo_id: str, folder: RepoFolder, file: RemoteFile, url: str, progress: Progress
) -> None:
    incomplete = folder.incomplete(file.digest)
    if not incomplete.is_file() or incomplete.is_symlink():
        incomplete.unlink(missing_ok=True)
        if (twin := find_twin(folder, file)) is not None:
            _link_or_copy(twin, incomplete)
    resumed = incomplete.exists()
    _receive_rest(repo_id, incomplete, file, url, progress)
    # Perhaps the old part was bad: once more without it.
    if not has_digest(incomplete, file) and resumed:
        incomplete.unlink()
        _receive_rest(repo_id, incomplete, file, url, progress)
    if not has_digest(incomplete, file):
        incomplete.unlink()
        _arrived_damaged(repo_id, file)
    replace_file(incomplete, folder.blob(file.digest))


def _receive_rest(
    repo_id: str, incomplete: Path, file: RemoteFile, url: str, progress: Progress
) -> None:
    """Append what is missing, trying again as long as that brings anything."""
    tries_without_progress = 0
    while (done := bytes_in(incomplete)) != file.size or not incomplete.exists():
        if done > file.size:
            incomplete.unlink()
            continue
        try:
            _append(repo_id, incomplete, file, url, progress)
        except HfHubHTTPError as error:
            if not done or error.response.status_code != _RANGE_NOT_SATISFIABLE:
                raise
            incomplete.unlink()
        except HTTPError as error:
            tries_without_progress = (
                tries_without_progress + 1 if bytes_in(incomplete) <= done else 0
            )
            if tries_without_progress > _TRIES or _is_refused(error):
                raise
            time.sleep(_PAUSE_S)


def _append(repo_id: str, incomplete: Path, file: RemoteFile, url: str, progress: Progress) -> None:
    done = bytes_in(incomplete)
    headers = {"Range": f"bytes={done}-"} if done else {}
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with _stream(url, timeout=timeout, headers=headers) as response, incomplete.open("ab") as out:
        if done and response.status_code != 206:  # this server sends it whole
            out.truncate(0)
            done = 0
        for chunk in response.iter_bytes(_CHUNK):
            done += len(chunk)
            if done > file.size:
                break
            out.write(chunk)
            if file.is_large:
                progress(file.name, done, file.size)
    if done != file.size:
        incomplete.unlink()
        raise SanaError(
            f"{without_secrets(constants.ENDPOINT)} sent {file.name} of {repo_id} with a length other than announced",
            hint="run the command again; if it repeats, look for a proxy in between",
            code=ExitCode.ENVIRONMENT,
        )


@contextlib.contextmanager
def _stream(url: str, *, timeout: float, headers: dict[str, str] | None = None) -> Iterator[Any]:
    """A response whose status is good. A redirect to another host does not take the token along: httpx sees to that."""
    session, sent = get_session(), _headers() | (headers or {})
    session.cookies.clear()  # none is of use, and a bad one breaks the next request
    try:
        with session.stream("GET", url, headers=sent, timeout=timeout) as response:
            _raise_for_status(response)
            yield response
    except UnicodeError as error:  # of a redirect's host
        raise BadAnswer("it redirects to what is no address") from error


def _raise_for_status(response: Any) -> None:
    """Raise huggingface_hub's error for a status, from status and headers alone: it would read a
    body of any size and shape.
    """
    if response.status_code < 400:
        return
    kept = {
        name: response.headers.get(name.decode(), "").encode("ascii", "replace")
        for name in (b"X-Error-Code", b"X-Error-Message")
    }
    hf_raise_for_status(
        type(response)(response.status_code, headers=kept, content=b"", request=response.request)
    )


def _headers() -> dict[str, str]:
    """Return our own headers: huggingface_hub asks the hub which programs to look for on this machine."""
    sent = {
        "User-Agent": f"sana/{__version__}; hf_hub/{huggingface_hub_version}",
        "Accept-Encoding": "identity",
    }
    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return sent
    try:
        if not any(os.environ.get(name) for name in TOKENS):
            # huggingface_hub reads pipes and devices, too.
            with contextlib.suppress(FileNotFoundError):
                read_small(Path(constants.HF_TOKEN_PATH), _LONGEST_TOKEN)
        token = get_token() or ""
    except (OIDCError, DeviceCodeError) as error:
        reason = without_secrets((str(error).splitlines() or ["no reason is given"])[0])
        raise SanaError(
            f"no access token: {reason}",
            hint="unset HF_OIDC_RESOURCE, or set HF_TOKEN",
            code=ExitCode.ENVIRONMENT,
        ) from error
    except NotADirectoryError:  # HF_HOME is a file, an error when something is written there
        return sent
    except (OSError, ValueError) as error:
        raise _bad_token(f"cannot be read: {getattr(error, 'strerror', '') or error}") from error
    if not is_token(token):
        raise _bad_token("holds characters that no access token has")
    return sent | ({"Authorization": f"Bearer {token}"} if token else {})


def _bad_token(reason: str) -> SanaError:
    return SanaError(
        f"the access token in {constants.HF_TOKEN_PATH} {reason}",
        hint="`hf auth login` writes a new one; or set HF_TOKEN",
        code=ExitCode.ENVIRONMENT,
    )


def _is_refused(error: Exception) -> bool:
    """Return whether another try cannot help: an address or a redirect that nobody can follow."""
    return type(error).__name__ in ("UnsupportedProtocol", "LocalProtocolError", "TooManyRedirects")


def bytes_in(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def find_twin(folder: RepoFolder, file: RemoteFile) -> Path | None:
    """Find the same content under another repo: all Sana models share a text encoder and a VAE."""
    for path in folder.path.parent.glob(f"models--*/blobs/{file.digest}"):
        if path.parent.parent != folder.path and path.is_file() and bytes_in(path) == file.size:
            return path.resolve()
    return None


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a filesystem without hard links
        shutil.copyfile(source, target)


def _arrived_damaged(repo_id: str, file: RemoteFile) -> NoReturn:
    raise SanaError(
        f"{file.name} of {repo_id} arrived damaged: its content does not have the hub's digest",
        hint="nothing bad was kept, so run the command again; if it repeats, a proxy or mirror"
        f" on the way to {without_secrets(constants.ENDPOINT)} alters the data",
        code=ExitCode.ENVIRONMENT,
    )


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Keep huggingface_hub's warnings (retries, missing token) out of our progress display."""
    for handler in hub_logging.get_logger().handlers:  # with HF_DEBUG it logs addresses
        handler.setFormatter(Formatter())
    before = hub_logging.get_verbosity()
    if before == hub_logging.WARNING:  # the default: someone who changed it wants to see more
        hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)
