"""The variables that huggingface_hub and its transport read, checked before they fail with a traceback.

huggingface_hub reads most of them when it is imported. Nothing of it is imported here.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from sana_cli.errors import ExitCode, SanaError
from sana_cli.system.packages import pip_install
from sana_cli.system.redact import without_secrets

_FOLDERS = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
_USUAL = "XDG_CACHE_HOME"  # where HF_HOME is if it is not set
_TIMEOUTS = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_PREFIXES = ("HF_", "TQDM_")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, slots=True, kw_only=True)
class BadVariable:
    """A variable that cannot work: why, and what can."""

    name: str
    problem: str
    remedy: str


def require_environment(*, network: bool = False) -> None:
    """SanaError for a variable that huggingface_hub cannot read; with `network`, for one that it cannot connect with."""
    environment = os.environ
    for bad in _bad_when_imported(environment):
        raise _error(bad)
    if network:
        for bad in _bad_when_connecting(environment):
            raise _error(bad)


def bad_variables(environment: Mapping[str, str] = os.environ) -> list[BadVariable]:
    """List all variables that cannot work."""
    return [*_bad_when_imported(environment), *_bad_when_connecting(environment)]


def blame(error: ValueError) -> SanaError:
    """Return an error about the variable whose value a library of the hub could not read."""
    named = [
        name
        for name, value in os.environ.items()
        if name.startswith(_PREFIXES) and value and repr(value) in str(error)
    ]
    name = named[0] if named else "a variable that begins with HF_ or TQDM_"
    return SanaError(
        f"{name} has a value that cannot work: {without_secrets(str(error))}",
        hint="unset it",
        code=ExitCode.ENVIRONMENT,
    )


def _error(bad: BadVariable) -> SanaError:
    return SanaError(
        f"{bad.name} {bad.problem}", hint=f"{bad.remedy}, or unset it", code=ExitCode.ENVIRONMENT
    )


def _bad_when_imported(environment: Mapping[str, str]) -> Iterator[BadVariable]:
    if (endpoint := environment.get("HF_ENDPOINT")) is not None:
        yield from _bad_endpoint(endpoint)
    above = () if environment.get("HF_HOME") or environment.get("HF_HUB_CACHE") else (_USUAL,)
    for name in (*_FOLDERS, *above):
        if (value := environment.get(name)) is not None:
            yield from _bad_folder(name, value)
    for name in _TIMEOUTS:
        if (value := environment.get(name)) is not None and not _is_timeout(value):
            yield BadVariable(
                name=name,
                problem=f"is {_shown(value)}, which is no time-out",
                remedy="use whole seconds, 1 or more: 60",
            )


def _bad_folder(name: str, value: str) -> Iterator[BadVariable]:
    remedy = "name a folder by its whole path"
    if not value:  # huggingface_hub would take the folder that one happens to be in
        yield BadVariable(name=name, problem="is empty", remedy=remedy)
    elif os.path.expanduser(value).startswith("~"):
        problem = f"is {_shown(value)}, and there is no such user"
        yield BadVariable(name=name, problem=problem, remedy=remedy)
    elif why := _why_no_folder(Path(os.path.expanduser(os.path.expandvars(value)))):
        yield BadVariable(name=name, problem=f"is {_shown(value)}: {why}", remedy=remedy)


def cache_variable(environment: Mapping[str, str] = os.environ) -> str:
    """Name the variable that decides where downloads go: one that is set, else HF_HOME."""
    names = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", _USUAL)
    return next((name for name in names if environment.get(name)), "HF_HOME")


def _why_no_folder(path: Path) -> str:
    """Say why a path can be no folder, or return "": it may be made later, where it is not there."""
    for each in (path, *path.parents):
        try:
            return (
                "" if stat.S_ISDIR(os.stat(each).st_mode) else f"{_shown(str(each))} is no folder"
            )
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            return getattr(error, "strerror", None) or str(error)
    return ""


def _bad_endpoint(value: str) -> Iterator[BadVariable]:
    reason = _why_no_address(value, ("http", "https")) if value else "it is empty"
    if not reason and ("?" in value or "#" in value):
        reason = "it has a query"
    if reason:
        yield BadVariable(
            name="HF_ENDPOINT",
            problem=f"is no address of a hub: {reason}",
            remedy="use http:// or https:// and a host: https://huggingface.co",
        )


def _is_timeout(value: str) -> bool:
    """Seconds as int() takes them; 0 means the library's default, and more than a million no clock counts."""
    try:
        return 0 <= int(value) <= 10**6
    except ValueError:
        return False


