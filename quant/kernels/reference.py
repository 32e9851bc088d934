"""Define what the fused kernels compute beyond `primitives.py`, in plain PyTorch: slow, obvious, on
any device.
"""

# M rows (tokens), D channels, K input channels, N output channels, B batch, H x W pixels

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from quant import primitives


def linear_w8a8(
    q: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    *,
    bias: Tensor | None = None,
    activation: str | None = None,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
    out_largest: Tensor | None = None,
    out_smooth: Tensor | None = None,
) -> Tensor:
    """(M, N): int32 sums, both scales, then bias, activation, gate and residual in fp32."""
    sums = primitives.int8_matmul(q, weight).float()
    result = _finish(sums * scale[:, None] * weight_scale, bias, activation)
    if gate is not None:
        result = result * _by_row(gate, result)
    if residual is not None:
        result = result + residual.float()
    out = result.to(out_dtype) if out is None else out.copy_(result)
    _raise_largest(out_largest, out, out_smooth)
    return out


def linear_w8a8_on_load(
    x: Tensor,
    largest: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    *,
    smooth: Tensor | None = None,
    **rest: Any,
) -> Tensor:
    """Compute `linear_w8a8` of floats, with the scales that belong to their rows' largest magnitudes."""
    wide, scale = x.float() if smooth is None else x.float() * smooth, largest / primitives.INT8_MAX
    q = wide / torch.where(scale > 0, scale, 1.0)[:, None]
    q = q.round_().clamp_(-primitives.INT8_MAX, primitives.INT8_MAX).to(torch.int8)
    return linear_w8a8(q, scale, weight, weight_scale, **rest)


def cross_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    mask: Tensor | None = None,
    out_largest: Tensor | None = None,
) -> Tensor:
    """(M, D) of queries (M, D), keys and values (B, H, L, E): softmax attention of every head."""
    heads = q.unflatten(0, (len(keys), -1)).unflatten(-1, keys.shape[1::2]).transpose(1, 2)
    seen = None if mask is None else mask[:, None, None]
    out = F.scaled_dot_product_attention(heads, keys, values, attn_mask=seen)
    out = out.transpose(1, 2).reshape(q.shape)
    _raise_largest(out_largest, out, None)
    return out


def softcap_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    past_k: Tensor,
    past_v: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    scale: float,
    cap: float | None,
    window: int | None,
) -> Tensor:
    """(L, H * E) of q (L, H * E), k and v (L, K * E) that follow a cache (K, S, E): Gemma-2's attention, in fp32."""
    (K, S, E), L = past_k.shape, len(q)

    def heads(new: Tensor, *, rotate: bool) -> Tensor:
        x = new.float().unflatten(-1, (-1, E)).transpose(0, 1)  # (H or K, L, E)
        first, second = x.chunk(2, dim=-1)
        turned = x * cos.float() + torch.cat([-second, first], dim=-1) * sin.float()
        return turned.to(q.dtype).float() if rotate else x

    queries, shared = heads(q, rotate=True), q.shape[1] // (K * E)
    keys, values = (
        torch.cat([past.float(), new], dim=1).repeat_interleave(shared, dim=0)
        for past, new in ((past_k, heads(k, rotate=True)), (past_v, heads(v, rotate=False)))
    )
    scores = queries @ keys.transpose(1, 2) * scale
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    positions = torch.arange(S + L, device=q.device)
    distance = positions[S:, None] - positions
    unseen = distance < 0 if window is None else (distance < 0) | (distance >= window)
    shares = scores.masked_fill(unseen, float("-inf")).softmax(dim=-1)
    return (shares @ values).transpose(0, 1).flatten(1).to(q.dtype)


def cross_attention_w8a8(
    x: Tensor,
    largest: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    bias: Tensor | None = None,
    smooth: Tensor | None = None,
    mask: Tensor | None = None,
    out_largest: Tensor | None = None,
) -> Tensor:
    """(M, D): the same of queries that are a w8a8 product, rounded to x's type."""
    q = linear_w8a8_on_load(
        x, largest, weight, weight_scale, smooth=smooth, bias=bias, out_dtype=x.dtype
    )
    return cross_attention(q, keys, values, mask=mask, out_largest=out_largest)


