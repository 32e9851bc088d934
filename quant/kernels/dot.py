"""Choose how tensor cores take the inputs of a product of floats. Imports Triton, like `epilogue.py`."""

import torch
import triton.language as tl

from quant.kernels.checks import interpreted


def dot_type(dtype: torch.dtype) -> tl.dtype:
    """The inputs' own; fp32 under the interpreter, which multiplies the bits of bf16 as integers."""
    if interpreted() or dtype == torch.float32:
        return tl.float32
    return tl.bfloat16 if dtype == torch.bfloat16 else tl.float16


def precision() -> str:
    """Return the precision of products of fp32 inputs: three of tf32 for each. AMD's matrix cores multiply fp32 as it is."""
    return "tf32x3" if torch.version.hip is None else "ieee"
