"""Read the small files of a model, and say what is wrong with a file that cannot be read: each cause has its own remedy.

"Get it again" helps where a copy is damaged. It does not where the file is of another kind, where reading it is not
allowed, or where it is a git-lfs pointer: the second copy would be the same. No torch.
"""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from quant.files import open_regular, read_small_text
from sana_cli.errors import ExitCode, SanaError, checkpoint_error
from sana_cli.text import parsers_words

_Config = TypeVar("_Config")

CORRUPT = "is truncated or corrupt"  # of safetensors files
NO_PTH = "is not a readable .pth file"
_SMALL_JSON = 32 * 2**20  # bytes; the largest index of a published model has less than one million
_SAFETENSORS = "get the model's .safetensors release"
_PICTURE = "give the model's own file"
_ARCHIVE = "unpack it first"
# What files begin with, what such a file is, and what helps.
_KINDS = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file it stands for",
     "run `git lfs pull` in its folder, or let `sana pull` download the model"),
    (b"GGUF", "a GGUF file", f"{_SAFETENSORS}; `sana quantize` makes it small"),
    (b"<!DOCTYPE", "a web page", "download the file itself: its address has /resolve/ in place of /blob/"),
    (b"<html", "a web page", "download the file itself: its address has /resolve/ in place of /blob/"),
    (b"\x89PNG", "a picture", _PICTURE),
    (b"\xff\xd8\xff", "a picture", _PICTURE),
    (b"RIFF", "a picture or a sound", _PICTURE),
    (b"\x89HDF", "an HDF5 file", _SAFETENSORS),
    (b"\x1f\x8b", "a gzip archive", _ARCHIVE),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", _ARCHIVE),
    (b"\xfd7zXZ", "an xz archive", _ARCHIVE),
    (b"7z\xbc\xaf", "a 7z archive", _ARCHIVE),
    (b"Rar!", "a RAR archive", _ARCHIVE),
    (b"%PDF", "a PDF document", "give the model's own file"),
)  # fmt: skip


# Files of text, which nobody means by a file of weights.
_TEXTS = (
    ".txt",
    ".md",
    ".rst",
    ".json",
    ".jsonl",
    ".csv",
    ".tsv",
    ".yaml",
    ".yml",
    ".toml",
    ".ini",
    ".log",
    ".py",
    ".sh",
)
_PYTORCH_KINDS = (
    (b"PK\x03\x04", "a zip archive, as PyTorch writes .pth and .bin files", _SAFETENSORS),
    *((b"\x80%c" % n, "a Python pickle, which could run code", _SAFETENSORS) for n in range(2, 6)),
)


def read_json(path: Path, problem: str = "is not readable JSON") -> dict[str, Any]:
    """Read a JSON object from a file of the model; raise SanaError if it is none."""
    with reading(path, problem):
        value = json.loads(read_small_text(path, _SMALL_JSON))
    if not isinstance(value, dict):
        raise checkpoint_error(f"{path} does not hold a JSON object", hint=edited())
    return value


def require_json_object(path: Path, problem: str) -> None:
    """SanaError for a file that begins like no JSON object; for large ones, which are parsed when they are needed."""
    with reading(path, problem):
        with open_regular(path) as file:
            head = file.read(4096)
        if not head.lstrip().startswith(b"{"):
            raise ValueError("it does not hold a JSON object")


def read_config(path: Path, parse: Callable[[dict[str, Any]], _Config]) -> _Config:
    """Read a configuration from a JSON file of the model; raise SanaError if it is invalid."""
    values = read_json(path)
    try:
        return parse(values)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise checkpoint_error(
            f"{path} does not describe a model we know: {one_line(error)}", hint=edited()
        ) from error


def edited() -> str:
    """Return the remedy for a well-formed file whose values do not fit Sana."""
    return (
        "use the file that was published with a Sana model (`sana models` lists them): "
        "this one was changed, or belongs to another kind of model"
    )


@contextmanager
def reading(path: Path, problem: str = CORRUPT) -> Iterator[None]:
    """Turn whatever reading a file raises into one SanaError; `problem` is what it says where the file does not show more.

    For blocks that do nothing else: decoders of foreign formats raise anything, Rust's even panic.
    """
    try:
        yield
    except SanaError:
        raise
    except MemoryError as error:
        raise SanaError(
            f"{path} takes more memory than there is",
            hint="close other programs; a file of unknown origin may be made to do this",
            code=ExitCode.ENVIRONMENT,
        ) from error
    except Exception as error:
        raise unreadable(path, problem, error) from error
    except BaseException as error:
        if not is_panic(error):
            raise
        raise unreadable(path, problem, error) from error


def is_panic(error: BaseException) -> bool:
    """Return whether a library in Rust panicked: PyO3's exception is no `Exception` and cannot be imported."""
    return type(error).__name__ == "PanicException"


def unreadable(path: Path, problem: str, error: BaseException) -> SanaError:
    """Explain an unreadable file by the error and its first bytes, else by `problem`."""
    if isinstance(error, OSError) and error.errno is not None:
        return _refused(path, error)
    try:
        with open_regular(path) as file:
            head, size = file.read(512), os.fstat(file.fileno()).st_size
    except OSError as cause:
        return _refused(path, cause)
    if size == 0:
        return checkpoint_error(f"{path} {problem}: it is empty")
    if found := kind_of(head, pytorch=problem == NO_PTH):
        what, hint = found
        return checkpoint_error(f"{path} is {what}", hint=hint)
    if problem in (CORRUPT, NO_PTH) and path.suffix.lower() in _TEXTS:
        return checkpoint_error(f"{path} is a text file", hint="check which file is meant")
    if problem != CORRUPT and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return checkpoint_error(
            f"{path} {problem}: it is a safetensors file", hint="check which file is meant"
        )
    return checkpoint_error(f"{path} {problem}: {one_line(error)}")


def kind_of(head: bytes, *, pytorch: bool = False) -> tuple[str, str] | None:
    """Name the kind of file by its first bytes ("a GGUF file") and give a remedy; None if it is
    unknown.

    With `pytorch`, PyTorch's own formats are expected and not named.
    """
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"avif"):
        return "a picture", _PICTURE
    start = head.lstrip()
    for mark, what, hint in _KINDS if pytorch else (*_PYTORCH_KINDS, *_KINDS):
        if start[: len(mark)].lower() == mark.lower():
            return what, hint
    return None


def one_line(error: BaseException) -> str:
    """The first line of an error's text, at most 200 characters, or the name of its kind."""
    words = parsers_words(error) if isinstance(error, Exception) else str(error)
    return (words.strip().splitlines() or [type(error).__name__])[0][:200]


def _refused(path: Path, error: OSError) -> SanaError:
    """An error of the system, which another copy of the file does not mend."""
    if error.errno == errno.ENOENT:
        return checkpoint_error(f"missing file {path}")
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = "let your user read it: look at the owner and mode of the file and its folders"
        return checkpoint_error(f"cannot read {path}: no permission", hint=hint)
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.ENXIO):
        return checkpoint_error(
            f"{path} is not a regular file", hint="name the file itself, or put it there"
        )
    if error.errno == errno.EFBIG:
        return checkpoint_error(f"{path} is too large for what it should be", hint=edited())
    return SanaError(
        f"cannot read {path}: {error.strerror or error}",
        hint="look at the disk or network drive that it lies on",
        code=ExitCode.ENVIRONMENT,
    )
