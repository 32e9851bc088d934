"""Files that appear whole or not at all, and never replace another unless asked to. No torch.

`quant.files` does the work; here its errors become SanaErrors, and names are checked before any work.
"""

import errno
import os
import shlex
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from quant import files
from sana_cli.errors import ExitCode, SanaError, usage_error


def local_path(text: str) -> Path:
    """Return a typed path with `~` resolved; raise SanaError when no file can have that name."""
    try:
        if "\0" in text:  # `is_file` says no
            raise ValueError(text)
        path = Path(text).expanduser()
        path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        shown = text if len(text) < 80 else f"{text[:80]}..."
        reason, hint = _why_no_path(error, text)
        raise usage_error(f"{shown!r} cannot be a path: {reason}", hint) from error
    return path


def _why_no_path(error: Exception, text: str) -> tuple[str, str]:
    """The reason in words, and what to do."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        reason = "a name in it is too long" if len(text) < 4096 else "it is too long"
        return reason, "use shorter names"
    if isinstance(error, RuntimeError):  # of `expanduser`
        return "there is no such home folder", "check the name after ~, or set HOME"
    said = error.strerror if isinstance(error, OSError) else "it holds a NUL character"
    return said or "no file can have that name", "check the spelling"


def require_file(path: Path, what: str, hint: str, code: ExitCode = ExitCode.USAGE) -> None:
    """SanaError where `path` is no file that can be read, saying why: there is none, or a folder, a pipe, a circle of links."""
    try:
        files.open_regular(path).close()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SanaError(f"no such {what}: {path}", hint=hint, code=code) from error
    except IsADirectoryError as error:
        raise SanaError(f"{path} is a folder, not a {what}", hint=hint, code=code) from error
    except OSError as error:
        raise SanaError(f"cannot read {path}: {error.strerror}", hint=hint, code=code) from error


def in_utf8(name: str) -> str:
    """Write what is not UTF-8 in a name as escapes, for pictures and reports that only people read it in."""
    return name.encode(errors="backslashreplace").decode()


def require_utf8_name(name: Path | str, what: str) -> None:
    """SanaError for a name that no picture can hold: texts in pictures are UTF-8, names of files are any bytes."""
    try:
        str(name).encode()
    except UnicodeEncodeError as error:
        raise usage_error(
            f"the name of {what} {name} is not UTF-8, so it cannot be stored in pictures",
            "rename the file or folder",
        ) from error


def real_path(path: Path) -> Path:
    """Follow all links; of links in a circle the rest stays, where `Path.resolve` raises RuntimeError."""
    return Path(os.path.realpath(path))


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """A binary file that gets its name when the block ends, and is gone if the block fails.

    Its folder is made if it is not there. Raises SanaError when the folder cannot be made or written, the file is there
    and `overwrite` is not, or what is there is no regular file.
    """
    try:
        with made_folder(path.parent), files.new_file(path, overwrite=overwrite) as file:
            yield file
    except FileExistsError as error:
        raise already_exists(path) from error
    except OSError as error:
        raise _unwritable(path, error, "--output") from error


def already_exists(path: Path) -> SanaError:
    return usage_error(f"{path} exists", "choose another --output, or --force")


def _unwritable(path: Path, error: OSError, option: str) -> SanaError:
    if files.is_in_use(error) and path.is_file():
        hint = f"close the program that has {path.name} open, or choose another name with {option}"
        return SanaError(
            f"cannot replace {path}: another program has it open",
            hint=hint,
            code=ExitCode.ENVIRONMENT,
        )
    return SanaError(
        f"cannot write {path}: {error.strerror or error}",
        hint=f"choose a folder that exists, is writable and has space, with {option}",
        code=ExitCode.ENVIRONMENT,
    )


def require_another(preview: Path, picture: Path) -> None:
    """SanaError (usage) where a preview and its picture would be one file."""
    if real_path(preview) == real_path(picture):
        raise usage_error(
            f"{preview} cannot be the picture and its preview",
            "give --preview-file another name",
        )


def is_new_folder(path: Path, written_as_folder: bool) -> bool:
    """Return whether a path names a folder that is still to be made: only a slash at its end says so."""
    return written_as_folder and not os.path.lexists(path)


def make_folder(path: Path, option: str = "--output") -> None:
    """Make a folder, and those that it is in; SanaError where that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error, option) from error


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """A folder for what the block writes. Those that were made for it are removed if nothing is in them after the block.

    SanaError where it cannot be made.
    """
    made = list(takewhile(lambda each: not os.path.lexists(each), (folder, *folder.parents)))
    make_folder(folder)
    try:
        yield
    finally:
        with suppress(OSError):  # of a folder that is not empty
            for each in made:
                each.rmdir()


def _check_can_be_made(folder: Path, option: str) -> None:
    """The nearest folder above that is there must be one that can be written to."""
    above = next(each for each in folder.absolute().parents if os.path.lexists(each))
    if not above.is_dir():
        raise _unwritable(
            folder, NotADirectoryError(errno.ENOTDIR, f"{above} is no folder"), option
        )
    if not os.access(above, os.W_OK | os.X_OK):
        raise _unwritable(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)), option)


def check_writable(path: Path, option: str = "--output", *, folder_is_new: bool = False) -> None:
    """Fail before any work when `path`, which `option` names, could not be written afterwards.

    `folder_is_new`: its folder will be made if it is not there.
    """
    if is_new_folder(path.parent, folder_is_new):
        _check_can_be_made(path.parent, option)
        return
    if not path.parent.is_dir():
        raise no_folder(path.parent, option)
    try:
        handle, name = files.make_temporary(path.parent)
        os.close(handle)
        os.unlink(name)
        path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unwritable(path, error, option) from error
    try:
        files.require_replaceable(path)
    except OSError as error:
        raise usage_error(f"{path} is not a regular file", f"choose another {option}") from error


def no_folder(path: Path, option: str = "--output") -> SanaError:
    if os.path.lexists(path):
        return usage_error(f"{path} is not a folder", f"choose another {option}")
    parents = "-p " if path.parent != Path() else ""
    made = f"mkdir {parents}{shlex.quote(str(path))}"
    return usage_error(f"no such folder: {path}", f"create it: {made}; or choose another {option}")


def temporary_folder(owner: object) -> Path:
    """A folder that goes when `owner` does, at the end of the program at the latest. SanaError where none can be."""
    try:
        import tempfile

        folder = Path(tempfile.mkdtemp(prefix="sana-"))
    except OSError as error:
        raise SanaError(
            f"cannot make a temporary folder: {error.strerror}",
            hint="make room, or set TMPDIR to a folder that you may write to",
            code=ExitCode.ENVIRONMENT,
        ) from error
    import shutil

    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder
