"""Sana's networks in plain PyTorch, with the parameter names of the published checkpoints."""
