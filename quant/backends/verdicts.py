"""Remember what was measured on this machine, so that it decides once and a seed stays one picture.

Verdicts lie in one JSON file. A key names what was asked, device, instruction sets, threads and the version of torch.
"""

import hashlib
import json
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from quant.files import changing, new_file, read_small_text

_VERSION = 7  # counts up when kernels or the way to time them change


def remembered(
    kind: str,
    device: torch.device,
    decide: Callable[[], str],
    *,
    verdicts: Path | None,
    is_known: Callable[[str], bool] = lambda verdict: True,
) -> str:
    """Return what was decided about `kind` on this machine before, or what `decide` says now.

    A verdict that is not known any more is decided again. Of two processes that decide at the same time, the first
    is right. Without a file that can be written, nothing is remembered.
    """
    key = _key(kind, device)
    verdict = _read(verdicts).get(key)
    if verdict is not None and is_known(verdict):
        return verdict
    verdict = decide()
    if verdicts is None:
        return verdict
    with suppress(OSError), changing(verdicts):
        found = _read(verdicts)
        theirs = found.get(key)
        if theirs is not None and is_known(theirs):
            return theirs
        with new_file(verdicts, overwrite=True) as file:
            file.write((json.dumps({**found, key: verdict}, indent=1) + "\n").encode())
    return verdict


def _key(kind: str, device: torch.device) -> str:
    if device.type == "cuda":
        machine = torch.cuda.get_device_name(device)
    else:
        limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
        capability = f"{torch.backends.cpu.get_cpu_capability()} {limit}".strip()
        machine = f"{_cpu_name()} {capability} x{torch.get_num_threads()}"
    return f"{_VERSION}; {kind}; {machine}; torch {torch.__version__}"


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
