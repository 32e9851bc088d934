"""Quantization of linear and convolution layers; knows nothing of Sana."""
