"""What a measurement was made on, for the documents in `benchmarks/results/`."""

import platform
from pathlib import Path
from typing import Any

import torch

from sana_cli import __version__

_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


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
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "sana": __version__,
    }
