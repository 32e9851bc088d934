"""Read files at URLs: `s3://bucket/folder`, `gs://...`, whatever fsspec or pyarrow can read. No torch."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.files import temporary_folder
from sana_cli.system.packages import pip_install

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_WILDCARDS = "*?["
_PATIENCE_S = 20  # of a store that does not answer
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}


def is_url(text: str | None) -> bool:
    """Return whether a text names a place that is not simply a path of this machine."""
    return bool(text and _URL.match(text))


def open_url(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL and the path in it. SanaError where no installed package reads it.

    Where fsspec has no package for it, pyarrow's own readers (S3, Google, HDFS) serve.
    """
    try:
        import fsspec
    except ImportError as error:
        raise _no_reader(url, "fsspec") from error
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        found = _by_pyarrow(url)
        if found is None:
            scheme = url.partition("://")[0].lower()
            raise _no_reader(url, _PACKAGES.get(scheme, "")) from error
        return found
    except OSError as error:
        raise unreachable(url, error) from error


def _by_pyarrow(url: str) -> tuple[Any, str] | None:
    try:
        from fsspec.implementations.arrow import ArrowFSWrapper
        from pyarrow import fs
    except ImportError:
        return None
    try:
        found, path = fs.FileSystem.from_uri(_impatient(url))
    except (ValueError, NotImplementedError):  # a scheme that pyarrow does not know, either
        return None
    except OSError as error:
        raise unreachable(url, error) from error
    return ArrowFSWrapper(found), path


def _impatient(url: str) -> str:
    """Let pyarrow's reader of Google Cloud give up within seconds: without credentials it tries for 15 minutes."""
    if not url.lower().startswith(("gs://", "gcs://")) or "retry_limit_seconds" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}retry_limit_seconds={_PATIENCE_S}"


def local_prompts(name: str, owner: object) -> str:
    """Return a local name of a file or folder of prompts; what is at a URL is copied first.

    The copy goes when `owner` does. A pattern such as `s3://bucket/prompts/*.jsonl`, or one of local files, copies each
    file that fits. SanaError where there is none.
    """
    url = name if is_url(name) else _local_pattern(name)
    if url is None:
        return name
    with reaching(name):
        files, path = open_url(url)
        is_pattern = any(c in path for c in _WILDCARDS)
        is_folder = is_pattern or files.isdir(path)
        found = files.glob(path) if is_pattern else files.ls(path, detail=False) if is_folder else [path]  # fmt: skip
        found = sorted(each for each in found if not files.isdir(each))
        if not found:
            raise FileNotFoundError(name)
        folder = temporary_folder(owner)
        for number, each in enumerate(found):
            copy = folder / PurePosixPath(each).name
            if copy.exists():  # of another folder
                copy = copy.with_name(f"{number:04}-{copy.name}")
            copy.write_bytes(files.cat_file(each))
    return str(folder if is_folder else copy)


def _local_pattern(name: str) -> str | None:
    """Write a pattern of local files as a URL; None for any other name."""
    path = Path(name).expanduser()
    is_pattern = any(c in name for c in _WILDCARDS) and not path.exists()
    return f"file://{path.absolute()}" if is_pattern else None


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn whatever goes wrong at a URL into a SanaError of one line."""
    try:
        yield
    except SanaError:
        raise
    except FileNotFoundError as error:
        raise usage_error(
            f"cannot read {url}: there is no such file", "check the spelling"
        ) from error
    except OSError as error:
        raise unreachable(url, error) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("builtins", "sana_cli"):
            raise
        raise unreachable(url, error) from error  # botocore's, google's


def unreachable(url: str, error: Exception) -> SanaError:
    said = next(iter(str(error).splitlines()), "") or type(error).__name__
    return SanaError(
        f"cannot reach {url}: {said}",
        hint="look at the name, the network and the credentials of this machine",
        code=ExitCode.ENVIRONMENT,
    )


def _no_reader(url: str, package: str) -> SanaError:
    scheme = url.partition("://")[0]
    return SanaError(
        f"no package here reads {scheme}:// ({url})",
        hint=pip_install(package)
        if package
        else "use a folder that all machines share, s3:// or gs://",
        code=ExitCode.ENVIRONMENT,
    )
