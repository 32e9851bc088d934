"""Check the tensors of every kernel: one that reads past their ends would raise no error."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def require_tensor(
    name: str,
    tensor: Tensor,
    shape: Sequence[int | None],
    dtypes: Sequence[torch.dtype] = FLOATS,
    *,
    like: Tensor | None = None,
) -> None:
    """Raise ValueError unless the tensor fits; None in a shape is any length. The last dimension is
    dense.

    `like` is a tensor whose device it must share.
    """
    fits = tensor.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not ({wanted})")
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name} is {tensor.dtype}, not {' or '.join(map(str, dtypes))}")
    if tensor.ndim and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(f"{name} has stride {tensor.stride(-1)} in its last dimension, not 1")
    if like is not None and tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device}, not on {like.device}")


def require_groups(name: str, rows: Tensor, M: int, D: int, *, like: Tensor) -> None:
    """ValueError unless the tensor is (B, D), each row for M / B consecutive rows of another."""
    require_tensor(name, rows, (None, D), like=like)
    if not len(rows) or M % len(rows):
        raise ValueError(f"{name} has {len(rows)} rows, which do not divide {M}")


def require_contiguous(name: str, tensor: Tensor) -> None:
    if not tensor.is_contiguous():
        raise ValueError(f"{name} of shape {tuple(tensor.shape)} is not contiguous")


def require_float(name: str, dtype: torch.dtype) -> None:
    if dtype not in FLOATS:
        raise ValueError(f"{name} is {dtype}, not {' or '.join(map(str, FLOATS))}")


def require_quantized(name: str, dtype: torch.dtype) -> None:
    if dtype not in (torch.int8, torch.float8_e4m3fn):
        raise ValueError(f"{name} is {dtype}, not torch.int8 or torch.float8_e4m3fn")


def interpreted() -> bool:
    """Return whether Triton interprets kernels, which also runs them on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def require_device(tensor: Tensor) -> None:
    """Require a CUDA device, or any under Triton's interpreter. Call it last: it finds no mistake of shape."""
    if tensor.device.type != "cuda" and not interpreted():
        raise ValueError(f"these kernels run on a CUDA device, not on {tensor.device}")
