"""Multiply quantized layers on a device: kernels, their verification, and the choice among them."""