def _bad_when_connecting(environment: Mapping[str, str]) -> Iterator[BadVariable]:
    for name, value in proxies(environment).items():
        yield from _bad_proxy(name, value)
    for name, kind in (("SSL_CERT_FILE", "file"), ("SSL_CERT_DIR", "folder")):
        if value := environment.get(name, ""):
            yield from _bad_certificates(name, kind, value)
    if (log := environment.get("SSLKEYLOGFILE")) and not _can_be_file(log):
        yield BadVariable(
            name="SSLKEYLOGFILE",
            problem=f"is {_shown(log)}, which cannot be written",
            remedy="name a file in your own folder",
        )
    for name in TOKENS:
        # Line breaks are taken out by huggingface_hub.
        if not is_token(environment.get(name, "").replace("\r", "").replace("\n", "").strip()):
            yield BadVariable(
                name=name,
                problem="holds characters that no access token has",
                remedy="copy the token again",
            )


def proxies(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that name a proxy, as they are spelled, with their values."""
    names = (name for upper in _PROXIES for name in (upper, upper.lower()))
    return {name: environment[name] for name in names if environment.get(name)}


def _bad_proxy(name: str, value: str) -> Iterator[BadVariable]:
    # As httpx does it: what has no scheme is http.
    reason = _why_no_address(value if "://" in value else f"http://{value}", _PROXY_SCHEMES)
    if reason:
        yield BadVariable(
            name=name,
            problem=f"is no address of a proxy: {reason}",
            remedy="use http://HOST:PORT",
        )
    elif value.startswith("socks") and find_spec("socksio") is None:
        yield BadVariable(
            name=name,
            problem="is the address of a SOCKS proxy, which needs the package socksio",
            remedy=pip_install("socksio"),
        )


def is_token(text: str) -> bool:
    """Return whether a header can carry this access token. An empty one is no token."""
    return text.isascii() and text.isprintable() and " " not in text


def _why_no_address(value: str, schemes: tuple[str, ...]) -> str:
    """Say why a client cannot use an address, or return "". Shows no part of it: it may hold a password."""
    if not value.isprintable() or " " in value:
        return "it has spaces or control characters in it"
    try:
        parts = urlsplit(value)
        host = parts.hostname or ""
        host.encode("idna")
    except ValueError:  # also UnicodeError
        return "its host is no name of a host"
    if parts.scheme not in schemes:
        return f"it does not begin with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    if not host:
        return "it names no host"
    try:
        good_port = parts.port != 0
    except ValueError:
        good_port = False
    if not good_port:
        escaped = " (in a password, / is written %2F, and @ %40)" if "@" in value else ""
        return f"its port is no number from 1 to 65535{escaped}"
    return ""


def _bad_certificates(name: str, kind: str, value: str) -> Iterator[BadVariable]:
    path = Path(value)
    remedy = f"name a {kind} of certificates in PEM format"
    try:
        there = path.is_file() if kind == "file" else path.is_dir()
        changed_ns = path.stat().st_mtime_ns if there else 0
    except (OSError, ValueError):
        there, changed_ns = False, 0
    if not there:
        yield BadVariable(
            name=name, problem=f"is {_shown(value)}, which is not a {kind}", remedy=remedy
        )
    elif kind == "file" and not _holds_certificates(value, changed_ns):
        yield BadVariable(
            name=name,
            problem=f"is {_shown(value)}, which holds no certificates that can be read",
            remedy=remedy,
        )


@cache
def _holds_certificates(file: str, changed_ns: int) -> bool:
    """Once for each state of the file: it takes 20 ms, and a command makes several requests."""
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except (OSError, ValueError):  # also ssl.SSLError
        return False
    return True


def _can_be_file(value: str) -> bool:
    path = Path(value)
    try:
        there = os.path.lexists(path)
        # Opening a pipe would wait for ever; the slash at the end of a folder's name is gone in `path`.
        if value.endswith(os.sep) or (there and not path.is_file()):
            return False
        path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False
    return os.access(path if there else path.parent, os.W_OK)


def _shown(value: str) -> str:
    text = without_secrets(value)
    return repr(text if len(text) <= 80 else f"{text[:80]}...")
