"""Linear layers of any scheme as the engine multiplies with them: with what follows in the same launch.

Floating-point weights are torch's to multiply, w8a8 ours; any other layer runs itself.
"""

# M rows (tokens), K input channels, N output channels

from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from quant.backends.cuda import multiplies_float8
from quant.backends.timing import fastest
from quant.backends.verdicts import remembered
from quant.layers import QuantLinear
from quant.primitives import FLOAT8
from sana_cli.accelerate.cuda.kernels import Kernels
from sana_cli.models.layers import PointwiseConv2d

_PROBE_ROWS = (64, 1024, 16384)  # for which both ways of quantizing are timed

# int8 (M, K) and fp32 scales (M,); or floats and the largest magnitudes of their rows, to be quantized by
Int8 = tuple[Tensor, Tensor]


class Projection:
    """x (M, K) -> (M, N) of one layer, or of several as one product.

    `late_bias` is what `add_to` leaves to the caller.
    """

    late_bias: Tensor | None = None
    takes_int8 = False  # or e4m3, as `q_dtype` says
    q_dtype = torch.int8
    smooth: Tensor | None = None
    applies_silu = False  # of `activation="silu"`
    adds = True  # `add_to` is the product's own launch; else `unbiased` leaves adding to whoever reads the stream next

    def __call__(self, x: Tensor | Int8, *, activation: Literal["silu"] | None = None) -> Tensor:
        raise NotImplementedError

    def add_to(self, stream: Tensor, x: Tensor | Int8) -> None:
        """stream (M, N) += x W^T in place."""
        stream.add_(self.unbiased(x))

    def unbiased(self, x: Tensor | Int8) -> Tensor:
        """(M, N) without `late_bias`, where the product itself does not add it to a stream."""
        raise NotImplementedError

    def add_gated(self, stream: Tensor, x: Tensor, gate: Tensor) -> Tensor | None:
        """stream += gate * (x W^T + bias) in place; or return the term in brackets, for the caller to add."""
        return self(x)


class FloatProjection(Projection):
    """torch's product."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias, self.late_bias = weight, bias, bias

    def __call__(self, x: Tensor | Int8, *, activation: Literal["silu"] | None = None) -> Tensor:
        assert isinstance(x, Tensor)
        return nn.functional.linear(x, self.weight, self.bias)

    def add_to(self, stream: Tensor, x: Tensor | Int8) -> None:
        assert isinstance(x, Tensor)
        stream.addmm_(x, self.weight.T)


class _QuantizedProjection(Projection):
    """A stored 8-bit weight with its scales; the kind of numbers decides what multiplies it."""

    def __init__(
        self,
        kernels: Kernels,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        *,
        smooth: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        self.kernels, self.weight, self.scale, self.bias = kernels, weight, scale, bias
        self.smooth, self.dtype, self.late_bias = smooth, dtype, bias


class Int8Projection(_QuantizedProjection):
    """The fused w8a8 product, and the quantizer before it where the producer of x has none."""

    takes_int8 = True
    applies_silu = True
    quantizes_apart = (
        False  # floats with known magnitudes: in a launch of their own, and not while they are read
    )

    def _multiply(self, x: Tensor | Int8, **rest: Any) -> Tensor:
        if isinstance(x, Tensor):
            x = self.kernels.quantize_per_token(x, smooth=self.smooth)
        elif self.quantizes_apart and x[0].dtype != torch.int8:
            x = self.kernels.quantize_per_token(x[0], smooth=self.smooth)
        is_int8 = x[0].dtype == torch.int8
        kernel = self.kernels.linear_w8a8 if is_int8 else self.kernels.linear_w8a8_on_load
        return kernel(*x, self.weight, self.scale, **rest)

    def __call__(self, x: Tensor | Int8, *, activation: Literal["silu"] | None = None) -> Tensor:
        return self._multiply(x, bias=self.bias, activation=activation, out_dtype=self.dtype)

    def add_to(self, stream: Tensor, x: Tensor | Int8) -> None:
        self._multiply(x, residual=stream, out=stream)

    def add_gated(
        self,
        stream: Tensor,
        x: Tensor,
        gate: Tensor,
        *,
        largest: Tensor | None = None,
        smooth: Tensor | None = None,
    ) -> None:
        """Add the gated product to the stream; raise `largest` (M,) to the rows' largest magnitudes
        (times `smooth`).
        """
        self._multiply(
            x, bias=self.bias, gate=gate, residual=stream, out=stream, out_largest=largest,
            out_smooth=smooth,
        )  # fmt: skip


def quantizing_apart_pays(
    projection: Int8Projection, device: torch.device, *, verdicts: Path | None
) -> bool:
    """Return whether a quantizer and a product of integers take less time here than a product that quantizes what it reads.

    The one saves a launch and the integers' way through memory, the other the work of quantizing each row once for every
    tile of columns.
    """
    weight, dtype = projection.weight, projection.dtype

    def runs_at(rows: int) -> list[Callable[[], object]]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(rows, weight.shape[1], generator=generator).to(device, dtype)
        given = x, x.float().abs().amax(dim=1)

        def run(apart: bool) -> Tensor:
            trial = copy(projection)
            trial.quantizes_apart = apart
            return trial(given)

        return [lambda: run(False), lambda: run(True)]

    def decide() -> str:
        with torch.inference_mode():
            return ("on load", "apart")[fastest(runs_at, _PROBE_ROWS, device)]

    found = remembered(
        f"quantizing for {tuple(weight.shape)} {dtype}", device, decide, verdicts=verdicts,
        is_known=lambda verdict: verdict in ("on load", "apart"),
    )  # fmt: skip
    return found == "apart"


class Float8Projection(_QuantizedProjection):
    """The library's product of 8-bit floats. What follows it is left to others, as for floats."""

    takes_int8 = True
    adds = False
    q_dtype = FLOAT8

    def _multiply(self, x: Tensor | Int8, bias: Tensor | None) -> Tensor:
        if isinstance(x, Tensor):
            x = self.kernels.quantize_per_token(x, smooth=self.smooth, q_dtype=FLOAT8)
        return self.kernels.linear_f8a8(
            *x, self.weight, self.scale, bias=bias, out_dtype=self.dtype
        )

    def __call__(self, x: Tensor | Int8, *, activation: Literal["silu"] | None = None) -> Tensor:
        return self._multiply(x, self.bias)

    def unbiased(self, x: Tensor | Int8) -> Tensor:
        return self._multiply(x, None)


