"""Pick the device that runs a model, and the floating-point type of each of its parts.

The published rule: a transformer runs in the type it was trained in or in fp32 (an fp16 one in bf16
draws garbage, a bf16 one overflows in fp16); DC-AE and Gemma never run in fp16. Nothing runs in bf16 on a GPU that has
no instructions for it.
"""

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from sana_cli.errors import ExitCode, SanaError, usage_error

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16", "fp16"]


class Device(Protocol):
    """A torch.device, or a `NamedDevice` where torch has not been imported."""

    @property
    def type(self) -> str: ...


@dataclass(frozen=True, slots=True)
class NamedDevice:
    """A device by its type alone: enough to plan for."""

    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DtypePlan:
    """The dtype of each part, by name ("fp32", "bf16", "fp16")."""

    transformer: str
    vae: str
    text_encoder: str

    def __str__(self) -> str:
        """Write "fp16", or "fp16+bf16" when the other parts differ from the transformer."""
        return "+".join(dict.fromkeys((self.transformer, self.vae, self.text_encoder)))


SAFEST = DtypePlan(transformer="fp32", vae="fp32", text_encoder="fp32")


def foresee_device(requested: str) -> Device:
    """Predict the result of `pick_device`; without torch on a machine that shows no sign of a GPU."""
    gpu = (
        sys.platform == "darwin" or Path("/proc/driver/nvidia").exists() or sys.platform == "win32"
    )
    if requested == "cpu" or (requested == "auto" and not gpu):
        return NamedDevice("cpu")
    return pick_device(requested)


def pick_device(requested: str) -> "torch.device":
    """Turn "auto", "cpu", "cuda" or "mps" into a device that is there; SanaError otherwise."""
    import torch

    available: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if requested == "auto":
        return torch.device(next(name for name, there in available.items() if there()))
    if not available[requested]():
        hints = {
            "cuda": "check `nvidia-smi` and that torch is a CUDA build, or use --device cpu",
            "mps": "needs macOS on Apple silicon; use --device cpu",
        }
        raise SanaError(
            f"device {requested} is not available here",
            hint=hints[requested],
            code=ExitCode.ENVIRONMENT,
        )
    return torch.device(requested)


def plan_dtypes(requested: Precision, trained: str, device: Device) -> DtypePlan:
    """Return the dtype of each part for a transformer trained in `trained` ("fp32", "bf16",
    "fp16").

    Raises SanaError when `requested` is known to give a broken picture with these weights, or none
    on this device.
    """
    if {requested, trained} == {"fp16", "bf16"}:
        raise usage_error(
            f"this model was trained in {trained}; {requested} would give a broken picture",
            f"use --precision {trained}, fp32 or auto",
        )
    if requested == "bf16" and device.type == "cuda" and not cuda_has_bf16():
        raise SanaError(
            "this GPU has no bf16 instructions (they came with compute capability 8.0)",
            hint="use --precision auto or fp32; sana-0.6b and sana-1.6b-fp16 were trained in fp16",
            code=ExitCode.ENVIRONMENT,
        )
    transformer = _fastest_safe(trained, device) if requested == "auto" else requested
    # Where an fp16 model's transformer must run in fp32, its other parts still may run in bf16.
    halves = transformer != "fp32" or (requested == "auto" and trained != "fp32")
    others = "bf16" if halves and _has_fast_bf16(device) else "fp32"
    return DtypePlan(transformer=transformer, vae=others, text_encoder=others)


def _fastest_safe(trained: str, device: Device) -> str:
    if trained == "bf16" and _has_fast_bf16(device):
        return "bf16"
    if trained == "fp16" and device.type == "cuda":
        return "fp16"
    # A bf16 model on a GPU without it, an fp16 one on a CPU, and everything on Apple's GPU: users met grey pictures below fp32.
    return "fp32"


def slowness(requested: Precision, device: Device) -> str:
    """Why a precision that was asked for is slow on a device, in words; "" where it is not."""
    slow = requested == "fp16" or (requested == "bf16" and not cpu_has_fast_bf16())
    if device.type != "cpu" or not slow:
        return ""
    return f"{requested} is several times slower than fp32 on this CPU"


def _has_fast_bf16(device: Device) -> bool:
    if device.type == "cuda":
        return cuda_has_bf16()
    return device.type == "cpu" and cpu_has_fast_bf16()


def cuda_has_bf16() -> bool:
    """Return whether the CUDA device has bf16 instructions: torch emulates products without them,
    cuDNN no convolutions.

    True if there is no device, and one is only planned for.
    """
    import torch

    return not torch.cuda.is_available() or torch.cuda.get_device_capability() >= (8, 0)


def cpu_has_fast_bf16() -> bool:
    """Return whether the CPU has instructions for bf16 products and oneDNN may use them.

    Without them fp32 is several times faster.
    """
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    if not any(name in allowed for name in ("ALL", "DEFAULT", "BF16", "FP16", "AMX", "AVX10")):
        return False
    if sys.platform == "linux" and platform.machine() == "x86_64":
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        except OSError:
            return False
        flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
        return bool({"avx512_bf16", "amx_tile"} & set(flags.split()))
    import torch

    if not torch.backends.mkldnn.is_available():
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
