"""The Linear-DiT on a CUDA device: the modules of `sana_cli.models`, run with fused kernels and as one CUDA graph.

`models/` stays the reference and the fallback. The engine reads a loaded model's weights and computes the same.
"""
