"""The bias and activation after a product that has neither: cuDNN's convolutions leave both to passes of their own."""

# M rows (pixels or tokens), C channels

from typing import Literal

from torch import Tensor

from quant.kernels.checks import require_contiguous, require_device, require_tensor


def bias_activation(
    x: Tensor, bias: Tensor | None, *, activation: Literal["silu", "relu"] | None = None
) -> Tensor:
    """x = activation(x + bias) in place, in fp32. x (M, C) contiguous; bias (C,). Returns x."""
    require_tensor("x", x, (None, None))
    require_contiguous("x", x)
    if bias is not None:
        require_tensor("bias", bias, x.shape[1:], like=x)
    if activation not in (None, "silu", "relu"):
        raise ValueError(f"activation is {activation!r}, not 'silu', 'relu' or None")
    require_device(x)
    if x.numel() and not (bias is None and activation is None):
        from quant.kernels.bias_activation.kernel import launch

        launch(x, bias, activation)
    return x
