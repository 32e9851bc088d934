"""Choose scales, quantize, dequantize, multiply: pure functions, slow and obvious.

This file defines the results; fast paths are compared with it. Everything is symmetric, rounds half
to even as torch does, and keeps a zero scale out of divisions, so rows of zeros stay zero.
"""

# M rows (tokens), K input channels, N output channels, G groups of input channels

import torch
from torch import Tensor

INT8_MAX = 127  # -128 is not used, so that |q| fits 7 bits on every instruction set
FLOAT8 = torch.float8_e4m3fn  # 4 bits of exponent, 3 of fraction, no infinity
FLOAT8_MAX = 448.0
INT4_MAX = 7  # stored values are -8..7; scales are chosen over -7..7 and may use -8

_SEARCH_BLOCK = 2**18  # weights
_BLOCK = 2**19  # weights that are expanded at once
# Integers below 2^24 are exact in fp32: this many products of two int8 values may be added exactly.
_EXACT_K = 2**24 // (INT8_MAX * INT8_MAX)


def quantize_per_channel(weight_NK: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values (N, K) and fp32 scales (N,), one scale per output channel."""
    weight_NK = weight_NK.float()
    scale_N = weight_NK.abs().amax(dim=1) / INT8_MAX
    return _round(weight_NK, scale_N[:, None], INT8_MAX), scale_N


def quantize_per_token(x_MK: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values (M, K) and fp32 scales (M,), one scale per row."""
    return quantize_per_channel(x_MK)


def quantize_rows_float8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3 values (M, K) and fp32 scales (M,), one scale per row: of weights per output channel, of inputs per token.

    A row with a NaN gets the scale NaN.
    """
    rows = rows.float()
    scale = rows.abs().amax(dim=1) / FLOAT8_MAX
    scaled = rows / torch.where(scale > 0, scale, torch.ones_like(scale))[:, None]
    return scaled.clamp_(-FLOAT8_MAX, FLOAT8_MAX).to(FLOAT8), scale


def quantize_per_group(
    weight_NK: Tensor, group_size: int, *, scale_NG: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """int4 values -8..7 as int8 (N, K) and bf16 scales (N, G); the last group may be shorter.

    Without `scale_NG`, scales come from the largest magnitude of each group.
    """
    K = weight_NK.shape[1]
    groups = _grouped(weight_NK.float(), group_size)  # (N, G, group)
    if scale_NG is None:
        scale_NG = (groups.abs().amax(dim=2) / INT4_MAX).to(torch.bfloat16)
    # Rounded with the scale as it is stored, so that storage adds no error of its own.
    q = _round(groups, scale_NG.float()[:, :, None], INT4_MAX, lowest=-INT4_MAX - 1)
    return q.flatten(1)[:, :K].contiguous(), scale_NG


def search_group_scales(
    weight_NK: Tensor, group_size: int, *, steps: int = 24, smallest: float = 0.6
) -> Tensor:
    """bf16 scales (N, G) of least squared error, among shrunken versions of the largest magnitude.

    Clipping the few largest weights of a group makes the steps of all others finer (the range search
    of HQQ and AWQ, without data).
    """
    # Blocks that stay in the cache for all steps.
    rows = max(1, _SEARCH_BLOCK // weight_NK.shape[1])
    return torch.cat(
        [_search_block(part, group_size, steps, smallest) for part in weight_NK.split(rows)]
    )


def _search_block(weight_NK: Tensor, group_size: int, steps: int, smallest: float) -> Tensor:
    groups = _grouped(weight_NK.float(), group_size)  # (N, G, group)
    largest = groups.abs().amax(dim=2) / INT4_MAX
    best_scale = largest.to(torch.bfloat16)
    best_error = torch.full_like(largest, torch.inf)
    for step in range(steps):
        factor = 1.0 - (1.0 - smallest) * step / (steps - 1)
        scale = (largest * factor).to(torch.bfloat16)
        wide = scale.float()[:, :, None]
        q = _round(groups, wide, INT4_MAX, lowest=-INT4_MAX - 1)
        error = (q * wide - groups).square().sum(dim=2)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale, best_scale)
    return best_scale


def dequantize_per_channel(
    q_NK: Tensor, scale_N: Tensor, dtype: torch.dtype, *, block: int = _BLOCK
) -> Tensor:
    """(N, K) floating point; the product is taken in fp32. A CPU expands about `block` values at once."""
    out_NK = torch.empty(q_NK.shape, dtype=dtype, device=q_NK.device)
    if q_NK.device.type != "cpu" and q_NK.dtype == torch.int8:
        # One kernel, which multiplies in fp32 and keeps nothing in between.
        return torch.mul(q_NK, scale_N.float()[:, None], out=out_NK)
    # A CPU finds short blocks in its caches again.
    rows = max(block // q_NK.shape[1], 1)
    parts = (t.split(rows) for t in (out_NK, q_NK, scale_N.float()[:, None]))
    for out, q, scale in zip(*parts, strict=True):
        wide = out.copy_(q) if dtype == torch.float32 else q.float()
        wide.mul_(scale)
        if wide is not out:
            out.copy_(wide)
    return out_NK


def dequantize_per_group(
    q_NK: Tensor, scale_NG: Tensor, group_size: int, dtype: torch.dtype
) -> Tensor:
    """(N, K) floating point; the product is taken in fp32."""
    K = q_NK.shape[1]
    wide = scale_NG.float().repeat_interleave(group_size, dim=1)[:, :K]
    return (q_NK.float() * wide).to(dtype)


def int8_matmul(x_MK: Tensor, weight_NK: Tensor) -> Tensor:
    """Exact int8 x int8 product, x W^T, as int32 (M, N).

    Computed in fp32 over slices of K short enough that no partial sum leaves the integers that fp32
    holds, which is many times faster on a CPU than torch's integer product.
    """
    M, K = x_MK.shape
    total = torch.zeros(M, weight_NK.shape[0], dtype=torch.int32, device=x_MK.device)
    for start in range(0, K, _EXACT_K):
        stop = start + _EXACT_K
        part = x_MK[:, start:stop].float() @ weight_NK[:, start:stop].float().T
        total += part.to(torch.int32)
    return total


def linear_w8a8(
    x: Tensor,
    weight_NK: Tensor,
    scale_N: Tensor,
    bias: Tensor | None,
    *,
    smooth_K: Tensor | None = None,
) -> Tensor:
    """x (..., K) in any floating type -> (..., N) in the same: the scheme's arithmetic.

    Inputs times `smooth_K`, per-token dynamic int8, int32 sums, then both scales and the bias in fp32.
    """
    x_MK = x.flatten(0, -2).float()
    q_MK, scale_M = quantize_per_token(x_MK if smooth_K is None else x_MK * smooth_K)
    product_MN = int8_matmul(q_MK, weight_NK).float().mul_(scale_N)
    return finish_product(product_MN, scale_M, bias).to(x.dtype).unflatten(0, x.shape[:-1])


def linear_f8a8(
    x: Tensor,
    weight_NK: Tensor,
    scale_N: Tensor,
    bias: Tensor | None,
    *,
    smooth_K: Tensor | None = None,
) -> Tensor:
    """x (..., K) in any floating type -> (..., N) in the same: the arithmetic of 8-bit floats.

    Inputs times `smooth_K`, per-token e4m3, fp32 sums, then both scales and the bias in fp32.
    """
    x_MK = x.flatten(0, -2).float()
    q_MK, scale_M = quantize_rows_float8(x_MK if smooth_K is None else x_MK * smooth_K)
    product_MN = (q_MK.float() @ weight_NK.float().T).mul_(scale_N)
    return finish_product(product_MN, scale_M, bias).to(x.dtype).unflatten(0, x.shape[:-1])


def finish_product(product_MN: Tensor, scale_M: Tensor, bias: Tensor | None) -> Tensor:
    """Apply the tokens' scales and the bias in fp32, in place where it can.

    Every 8-bit path ends here, so that paths with equal integers give equal floats.
    """
    if bias is None:
        return product_MN.mul_(scale_M[:, None])
    return torch.addcmul(bias.float(), product_MN, scale_M[:, None], out=product_MN)


def sqnr_db(signal: Tensor, approximation: Tensor) -> float:
    """Signal to quantization-noise ratio in dB; infinite when equal."""
    noise = (signal.float() - approximation.float()).square().sum()
    return float(10 * torch.log10(signal.float().square().sum() / noise).detach())


def _grouped(weight_NK: Tensor, group_size: int) -> Tensor:
    """(N, G, group), zeros filling the last group."""
    missing = -weight_NK.shape[1] % group_size
    padded = torch.nn.functional.pad(weight_NK, (0, missing))
    return padded.unflatten(1, (-1, group_size))


def _round(values: Tensor, scale: Tensor, highest: int, *, lowest: int | None = None) -> Tensor:
    low = -highest if lowest is None else lowest
    q = values / torch.where(scale > 0, scale, torch.ones_like(scale))
    return q.round_().clamp_(low, highest).to(torch.int8)