class LayerProjection(Projection):
    """Any other layer: with 4-bit weights, or weight-only."""

    adds = False

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __call__(self, x: Tensor | Int8, *, activation: Literal["silu"] | None = None) -> Tensor:
        return self.layer(x)

    def unbiased(self, x: Tensor | Int8) -> Tensor:
        return self(x)


def project(layers: Sequence[nn.Module], kernels: Kernels, dtype: torch.dtype) -> list[Projection]:
    """Layers with the same input, as one projection where that is one product, else one each.

    Joined weights are copied together and the layers keep views of them, so that nothing is held twice.
    """
    if all(isinstance(layer, nn.Linear | PointwiseConv2d) for layer in layers):
        weight = _joined(layers, "weight")
        return [FloatProjection(weight.flatten(1), _joined_bias(layers))]
    for scheme, projection in (("w8a8", Int8Projection), ("f8a8", Float8Projection)):
        quantized = [x for x in layers if isinstance(x, QuantLinear) and _is(x, scheme)]
        if len(quantized) == len(layers) and _same_smooth(quantized):
            weight, scale = _joined(layers, "qweight"), _joined(layers, "scale")
            smooth, bias = quantized[0].smooth, _joined_bias(layers)
            return [projection(kernels, weight, scale, bias, smooth=smooth, dtype=dtype)]
    if len(layers) == 1:
        return [LayerProjection(layers[0])]
    return [part for layer in layers for part in project([layer], kernels, dtype)]


def _is(layer: QuantLinear, scheme: str) -> bool:
    """Return whether the engine multiplies a layer of this scheme: its values are as stored, since another library's
    kernel may have taken them, and the product takes its widths and gives its type.
    """
    if layer.config.scheme.name != scheme or not layer.holds_weight:
        return False
    return scheme != "f8a8" or (
        multiplies_float8() and not any(n % 16 for n in layer.qweight.shape)
    )


def _same_smooth(layers: Sequence[QuantLinear]) -> bool:
    first, *rest = (layer.smooth for layer in layers)
    if first is None:
        return all(other is None for other in rest)
    return all(other is not None and torch.equal(first, other) for other in rest)


def _joined(layers: Sequence[nn.Module], name: str) -> Tensor:
    """Tensors of all layers in one; they become views of it."""
    tensors = [getattr(layer, name).detach() for layer in layers]
    if len(tensors) == 1:
        return tensors[0]
    whole = torch.cat(tensors)
    for layer, view in zip(layers, whole.split([len(t) for t in tensors]), strict=True):
        is_buffer = name in layer._buffers
        setattr(layer, name, view if is_buffer else nn.Parameter(view, requires_grad=False))
    return whole


def _joined_bias(layers: Sequence[nn.Module]) -> Tensor | None:
    return None if getattr(layers[0], "bias", None) is None else _joined(layers, "bias")
