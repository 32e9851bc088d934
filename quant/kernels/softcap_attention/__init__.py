"""Gemma-2's attention of new tokens that follow a cache: rotation, soft-capped scores, causal softmax, values."""

# L new tokens, S tokens of the cache, H heads, K key-value heads, E head width

import torch
from torch import Tensor

from quant.kernels.checks import require_device, require_tensor

MAX_E = 256  # a head of the queries, and its sums, are held in the registers of one program


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
    """Attend causally from the new tokens to the cache's and to themselves, as (L, H * E) of q's type.

    q (L, H * E), k and v (L, K * E) are products of the new tokens, all of one type; past_k, past_v (K, S, E) of the cache,
    whose keys are rotated; cos, sin (L, E) of the new positions rotate q and k (arXiv 2104.09864, halves of a head together).
    Scores are q k^T * scale, then cap * tanh(scores / cap) (arXiv 2408.00118, section 2). With a window, a token sees itself and
    the window - 1 before it. Sums are fp32. E is a power of two from 16 to 256.
    """
    require_tensor("past_k", past_k, (None, None, None))
    K, S, E = past_k.shape
    if not 16 <= E <= MAX_E or E & (E - 1):
        raise ValueError(f"heads have {E} channels, not a power of two from 16 to {MAX_E}")
    dtype = [past_k.dtype]
    require_tensor("q", q, (None, None), dtype, like=past_k)
    L, width = q.shape
    if not K or not width or width % (K * E):
        raise ValueError(f"q has {width} channels, not a multiple of {K} heads of {E}")
    for name, new in (("k", k), ("v", v)):
        require_tensor(name, new, (L, K * E), dtype, like=past_k)
    require_tensor("past_v", past_v, (K, S, E), dtype, like=past_k)
    for name, turns in (("cos", cos), ("sin", sin)):
        require_tensor(name, turns, (L, E), dtype, like=past_k)
    if cap is not None and not cap > 0:
        raise ValueError(f"cap is {cap}, not above 0")
    if window is not None and window < 1:
        raise ValueError(f"window is {window}, not 1 or more")
    require_device(q)
    out = torch.empty(L, width, dtype=q.dtype, device=q.device)
    if L:
        from quant.kernels.softcap_attention.kernel import launch

        launch(q, k, v, past_k, past_v, cos, sin, out, scale, cap, window)
    return out
