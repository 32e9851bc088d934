"""How quantized layers are multiplied on a device: kernels, their verification, and the choice among them."""
