"""The one exception that reaches a user as text, and the exit codes of `sana`."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns; scripts may rely on these."""

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


def usage_error(message: str, hint: str) -> SanaError:
    """An error about a flag or value that cannot work."""
    return SanaError(message, hint=hint, code=ExitCode.USAGE)


def checkpoint_error(message: str, *, hint: str = "") -> SanaError:
    """An error about a model's files, with the remedy that fits most of them."""
    hint = (
        hint
        or "get it again from where it came; what sana downloaded itself: sana remove, then sana pull"
    )
    return SanaError(message, hint=hint, code=ExitCode.CHECKPOINT)
