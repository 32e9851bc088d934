"""Every error between us and a hub is one line with its remedy and its exit code."""

import errno
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors as hub

from sana_cli.checkpoints.hub_answer import BadAnswer
from sana_cli.checkpoints.hub_environment import proxies
from sana_cli.checkpoints.hub_errors import endpoint, readable_errors
from sana_cli.errors import ExitCode, SanaError

REPO, CACHE = "own/tiny", Path("/cache")


class Response:
    """As httpx gives it, as far as errors look at it."""

    def __init__(self, status: int) -> None:
        self.status_code = status
        self.headers: dict[str, str] = {}
        self.request = type("Request", (), {"url": "https://hub/own/tiny/resolve/main/vae/a.json"})


def of_status(kind: Any, status: int) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "from the hub")
    error.response = Response(status)
    return error


class ReadTimeout(hub.HTTPError):
    """The name decides: which httpx raises it differs."""


def explained(error: BaseException) -> SanaError:
    with pytest.raises(SanaError) as caught, readable_errors(REPO, None, CACHE):
        raise error
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("error", "message", "hint", "code"),
    [
        (hub.HFValidationError("x"), "neither a folder", "spelling", ExitCode.USAGE),
        (of_status(hub.GatedRepoError, 403), "is gated", "ask for access", ExitCode.ENVIRONMENT),
        (of_status(hub.RepositoryNotFoundError, 404), "there is no model", "HF_TOKEN", ExitCode.USAGE),
        (of_status(hub.RevisionNotFoundError, 404), "has no revision 'main'", "tree/main", ExitCode.USAGE),
        (of_status(hub.RemoteEntryNotFoundError, 404), "lists vae/a.json but", "another revision", ExitCode.CHECKPOINT),
        (of_status(hub.HfHubHTTPError, 503), "is out of order (503)", "try again later", ExitCode.ENVIRONMENT),
        (of_status(hub.HfHubHTTPError, 401), "wants another access token", "HF_TOKEN", ExitCode.ENVIRONMENT),
        (of_status(hub.HfHubHTTPError, 403), "refuses access", "may read", ExitCode.ENVIRONMENT),
        (of_status(hub.HfHubHTTPError, 429), "asks to slow down", "raises the limit", ExitCode.ENVIRONMENT),
        (of_status(hub.HfHubHTTPError, 418), "answered 418", "HF_ENDPOINT", ExitCode.ENVIRONMENT),
        (BadAnswer("it lists no files"), "does not answer like", "HF_ENDPOINT", ExitCode.ENVIRONMENT),
        (ReadTimeout("x"), "did not answer in time", "HF_HUB_DOWNLOAD_TIMEOUT", ExitCode.ENVIRONMENT),
        (hub.HTTPError("[Errno 111] Connection refused\nmore"), ": Connection refused", "network", ExitCode.ENVIRONMENT),
        (OSError(errno.ENOSPC, "No space"), "the disk of /cache is full", "make room", ExitCode.ENVIRONMENT),
        (OSError(errno.EACCES, "Denied", "/x"), "cannot use /x: Denied", "HF_HOME", ExitCode.ENVIRONMENT),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)  # fmt: skip
def test_each_kind(error: Exception, message: str, hint: str, code: ExitCode) -> None:
    found = explained(error)
    assert message in found.message
    assert hint in found.hint
    assert found.code == code


def test_the_cause_is_looked_for() -> None:
    """huggingface_hub says "not found locally" where the network failed."""
    outer = hub.LocalEntryNotFoundError("not found locally")
    outer.__cause__ = OSError(errno.ENOSPC, "No space")
    assert "is full" in explained(outer).message


def test_what_is_not_ours_passes() -> None:
    with (
        pytest.raises(ValueError, match="a mistake in the code"),
        readable_errors(REPO, None, CACHE),
    ):
        raise ValueError("a mistake in the code")
    with pytest.raises(KeyError), readable_errors(REPO, None, CACHE):
        raise KeyError("x")


def test_a_close_name_is_suggested() -> None:
    with pytest.raises(SanaError) as caught, readable_errors("sana-0.6", None, CACHE):
        raise of_status(hub.RepositoryNotFoundError, 404)
    assert "did you mean sana-0.6b?" in caught.value.hint


def test_an_address_with_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://me:secret@mirror")
    assert "secret" not in endpoint()
    assert "mirror" in endpoint()


def test_a_proxy_in_between_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in proxies():
        monkeypatch.delenv(name)
    assert explained(hub.HTTPError("x")).hint.startswith("check the network and retry")
    monkeypatch.setenv("https_proxy", "http://me:pw@h:1")
    assert "the proxy in https_proxy" in explained(hub.HTTPError("x")).hint
