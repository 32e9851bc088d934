"""The CUDA engine: a transformer step as fused kernels and one graph, and the decoder's kernels."""
