"""Quantization that has seen data: what to run, what to observe, and what to make of it."""
