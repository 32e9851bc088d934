"""Explain errors between us and a hub, each in one line with its remedy."""

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # the base of the transport's errors, whichever httpx huggingface_hub builds on
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sana_cli.checkpoints.hub_answer import BadAnswer
from sana_cli.checkpoints.hub_environment import cache_variable, proxies
from sana_cli.config.variants import suggest
from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.system.redact import without_secrets


@contextlib.contextmanager
def readable_errors(repo_id: str, revision: str | None, cache: Path) -> Iterator[None]:
    """Turn what huggingface_hub and the disk raise into a `SanaError`; `cache` is the hub's folder."""
    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        cause: BaseException | None = error
        while cause is not None:  # huggingface_hub wraps network errors in "not found locally"
            if (readable := _explain(cause, repo_id, revision, cache)) is not None:
                raise readable from error
            cause = cause.__cause__
        raise


def _explain(
    error: BaseException, repo: str, revision: str | None, cache: Path
) -> SanaError | None:
    """Specific before general: most of these classes are subclasses of one another."""
    hub = endpoint()
    code = ExitCode.ENVIRONMENT
    message = hint = ""
    match error:
        case HFValidationError():
            return no_repo(repo)
        case GatedRepoError():
            message = f"{repo} is gated: its owners hand it out on request"
            hint = f"ask for access at {hub}/{repo}, then set HF_TOKEN or run `hf auth login`"
        case RepositoryNotFoundError():
            code = ExitCode.USAGE
            message = f"there is no model {repo} on {hub}, or it is private"
            hint = _did_you_mean(repo) or "check the name; for a private repo set HF_TOKEN"
        case RevisionNotFoundError():
            code = ExitCode.USAGE
            message = f"{repo} has no revision {revision or constants.DEFAULT_REVISION!r}"
            hint = f"branches and tags are listed at {hub}/{repo}/tree/main"
        case RemoteEntryNotFoundError():
            code = ExitCode.CHECKPOINT
            message = f"{repo} lists {_last_part(error)} but {hub} does not have it"
            hint = "try again in a while, or choose another revision"
        case HfHubHTTPError():
            message, hint = _explain_status(error.response.status_code, repo)
        case BadAnswer():
            message = f"{hub} does not answer like a Hugging Face hub: {error}"
            hint = "check HF_ENDPOINT, and whether a proxy or login page stands in between"
        case HTTPError() if "Timeout" in type(error).__name__:
            message = f"{hub} did not answer in time"
            hint = "try again (downloads resume); HF_HUB_DOWNLOAD_TIMEOUT=60 waits longer"
        case HTTPError():
            message, hint = unreachable(hub, error)
            hint += " (downloads resume)"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            message = f"the disk of {cache} is full"
            hint = f"make room or set {cache_variable()} to a larger disk, then retry (downloads resume)"
        case OSError() if error.errno is not None:
            message = f"cannot use {error.filename or cache}: {error.strerror}"
            hint = f"set {cache_variable()} to a folder that you may write to"
        case _:
            return None
    return SanaError(message, hint=hint, code=code)


def unreachable(address: str, error: BaseException) -> tuple[str, str]:
    """Return message and hint for an address that no connection leads to."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    reason = re.sub(r"^\[Errno -?\d+\] ", "", reason)
    through = f" and the proxy in {next(iter(proxies()))}" if proxies() else ""
    return f"cannot reach {address}: {reason}", f"check the network{through} and retry"


def _explain_status(status: int, repo: str) -> tuple[str, str]:
    hub = endpoint()
    if status >= 500:
        return f"{hub} is out of order ({status})", "try again later"
    match status:
        case 401:
            return f"{hub} wants another access token for {repo}", "renew or unset HF_TOKEN"
        case 403:
            return f"{hub} refuses access to {repo}", "check that HF_TOKEN may read this repo"
        case 429:
            return f"{hub} asks to slow down", "wait some minutes; HF_TOKEN raises the limit"
    return f"{hub} answered {status} for {repo}", "try again; if it repeats, check HF_ENDPOINT"


def no_repo(repo: str) -> SanaError:
    """Return an error for a text that cannot name a model."""
    return usage_error(
        f"{repo!r} is neither a folder, nor a known model, nor a repo id like owner/name",
        _did_you_mean(repo) or "check the spelling of the model's name",
    )


def endpoint() -> str:
    """Return the hub's address without secrets."""
    return without_secrets(constants.ENDPOINT)


def _did_you_mean(repo: str) -> str:
    close = suggest(repo)
    return f"did you mean {close}?" if close else ""


def _last_part(error: RemoteEntryNotFoundError) -> str:
    _, _, path = str(error.response.request.url).partition("/resolve/")
    return path.partition("/")[2] or "a file"