def conv3x3_w8a8(
    q: Tensor,
    act_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    *,
    bias: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    upsampled: bool = False,
    shortcut: Tensor | None = None,
    out_largest: Tensor | None = None,
    out_dtype: torch.dtype,
) -> Tensor:
    """(B, H, W, N): a 3x3 convolution with stride 1 and a border of zeros; sums are exact in fp64.

    q (B, H, W, K), weight (N, 3, 3, K).
    """
    q_BKHW = q.permute(0, 3, 1, 2).double()
    if upsampled:
        q_BKHW = F.interpolate(q_BKHW, scale_factor=2, mode="nearest")
    weight_NKhw = weight.permute(0, 3, 1, 2).double()
    sums = F.conv2d(q_BKHW, weight_NKhw, padding=1).float().permute(0, 2, 3, 1)
    scale_BN = act_scale.expand(len(q))[:, None] * weight_scale
    out = sums * scale_BN[:, None, None]
    if shortcut is not None:
        out = out + _shuffled(shortcut, out.shape[3])
    out = _finish(out, bias, activation)
    if residual is not None:
        out = out + residual.float()
    out = out.to(out_dtype)
    _raise_largest(out_largest, out.flatten(1), None)
    return out


def quantize_map(
    x: Tensor, *, scale: Tensor | None = None, largest: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """int8 of x's shape with one scale a picture (B,), or one that is given ()."""
    if scale is None:
        largest = x.flatten(1).float().abs().amax(dim=1) if largest is None else largest
        scale = largest / primitives.INT8_MAX
    divisor = torch.where(scale > 0, scale, 1.0).expand(len(x)).view(-1, *[1] * (x.ndim - 1))
    q = (x.float() / divisor).round_().clamp_(-primitives.INT8_MAX, primitives.INT8_MAX)
    return q.to(torch.int8), scale


def bias_activation(x: Tensor, bias: Tensor | None, *, activation: str | None = None) -> Tensor:
    """x = activation(x + bias) in place, (M, C)."""
    wide = x.float() if bias is None else x.float() + bias.float()
    return x.copy_(F.silu(wide) if activation == "silu" else F.relu(wide) if activation else wide)


def join_phases(
    phases: Sequence[Tensor], bias: Tensor | None, *, shortcut: Tensor | None = None
) -> Tensor:
    """(B, 2H, 2W, N) of four phases (B, H + 1, W + 1, N), a bias and an up-sampling's shortcut (B, H, W, K)."""
    B, H, W, N = phases[0].shape
    out = phases[0].new_empty(B, 2 * H - 2, 2 * W - 2, N, dtype=torch.float32)
    for phase, values in enumerate(phases):
        i, j = divmod(phase, 2)
        out[:, i::2, j::2] = values[:, i : i + H - 1, j : j + W - 1].float()
    if bias is not None:
        out = out + bias.float()
    if shortcut is not None:
        out = out + _shuffled(shortcut, N)
    return out.to(phases[0].dtype)


def _shuffled(shortcut: Tensor, N: int) -> Tensor:
    """The shortcut of an up-sampling, (B, H, W, K) -> (B, 2H, 2W, N) fp32."""
    first = shortcut.float().permute(0, 3, 1, 2)
    wide = first.repeat_interleave(4 * N // first.shape[1], dim=1)
    return F.pixel_shuffle(wide, 2).permute(0, 2, 3, 1)


def layer_norm_modulate(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    *,
    eps: float,
    branch: Tensor | None = None,
    branch_first: int = 0,
    gate: Tensor | None = None,
    addend: Tensor | None = None,
) -> Tensor:
    """(M, D): x += gate * branch, which may be of some rows, and x += addend in place, then AdaLN in fp32."""
    sums = x.float()
    if branch is not None:
        whole = torch.zeros_like(sums)
        whole[branch_first : branch_first + len(branch)] = branch
        sums = sums + (whole if gate is None else whole * _by_row(gate, x))
    if addend is not None:
        sums = sums + _by_row(addend, x)
    x.copy_(sums)
    normed = F.layer_norm(x.float(), x.shape[-1:], eps=eps)
    return (normed * (1 + _by_row(scale, x)) + _by_row(shift, x)).to(x.dtype)


def layer_norm_modulate_quantize(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    *,
    eps: float,
    branch: Tensor | None = None,
    branch_first: int = 0,
    gate: Tensor | None = None,
    addend: Tensor | None = None,
    smooth: Tensor | None = None,
    q_dtype: torch.dtype = torch.int8,
) -> tuple[Tensor, Tensor]:
    """int8 or e4m3 (M, D) and scales (M,) of the above."""
    normed = layer_norm_modulate(
        x, shift, scale, eps=eps, branch=branch, branch_first=branch_first, gate=gate, addend=addend
    )
    return quantize_per_token(normed, smooth=smooth, q_dtype=q_dtype)


def quantize_per_token(
    x: Tensor,
    *,
    smooth: Tensor | None = None,
    branch: Tensor | None = None,
    gate: Tensor | None = None,
    q_dtype: torch.dtype = torch.int8,
) -> tuple[Tensor, Tensor]:
    """int8 or e4m3 (M, K) and scales (M,) of x * smooth, after x += gate * branch in place."""
    if branch is not None and gate is not None:
        x.copy_(x.float() + branch.float() * _by_row(gate, x))
    wide = x.float() if smooth is None else x.float() * smooth
    if q_dtype == torch.int8:
        return primitives.quantize_per_token(wide)
    return primitives.quantize_rows_float8(wide)


def linear_f8a8(
    q: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    *,
    bias: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """(M, N) of e4m3: fp32 sums, then both scales and the bias."""
    sums = q.float() @ weight.float().T
    return _finish(sums * scale[:, None] * weight_scale, bias, None).to(out_dtype)


def relu_linear_attention(q: Tensor, k: Tensor, v: Tensor, *, eps: float = 1e-15) -> Tensor:
    """(B, N, H, E): sums over all positions in fp32."""
    q, k, wide = (t.float().transpose(1, 2) for t in (F.relu(q), F.relu(k), v))  # (B, H, N, E)
    sums, key_sum = k.transpose(-1, -2) @ wide, k.sum(dim=2).unsqueeze(-1)
    return ((q @ sums) / (q @ key_sum + eps)).transpose(1, 2).to(v.dtype).contiguous()


def depthwise3x3_glu(
    x: Tensor, weight: Tensor, bias: Tensor, *, activation: str | None = None
) -> Tensor:
    """(B, H, W, 2C) -> (B, H, W, C): a depthwise convolution in fp32, then values * silu(gates)."""
    wide = F.silu(x.float()) if activation == "silu" else x.float()
    kernel = weight.float().T.unflatten(1, (1, 3, 3))
    out = F.conv2d(wide.permute(0, 3, 1, 2), kernel, bias.float(), padding=1, groups=len(kernel))
    values, gates = out.permute(0, 2, 3, 1).chunk(2, dim=-1)
    return (values * F.silu(gates)).to(x.dtype)


def rms_norm(
    x: Tensor,
    weight: Tensor,
    *,
    eps: float,
    bias: Tensor | None = None,
    activation: str | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    out_largest: Tensor | None = None,
) -> Tensor:
    """(M, P, D), normed over D, in fp32."""
    wide = x.float()
    result = wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt() * weight.float()
    if bias is not None:
        result = result + bias.float()
    if activation == "relu":
        result = F.relu(result)
    if residual is not None:
        result = result + residual.float()
    result = result.to(x.dtype) if out is None else out.copy_(result)
    if out_largest is not None:
        _raise_largest(out_largest, result.view(len(out_largest), -1), None)
    return result


def _raise_largest(largest: Tensor | None, rows: Tensor, smooth: Tensor | None) -> None:
    """In place, to the largest magnitude of each row."""
    if largest is not None:
        wide = rows.float() if smooth is None else rows.float() * smooth
        torch.maximum(largest, wide.abs().amax(dim=1), out=largest)


def _by_row(rows_BD: Tensor, x_MD: Tensor) -> Tensor:
    """fp32 rows that groups of consecutive tokens share, (M, D) or (1, D)."""
    if len(rows_BD) == 1:
        return rows_BD.float()
    return rows_BD.float().repeat_interleave(len(x_MD) // len(rows_BD), dim=0)


def _finish(out: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    if bias is not None:
        out = out + bias.float()
    return F.silu(out) if activation == "silu" else out
