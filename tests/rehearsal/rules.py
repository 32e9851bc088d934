"""What a device refuses of calls that a CPU takes: shapes, types and addresses of libraries and of launches."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tests.rehearsal.memory import offset_bytes

Capability = tuple[int, int]
_VECTOR = 16  # bytes of the widest load


def refuse(name: str, args: Any, capability: Capability) -> None:
    """Raise what the device's libraries raise for this call."""
    if rule := _RULES.get(name):
        rule(args, capability)


def _int_mm(args: Any, capability: Capability) -> None:
    """cuBLAS: more than 16 rows, multiples of 8, 16-byte addresses, the second matrix by columns or by rows."""
    a, b = args[:2]
    (M, K), N = a.shape, b.shape[1]
    if M <= 16:
        raise RuntimeError(f"self.size(0) needs to be greater than 16, but got {M}")
    if K % 8 or N % 8:
        raise RuntimeError(f"self.size(1) and mat2.size(1) need to be multiples of 8: {K}, {N}")
    if any(offset_bytes(t) % _VECTOR for t in (a, b)):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED (misaligned address)")


def _scaled_mm(args: Any, capability: Capability) -> None:
    """Products of fp8: from 8.9, multiples of 16, the first matrix by rows and the second by columns."""
    a, b = args[:2]
    if capability < (8, 9):
        raise RuntimeError(
            "torch._scaled_mm is only supported on CUDA devices with compute capability >= 9.0 or 8.9"
        )
    if a.shape[1] % 16 or b.shape[1] % 16:
        raise RuntimeError(f"trailing dimensions must be divisible by 16: {a.shape}, {b.shape}")
    if a.stride(1) != 1 or b.stride(0) != 1:
        raise RuntimeError("mat_a must be row major and mat_b column major")


def _conv2d(args: Any, capability: Capability) -> None:
    if args[0].dtype == torch.bfloat16 and capability < (8, 0):
        raise RuntimeError("GET was unable to find an engine to execute this computation")


_RULES: dict[str, Callable[[Any, Capability], None]] = {
    "_int_mm": _int_mm,
    "_scaled_mm": _scaled_mm,
    "conv2d": _conv2d,
}


def variant(name: str, tensors: Sequence[torch.Tensor | None]) -> tuple[Any, ...]:
    """What Triton compiles a kernel anew for: types, absent tensors, multiples of 16, ones."""
    return name, *(
        None
        if t is None
        else (
            t.dtype,
            offset_bytes(t) % _VECTOR == 0,
            *((n == 1, n % 16 == 0) for n in (*t.shape, *t.stride())),
        )
        for t in tensors
    )
