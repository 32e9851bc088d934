"""First-block caching: where a step's first block does almost what it did before, so do the others, and they are not run.

After ParaAttention's first-block cache; TeaCache (arXiv 2411.19108) decides by the first block's input instead. What is
compared and what is used again are residuals: what blocks add to the tokens. Texts are per branch, so caches are too.
"""

# B batch of one branch, N image tokens, D width

import torch
from torch import Tensor


class FirstBlockCache:
    """The state that one guidance branch of a picture keeps from its last computed step."""

    def __init__(self, threshold: float) -> None:
        """`threshold` is a relative L1 change that is small enough; at 0 every step is computed."""
        self.threshold = threshold
        self.reused = 0  # passes that ended after the first block
        self._kept: tuple[Tensor, Tensor] | None = None

    def rest_for(self, first: Tensor) -> Tensor | None:
        """Return what the other blocks added last time, (B, N, D), if the first block adds about
        the same again; else None.
        """
        if self._kept is None:
            return None
        before, rest = self._kept
        change = (first - before).abs().mean(dtype=torch.float32)
        if not float(change / before.abs().mean(dtype=torch.float32)) < self.threshold:
            return None
        self.reused += 1
        return rest

    def keep(self, first: Tensor, rest: Tensor) -> None:
        """Keep a computed step: what its first block added, and all others together, (B, N, D) each."""
        self._kept = first, rest
