"""Triton kernels for CUDA devices. Only the `kernel.py` files, `epilogue.py`, `rows.py` and `dot.py` import Triton,
when first used.

Each folder holds a public function or two, which check what they are given, and their kernel. Results are
defined by `quant/primitives.py` and `quant/layers.py`, with `reference.py` for what those leave out.
"""
