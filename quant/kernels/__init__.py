"""Triton kernels for CUDA devices. Only the `kernel.py` files, `epilogue.py` and `rows.py` import Triton, when first used.

Each folder holds one public function, which checks what it is given, and its kernel. Results are
defined by `quant/primitives.py` and `quant/layers.py`, with `reference.py` for what those leave out.
"""
