"""Load torch's libraries while Python still imports other modules. No torch.

The loader of the system needs a fifth of the time of an import of torch, and no Python: a second core does that part
while the settings are read and the model's files are found.
"""

import ctypes
import importlib
import importlib.util
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

# In the order in which torch loads them, and visible as there: the first brings what the second needs.
_LIBRARIES = (("libtorch_global_deps.so", ctypes.RTLD_GLOBAL), ("libtorch_cpu.so", 0))
# Modules with libraries of their own, small ones, which a picture imports before torch. The system loads one library
# after the other, so whoever asks for one of these later would wait for all of torch's.
_FIRST = (
    "array", "binascii", "contextvars", "csv", "decimal", "hashlib", "mmap", "pickle", "random", "resource", "socket",
    "shutil", "subprocess", "uuid", "zlib", "heapq", "PIL.Image", "PIL.ImageCms", "safetensors",
)  # fmt: skip

# What torch imports and needs no library of its own.
_MEANWHILE = ("torchgen.model", "tqdm")


def preload_torch() -> threading.Thread | None:
    """Start loading torch's libraries in a thread; None where they are loaded, absent, or of another system.

    Call it where a picture is about to be drawn here, after `limit_spinning`: OpenMP reads its variables when it is
    loaded. Change no variable of the environment while the thread runs. The process ends after the thread, within a
    fraction of a second.
    """
    global _thread
    if _thread is not None or "torch" in sys.modules or sys.platform != "linux":
        return None
    folder = _folder()
    if folder is None:
        return None
    for name in _FIRST:
        with suppress(ImportError):  # whoever needs it says so
            importlib.import_module(name)
    # No daemon: a process that ends while its libraries are set up may crash.
    _thread = threading.Thread(target=_load, args=(folder,), name="preload torch")
    _thread.start()
    return _thread


_thread: threading.Thread | None = None


def use_the_wait() -> None:
    """Import some of what torch imports while its libraries are loaded; call it before the first module that waits for
    them, as numpy does.
    """
    for name in _MEANWHILE:
        if _thread is not None and _thread.is_alive():
            with suppress(Exception):  # a damaged torch says what is wrong when it is imported
                importlib.import_module(name)


def _folder() -> Path | None:
    """The folder of torch's libraries, found without importing it."""
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec("torch")
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent / "lib"
    return None


def _load(folder: Path) -> None:
    """Load them by the C library itself: `ctypes.CDLL` keeps all other threads from running Python meanwhile."""
    with suppress(AttributeError, OSError):  # a C library without it: torch loads them
        load = ctypes.CDLL(None).dlopen
        load.argtypes, load.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
        for name, mode in _LIBRARIES:
            # What fails here, torch loads again, and says what is wrong.
            if not load(os.fsencode(folder / name), mode | os.RTLD_NOW):
                return
