"""Load torch's libraries while Python still imports other modules. No torch.

Importing torch spends a fifth of its time in the loader of the system, which needs no Python: a second core does
that part while the options are checked and the model's files are found.
"""

import ctypes
import importlib.util
import sys
import threading
from contextlib import suppress
from pathlib import Path

# In the order in which torch loads them, and visible as there: the first brings what the second needs.
_LIBRARIES = (("libtorch_global_deps.so", ctypes.RTLD_GLOBAL), ("libtorch_cpu.so", 0))


def preload_torch() -> threading.Thread | None:
    """Start loading torch's libraries in a thread; None where they are loaded, absent, or of another system.

    Call it where a picture is about to be drawn here, after `limit_spinning`: OpenMP reads its variables when it is
    loaded. The process ends after the thread, within a fraction of a second.
    """
    if "torch" in sys.modules or sys.platform != "linux":
        return None
    folder = _folder()
    if folder is None:
        return None
    # No daemon: a process that ends while its libraries are set up may crash.
    thread = threading.Thread(target=_load, args=(folder,), name="preload torch")
    thread.start()
    return thread


def _folder() -> Path | None:
    """The folder of torch's libraries, found without importing it."""
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec("torch")
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent / "lib"
    return None


def _load(folder: Path) -> None:
    with suppress(OSError):  # torch loads them again, and says what is wrong
        for name, mode in _LIBRARIES:
            ctypes.CDLL(str(folder / name), mode=mode or ctypes.DEFAULT_MODE)
