"""Describe the machine of a measurement: device, clocks, power state, versions, commit."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sana_cli import __version__

_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
# Variables that forbid libraries to use instructions that the processor has.
_LIMITS = (
    "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "FBGEMM_ENABLE_INSTRUCTIONS",
    "OV_CPU_MAX_ISA",
)  # fmt: skip
_PACKAGES = ("diffusers", "transformers", "torchao", "optimum-quanto", "triton", "openvino", "nncf")


def machine() -> dict[str, Any]:
    """Processor, its instruction sets, threads, accelerator and versions."""
    facts: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            facts.setdefault(key.strip(), value.strip())
    return {
        "cpu": facts.get("model name", platform.processor()),
        "instructions": [flag for flag in _FLAGS if flag in facts.get("flags", "").split()],
        "held_to": {name: os.environ[name] for name in _LIMITS if name in os.environ},
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "sana": __version__,
    }


def state() -> dict[str, Any]:
    """Describe what changes from run to run: clocks, load, power, versions of what is compared, commit."""
    return {
        "cpu_mhz": _cpu_mhz(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "mains": _text("/sys/class/power_supply/AC/online"),
        "gpu": _gpu_state(),
        "versions": _versions(),
        "commit": _commit(),
    }


def energy_joules() -> float | None:
    """Return the joules that the GPU has used since its driver started; None if no driver reports
    them.

    Differences of it are the energy of a stage. Needs nvidia-ml-py.
    """
    handle = _nvml_handle()
    if handle is None:
        return None
    import pynvml

    try:
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    except pynvml.NVMLError:  # consumer GPUs before Volta do not count
        return None


def _nvml_handle() -> Any:
    if not torch.cuda.is_available():
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(
            f"GPU-{torch.cuda.get_device_properties(0).uuid}".encode()
        )
    except ImportError:
        return None
    except pynvml.NVMLError:
        return None


def _gpu_state() -> dict[str, Any] | None:
    """Return the driver's readings; None for each value it refuses, as on laptops, in WSL and for
    parts of a GPU.
    """
    handle = _nvml_handle()
    if handle is None:
        return None
    import pynvml

    def reading(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except pynvml.NVMLError:
            return None

    watts = reading(lambda: pynvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000)
    return {
        "sm_mhz": reading(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
        "memory_mhz": reading(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)),
        "power_state": reading(lambda: pynvml.nvmlDeviceGetPerformanceState(handle)),
        "power_limit_w": watts,
        "driver": reading(pynvml.nvmlSystemGetDriverVersion),
    }


def _cpu_mhz() -> float | None:
    text = _text("/proc/cpuinfo") or ""
    clocks = [float(line.split(":")[1]) for line in text.splitlines() if line.startswith("cpu MHz")]
    return round(sum(clocks) / len(clocks)) if clocks else None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """Return the commit of the checkout that runs; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
