"""The one exception that reaches a user as text, and the exit codes of `sana`."""

import errno
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the process; scripts may rely on these."""

    OK = 0
    FAILURE = 1
    USAGE = 2  # a flag or value that cannot work
    ENVIRONMENT = 3  # the machine: device, memory, network, disk, missing package
    CHECKPOINT = 4  # the model's files
    CONDITION = 5  # `sana bench --fail-if`: measured, and not good enough
    REFUSED = 6  # `--safety`: the prompt is not drawn
    INTERRUPTED = 130


class SanaError(Exception):
    """An expected failure: `message` says what is wrong, `hint` what to do next.

    Both are one line each. Anything that is not a `SanaError` is a bug and keeps its traceback.
    """

    def __init__(self, message: str, *, hint: str = "", code: ExitCode = ExitCode.FAILURE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        """Return the message as it is by then: places that know more add to it."""
        return self.message


class Cancelled(SanaError):
    """A callback asked to stop; nothing is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=ExitCode.INTERRUPTED)


def usage_error(message: str, hint: str) -> SanaError:
    """An error about a flag or value that cannot work."""
    return SanaError(message, hint=hint, code=ExitCode.USAGE)


def contradiction(one: str, other: str) -> SanaError:
    """Two options that cannot be given together, or an argument and an option."""
    return usage_error(f"give {one} or {other}, not both", f"omit {one}")


def require(condition: bool, message: str, hint: str) -> None:
    """Raise such an error unless the condition holds."""
    if not condition:
        raise usage_error(message, hint)


def checkpoint_error(message: str, *, hint: str = "") -> SanaError:
    """An error about a model's files, with the remedy that fits most of them."""
    hint = (
        hint
        or "get it again from where it came; what sana downloaded itself: sana remove, then sana pull"
    )
    return SanaError(message, hint=hint, code=ExitCode.CHECKPOINT)


_TRACEBACK = "the same command with --debug shows where"
DEVICE_STOPPED = (
    "draw with --backend reference; if that fails too, the driver or the device is at fault"
)
_LOST_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EBADF)
_NO_MEMORY = (
    "can't allocate memory", "cannot allocate memory", "out of memory", "not enough memory",
    "could not create a primitive", "could not create a memory object",  # oneDNN's words for it
    "can't start new thread",  # no room for its stack
    "failed to map segment from shared object",  # a library, under a limit such as ulimit -v
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is any form of "no memory left". Libraries report many as a plain RuntimeError."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError | ImportError)
        and any(each in words for each in _NO_MEMORY)
    )


def explained(error: BaseException) -> SanaError | None:
    """An error that no code expected, in words, if the machine or the input is to blame; None for a bug."""
    said = next(iter(str(error).splitlines()), "")
    kind = type(error).__name__
    if is_out_of_memory(error):
        return _environment("out of memory", "close other programs, or draw a smaller --size")
    if isinstance(error, ImportError):
        name = f"the package {error.name}" if error.name else "a package"
        return _environment(
            f"{name} is missing or broken: {said}",
            f"install sana and its packages again; {_TRACEBACK}",
        )
    if isinstance(error, OSError):
        return _environment(*_about_system(error, said))
    if isinstance(error, RecursionError):
        return usage_error("what was given is nested too deeply", _TRACEBACK)
    if isinstance(error, OverflowError):
        return usage_error(f"a number is too large: {said}", _TRACEBACK)
    if isinstance(error, UnicodeError):
        return usage_error(f"a name or text is not valid Unicode: {said}", _TRACEBACK)
    if kind == "AcceleratorError":  # torch's; every later call of the process would fail, too
        return _environment(f"the device stopped ({said})", DEVICE_STOPPED)
    # Of libraries in Rust: no subclass of Exception, and importable from nowhere.
    if kind == "PanicException":
        return SanaError(f"a library gave up: {said}", hint=_TRACEBACK)
    return None


def _about_system(error: OSError, said: str) -> tuple[str, str]:
    reason = error.strerror or said or type(error).__name__
    if error.filename is not None:
        name = error.filename if isinstance(error.filename, str) else repr(error.filename)
        return (
            f"cannot use {name}: {reason}",
            "look at its permissions, and whether its disk is full",
        )
    if error.errno in _LOST_OUTPUT:
        return (
            f"cannot write the result: {reason}",
            "pictures that were drawn are kept; look at where stdout goes",
        )
    if "temporary directory" in reason:
        return "no temporary folder can be written", "set TMPDIR to a folder that has space"
    return reason, _TRACEBACK


def _environment(message: str, hint: str) -> SanaError:
    return SanaError(message, hint=hint, code=ExitCode.ENVIRONMENT)
