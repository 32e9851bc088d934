"""Remember what was measured on this machine, so that it decides once and a seed stays one picture.

Verdicts lie in one JSON file. Kernels round differently, and where two are about as fast, chance decides between them.
So nothing is decided by the clock where the file cannot be written: each process would draw other bits. A key names
what was asked, device, instruction sets, threads and the version of torch; of a CUDA device also its capability, the
driver and the version of Triton. What a missing compiler or a full device decided is not kept: the next process asks
again.
"""

import hashlib
import json
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import torch

from quant.backends.attempt import Failure, attempt
from quant.files import (
    changing,
    make_temporary,
    new_file,
    read_small_text,
    require_replaceable,
)

_VERSION = 11  # counts up when kernels or the way to time them change
_DRIVER_FILE = Path("/sys/module/nvidia/version")

_of_this_process: dict[tuple[Path, str], str] = {}  # what no file holds


class Passing(str):
    """A verdict about the state of the machine (no compiler, no memory) and not about the kernel: never written."""


def remembered(
    kind: str,
    device: torch.device,
    decide: Callable[[], str],
    *,
    verdicts: Path | None,
    is_known: Callable[[str], bool] = lambda verdict: True,
    driver_file: Path = _DRIVER_FILE,
    unmeasured: Callable[[], str] | None = None,
) -> str:
    """Return what was decided about `kind` on this machine before, or what `decide` says now.

    A verdict that is not known any more is decided again, and a `Passing` one by the next process. Of two processes that
    decide at the same time, the first is right. Where the file cannot be written, `unmeasured` decides instead, which says
    the same in every process; without it `decide` does, once a process. `verdicts` None: `decide` is asked each time.
    """
    key = _key(kind, device, driver_file)
    verdict = _read(verdicts).get(key)
    if verdict is not None and is_known(verdict):
        return verdict
    if verdicts is None:
        return decide()
    passing = _of_this_process.get((verdicts, key))
    if passing is not None and is_known(passing):
        return passing
    if not _can_be_kept(verdicts):
        verdict = (unmeasured or decide)()
        _of_this_process[verdicts, key] = verdict
        return verdict
    verdict = decide()
    if isinstance(verdict, Passing):
        _of_this_process[verdicts, key] = verdict
        return verdict
    with suppress(OSError), changing(verdicts):
        found = _read(verdicts)
        theirs = found.get(key)
        if theirs is not None and is_known(theirs):
            return theirs
        with new_file(verdicts, overwrite=True) as file:
            file.write((json.dumps({**found, key: verdict}, indent=1) + "\n").encode())
        return verdict
    _of_this_process[verdicts, key] = verdict  # full now, or locked for long
    return verdict


def _can_be_kept(verdicts: Path) -> bool:
    """Try it, since permissions do not say what root, a read-only disk or a full one refuses."""
    try:
        verdicts.parent.mkdir(parents=True, exist_ok=True)
        require_replaceable(verdicts)
        handle, name = make_temporary(verdicts.parent)
        os.close(handle)
        os.unlink(name)
    except OSError:
        return False
    return True


def _key(kind: str, device: torch.device, driver_file: Path) -> str:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        name = torch.cuda.get_device_name(device)
        machine = (
            f"{name} {major}.{minor}, driver {_driver(driver_file)}, triton {triton_version()}"
        )
    else:
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
        capability = f"{torch.backends.cpu.get_cpu_capability()} {limit}".strip()
        machine = f"{_cpu_name()} {capability} x{torch.get_num_threads()}"
    return f"{_VERSION}; {kind}; {machine}; torch {torch.__version__}"


def triton_version() -> str:
    """Version of Triton; "" where there is none, or one that cannot be imported."""
    version = attempt(lambda: str(import_module("triton").__version__))
    return "" if isinstance(version, Failure) else version


def _driver(file: Path) -> str:
    """Version of NVIDIA's kernel module; "" if the system does not report it (Windows, WSL)."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _cpu_name() -> str:
    """Return model and instruction sets: the same model has fewer of them in some virtual machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {line.split(":")[0].strip(): line.split(":", 1)[-1].strip() for line in lines if line}
    flags = hashlib.sha256(facts.get("flags", "").encode()).hexdigest()[:8]
    return f"{facts.get('model name', platform.machine())} {flags}"


def _read(path: Path | None) -> dict[str, str]:
    """Return all verdicts; a file that cannot be read decides nothing."""
    if path is None:
        return {}
    try:
        values = json.loads(read_small_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {str(key): str(value) for key, value in values.items()}
