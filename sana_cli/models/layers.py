"""Layers that the Linear-DiT and DC-AE share.

Both networks keep channels last: the DiT as (B, N, C) tokens, DC-AE as (B, C, H, W) tensors whose
memory is NHWC. So a 1x1 convolution is a matrix product over the last axis and no copy is needed.
"""

# B batch, N positions, C channels, H heads, E head width

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from quant.native import rows as native

_NORM_BLOCK = 2**18  # elements that are normed at once: a mebibyte


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution applied to channels-last tokens (..., C_in) -> (..., C_out).

    It stays an `nn.Conv2d` so that weights keep their published shape (C_out, C_in, 1, 1).
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1, bias=bias)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(tokens, self.weight.flatten(1), self.bias)


class SeldomLinear(nn.Linear):
    """A linear layer that runs once per prompt or step: its weights stay as stored until then.

    Half of a quantized transformer's floats are such; converted when they are loaded, they would double.
    """

    stays_as_stored = True  # what `sana_cli.loading.assign` looks for

    def forward(self, x: Tensor) -> Tensor:
        bias: Tensor | None = self._parameters["bias"]  # torch's types forget that it may be None
        return F.linear(x, self.weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis: variance in fp32, then weight and optional bias."""

    def __init__(self, channels: int, *, eps: float = 1e-5, bias: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(
        self, x: Tensor, residual: Tensor | None = None, *, inplace: bool = False
    ) -> Tensor:
        """Norm of x (..., C), plus `residual`. `inplace`: nobody else holds x, which may be overwritten."""
        if x.device.type == "cpu" and not torch.is_grad_enabled():
            return self._in_blocks(x, residual, inplace=inplace)
        # One pass on a GPU, and no fp32 copy of the map; rounded before the weight, as published.
        x = F.rms_norm(x, x.shape[-1:], eps=self.eps).to(self.weight.dtype) * self.weight
        x = x if self.bias is None else add_to(self.bias, x)
        return x if residual is None else add_to(residual, x)

    def _in_blocks(
        self, x: Tensor, residual: Tensor | None, *, inplace: bool, block: int = _NORM_BLOCK
    ) -> Tensor:
        """Normalize in fp32 in one pass over memory: each step, of about `block` elements, finds the
        last step's output in the cores' caches.
        """
        C = x.shape[-1]
        contiguous = torch.contiguous_format
        out = x if inplace and x.is_contiguous() else torch.empty_like(x, memory_format=contiguous)
        sources = [t.reshape(-1, C) for t in (x, residual) if t is not None]
        targets = out.view(-1, C)
        if native.runs(targets, *sources, whole=True):
            native.rms_norm(
                sources[0], self.weight, self.bias, sources[1] if len(sources) > 1 else None,
                eps=self.eps, out=targets,
            )  # fmt: skip
            return out
        weight, bias = self.weight.float(), None if self.bias is None else self.bias.float()
        rows = max(block // C, 1)
        for target, *parts in zip(*(t.split(rows) for t in (targets, *sources)), strict=True):
            norm = torch.linalg.vector_norm(parts[0], dim=-1, keepdim=True, dtype=torch.float32)
            factor = norm.square_().div_(C).add_(self.eps).rsqrt_()
            scaled = torch.mul(parts[0], factor, out=target if x.dtype == torch.float32 else None)
            if bias is None:
                scaled.mul_(weight)
            else:
                torch.addcmul(bias, scaled, weight, out=scaled)
            for rest in parts[1:]:
                scaled.add_(rest)
            if scaled is not target:
                target.copy_(scaled)
        return out


def silu_of(layer: nn.Module, x: Tensor) -> Tensor:
    """SiLU of a layer's output: within its product where it can, else in place where autograd lets it."""
    fused: Callable[[Tensor], Tensor] | None = getattr(layer, "forward_silu", None)
    return fused(x) if fused is not None else silu_(layer(x))


def silu_(x: Tensor) -> Tensor:
    """SiLU of what nobody else holds, (..., C): in place where autograd lets it."""
    # For fp32 torch's own pass is as fast.
    if x.dtype == torch.bfloat16 and native.runs(x, whole=True):
        return native.silu_(x)
    return F.silu(x, inplace=not torch.is_grad_enabled())


def add_to(x: Tensor, update: Tensor) -> Tensor:
    """x + update; into `update`, which nobody else may hold, where autograd lets it."""
    return x + update if torch.is_grad_enabled() else update.add_(x)


class DepthwiseGLU(nn.Module):
    """Sana's Mix-FFN body ("GLUMBConv"): 1x1 up, SiLU, depthwise 3x3, x * SiLU(gate), 1x1 down.

    The 3x3 convolution is what gives the DiT its sense of position (arXiv 2410.10629, 2.3).
    Subclasses add what surrounds it. Maps (B, h, w, C) to (B, h, w, C).
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv_inverted = PointwiseConv2d(channels, 2 * hidden, bias=True)
        self.conv_depth = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.conv_point = PointwiseConv2d(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = silu_of(self.conv_inverted, x)
        x = self.conv_depth(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.conv_point(gated_unit(x))


def gated_unit(x: Tensor) -> Tensor:
    """(..., 2C) -> (..., C): the first half of the channels times the SiLU of the second."""
    if x.dtype == torch.bfloat16 and native.runs(x, whole=True):
        return native.gated_unit(x)
    values, gates = x.chunk(2, dim=-1)
    gates = F.silu(gates)
    return values * gates if torch.is_grad_enabled() else gates.mul_(values)


def relu_linear_attention(q: Tensor, k: Tensor, v: Tensor, *, eps: float = 1e-15) -> Tensor:
    """ReLU linear attention over N positions, linear in N (arXiv 2410.10629, section 2.3).

    q, k, v: (B, N, H, E), any float dtype. Returns (B, N, H, E) in v's dtype. Sums run in fp32,
    since they add up to 16384 positions. No softmax and no 1/sqrt(E) scale: the published weights
    were trained without.
    """
    return attend_to_sums(q, *key_value_sums(k, v), eps=eps).to(v.dtype)


def key_value_sums(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Sum keys and values over all positions: (B, H, E, E) and (B, H, E, 1), fp32.

    Sums over parts of the positions may be added: that is how a map too large for memory is
    attended to.
    """
    k, v = F.relu(k).float(), v.float()
    # Picture by picture, (H, E, N) @ (H, N, E): strides that a product takes as they are, without copies.
    pairs = zip(k, v, strict=True)
    sums = torch.stack([torch.bmm(a.permute(1, 2, 0), b.permute(1, 0, 2)) for a, b in pairs])
    return sums, k.sum(dim=1).unsqueeze(-1)


def attend_to_sums(q: Tensor, key_value: Tensor, key_sum: Tensor, *, eps: float = 1e-15) -> Tensor:
    """The second half of linear attention: q (B, N, H, E) and both sums -> (B, N, H, E) fp32."""
    q = F.relu(q).float().transpose(1, 2)  # (B, H, N, E)
    both = q @ torch.cat([key_value, key_sum], dim=-1)  # (B, H, N, E + 1): one product for two
    attended, total = both.split([key_value.shape[-1], 1], dim=-1)
    return (attended / (total + eps)).transpose(1, 2)
