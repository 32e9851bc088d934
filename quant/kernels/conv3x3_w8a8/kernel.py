"""Tiles of pixels by output channels; the loop runs over taps, and in each over blocks of channels."""

# B batch, H x W pixels, M = B * H * W, K input channels, N output channels

import torch
import triton
import triton.language as tl
from torch import Tensor

from quant.kernels.epilogue import finish, tile_of
from quant.kernels.rows import magnitude_bits
from quant.kernels.tiles import Tile


@triton.jit
def conv3x3_w8a8_kernel(
    q_ptr,
    act_scale_ptr,
    weight_ptr,
    weight_scale_ptr,
    bias_ptr,
    residual_ptr,  # (M, N) or None
    shortcut_ptr,  # (B, H / 2, W / 2, K) or None: of an up-sampling
    out_ptr,
    largest_ptr,  # (B,) bits of fp32, raised to the largest magnitudes of pictures; or None
    M,
    N,
    K,
    H,
    W,
    steps,  # 9 * BLOCKS_K; the compiler would unroll the loop of a constant
    stride_act,
    stride_out,
    SILU: tl.constexpr,
    UPSAMPLED: tl.constexpr,  # q is (B, H / 2, W / 2, K), each position of which is four pixels
    REPEATS: tl.constexpr,  # 4 * N / K of the shortcut; 0 without one
    ONE_PICTURE: tl.constexpr,  # no tile holds pixels of two
    EVEN_K: tl.constexpr,
    BLOCKS_K: tl.constexpr,  # of one tap; constant, so that the loop divides by it cheaply
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    tile_m, tile_n = tile_of(tl.program_id(0), M, N, BLOCK_M, BLOCK_N, GROUP)
    first = tile_m.to(tl.int64) * BLOCK_M
    first_col = tile_n.to(tl.int64) * BLOCK_N
    rows = tl.arange(0, BLOCK_M)
    cols = tl.arange(0, BLOCK_N)
    # Rows and columns past the end read the last one, which needs no mask; they are not stored.
    read_rows = tl.minimum(rows, M - 1 - tile_m * BLOCK_M)
    read_cols = tl.minimum(cols, N - 1 - tile_n * BLOCK_N)
    pixels = tile_m * BLOCK_M + read_rows
    x = pixels % W
    y = pixels // W % H
    ks = tl.arange(0, BLOCK_K)
    picture = pixels // (H * W)
    q_tile = q_ptr + first * K + read_rows[:, None] * K + ks[None, :]
    if UPSAMPLED:
        of_picture = q_ptr + picture.to(tl.int64) * (H // 2) * (W // 2) * K
    w_tile = weight_ptr + first_col * K * 9 + read_cols[None, :] * K * 9 + ks[:, None]
    sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    for step in range(steps):
        tap = step // BLOCKS_K
        k = step % BLOCKS_K * BLOCK_K
        dy = tap // 3 - 1
        dx = tap % 3 - 1
        inside = (y + dy >= 0) & (y + dy < H) & (x + dx >= 0) & (x + dx < W)
        if UPSAMPLED:
            position = ((y + dy) >> 1) * (W // 2) + ((x + dx) >> 1)
            q_step = of_picture[:, None] + (position.to(tl.int64) * K)[:, None] + (k + ks)[None, :]
        else:
            q_step = q_tile + ((dy * W + dx) * K + k)
        if EVEN_K:
            q = tl.load(q_step, mask=inside[:, None], other=0)
            w = tl.load(w_tile + (tap * K + k))
        else:
            in_ks = ks < K - k
            q = tl.load(q_step, mask=inside[:, None] & in_ks[None, :], other=0)
            w = tl.load(w_tile + (tap * K + k), mask=in_ks[:, None], other=0)
        sums = tl.dot(q, w, sums, out_dtype=tl.int32)
    scale = tl.load(act_scale_ptr + picture * stride_act)
    weight_scale = tl.load(weight_scale_ptr + first_col + read_cols)
    out = sums.to(tl.float32) * (scale[:, None] * weight_scale[None, :])
    if REPEATS:
        position = picture.to(tl.int64) * (H // 2) * (W // 2) + (y >> 1) * (W // 2) + (x >> 1)
        phase = (y & 1) * 2 + (x & 1)
        channels = (4 * (tile_n * BLOCK_N + read_cols)[None, :] + phase[:, None]) // REPEATS
        out += tl.load(shortcut_ptr + (position * K)[:, None] + channels).to(tl.float32)
    stored = finish(
        out, first, rows, tile_n * BLOCK_N + cols, M, N, bias_ptr, None, residual_ptr, out_ptr,
        None, None, M, 0, stride_out, stride_out, SILU, False,
    )  # fmt: skip
    if largest_ptr is not None:
        bits = tl.max(magnitude_bits(stored), axis=1)
        if ONE_PICTURE:  # one for the tile: thousands of programs raise the same number
            tl.atomic_max(largest_ptr + first // (H * W), tl.max(bits, axis=0), sem="relaxed")
        else:
            tl.atomic_max(largest_ptr + picture, bits, mask=first + rows < M, sem="relaxed")


def launch(
    q: Tensor,
    act_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    shortcut: Tensor | None,
    out: Tensor,
    largest: Tensor | None,
    activation: str | None,
    tile: Tile,
) -> None:
    """Fill out (B, H, W, N); raise `largest` (B,)."""
    (B, H, W, N), K = out.shape, q.shape[3]
    M = B * H * W
    grid = (triton.cdiv(M, tile.m) * triton.cdiv(N, tile.n),)
    with torch.cuda.device_of(q):
        conv3x3_w8a8_kernel[grid](
            q,
            act_scale,
            weight,
            weight_scale,
            bias,
            residual,
            shortcut,
            out,
            None if largest is None else largest.view(torch.int32),
            M,
            N,
            K,
            H,
            W,
            9 * triton.cdiv(K, tile.k),
            act_scale.stride(0) if act_scale.ndim else 0,
            N,
            SILU=activation == "silu",
            UPSAMPLED=q.shape[1] != H,
            REPEATS=0 if shortcut is None else 4 * N // K,
            ONE_PICTURE=H * W % tile.m == 0 or B == 1,
            EVEN_K=K % tile.k == 0,
            BLOCKS_K=triton.cdiv(K, tile.k),
            BLOCK_M=tile.m,
            BLOCK_N=tile.n,
            BLOCK_K=tile.k,
            GROUP=tile.group,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
