"""Draw pictures with Sana, quantized, on the machine at hand."""

__version__ = "0.2.0"
