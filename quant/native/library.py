"""Compile `rows.c` for the instructions that torch uses here, and load it.

A library of a few kilobytes, made in a second by the machine's own C compiler, as Triton makes its kernels: a wheel with
compiled code would be one for each system and each set of instructions.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import torch

from quant.backends.attempt import Failure

_SOURCE = Path(__file__).with_name("rows.c")
_COMPILERS = ("gcc", "cc", "clang")
# Without `-ffast-math`: sums may be added in another order only where the source says so.
_FLAGS = (
    "-O3", "-shared", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math",
    "-ffp-contract=off", "-mavx2", "-mfma",
)  # fmt: skip
_WIDE = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512")
_BY_CAPABILITY = {"AVX2": _FLAGS, "AVX512": _FLAGS + _WIDE}  # what torch calls the instructions
_COMPILING_S = 60


def is_for_this_processor() -> bool:
    """Return whether the code is for this system and processor."""
    return _flags() is not None


def find_library(folder: Path) -> ctypes.CDLL | Failure:
    """The library in `folder`, compiled where it is not there yet; why not, where it cannot be.

    A refusal will be one for the next process, too; a compiler that is missing or fails is none.
    """
    flags = _flags()
    if flags is None:
        return Failure("compiled for Linux on x86-64 with AVX2 only", is_refusal=True)
    try:
        digest = hashlib.sha256(_SOURCE.read_bytes() + " ".join(flags).encode()).hexdigest()[:16]
        path = folder / f"rows-{digest}.so"
        found = _opened(path) or _compiled(path, flags)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").splitlines()
        return Failure(said[0] if said else str(error))
    except (OSError, subprocess.TimeoutExpired) as error:
        return Failure(str(error))
    return found or Failure(f"{folder} holds no programs: its disk is mounted so", is_refusal=True)


def _flags() -> tuple[str, ...] | None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    return _BY_CAPABILITY.get(torch.backends.cpu.get_cpu_capability())


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, _COMPILERS)), None)


def _opened(path: Path) -> ctypes.CDLL | None:
    """Load what this user compiled; None where nothing is there, or what others could have put there."""
    for each in (path.parent, path):
        with suppress(FileNotFoundError):
            found = each.stat()
            is_ours = hasattr(os, "geteuid") and found.st_uid == os.geteuid()
            if not is_ours or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise PermissionError(f"{each} can be changed by other users")
    with suppress(OSError):  # not there, or of another machine
        return ctypes.CDLL(str(path))
    return None


def _compiled(path: Path, flags: tuple[str, ...]) -> ctypes.CDLL | None:
    compiler = _compiler()
    if compiler is None:
        raise FileNotFoundError("no C compiler is installed")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".compiling-", dir=path.parent) as folder:
        made = Path(folder) / path.name
        subprocess.run(
            [compiler, *flags, str(_SOURCE), "-o", str(made), "-lm"],
            check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=_COMPILING_S,
            env={**os.environ, "TMPDIR": folder},
        )  # fmt: skip
        made.chmod(0o700)
        os.replace(made, path)
    library = _opened(path)
    if library is None:
        path.unlink(missing_ok=True)
    return library
