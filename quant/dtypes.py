"""Number types by each of their names: ours ("bf16"), torch's ("bfloat16") and safetensors' ("BF16"). No torch at import."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PRECISIONS = ("fp32", "bf16", "fp16")  # types that networks compute in, by our names
TORCH_NAMES = {  # by the words in headers of safetensors files
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
STORED_NAMES = {torch_name: stored for stored, torch_name in TORCH_NAMES.items()}
FLOATS = ("F64", "F32", "F16", "BF16")  # stored types that a float weight may have
STORED_PRECISIONS = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
ITEMSIZE = {"fp32": 4, "bf16": 2, "fp16": 2}  # bytes
_BYTES = {"64": 8, "32": 4, "16": 2}


def stored_bytes(stored: str) -> int:
    """Return the bytes of one value of a type that safetensors names."""
    return _BYTES.get(stored[-2:], 1)


def precision_stored_as(stored: str) -> str:
    """Return our name of a stored type to compute in; the same word for one that has none."""
    names = {"F64": "fp32"} | {theirs: ours for ours, theirs in STORED_PRECISIONS.items()}
    return names.get(stored, stored)


def torch_dtype(name: str) -> "torch.dtype":
    """Return the torch type of any of the three names. KeyError for another name."""
    import torch

    found: torch.dtype = getattr(torch, TORCH_NAMES[STORED_PRECISIONS.get(name, name)])
    return found
