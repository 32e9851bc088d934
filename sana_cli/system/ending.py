"""End a process of our own at once, when nothing is left to do. No torch.

After a picture Python would take torch's half a million objects apart, one by one, for a tenth of a second. The system
takes all of a process's memory back anyway. Threads have ended by then, and whatever is registered for the end has run.
"""

import atexit
import os
import sys
from contextlib import suppress

_code: int | None = None  # None: Python ends the process, as after a bug


def register_last() -> None:
    """Register what ends the process; call it before anything else is registered, since what comes first runs last."""
    atexit.register(_end)


def end_with(code: int) -> None:
    """Let the process end with this code as soon as threads and everything registered are done."""
    global _code
    _code = code


def _end() -> None:
    if _code is None:
        return
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except (AttributeError, OSError, ValueError):
        return  # Python reports what was not written
    if "ctypes" in sys.modules:  # else no library is there: torch and numpy import it
        import ctypes

        with suppress(AttributeError, OSError, TypeError):  # another C library
            ctypes.CDLL(None).fflush(None)  # what libraries have printed
    os._exit(_code)
