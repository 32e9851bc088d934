"""Measurements of sana; each module runs as `python -m benchmarks.NAME`, results are kept in `results/`."""
