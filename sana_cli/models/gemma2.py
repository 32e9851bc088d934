"""Gemma-2's decoder trunk (arXiv 2408.00118): token ids -> hidden states, without the language-model head.

Attention's scores are soft-capped, which fused attention kernels cannot do, so they are computed as written; prompts are
short. Every sequence is one text without padding. Parameter names are the published ones.
"""

# B texts (one), L tokens, S tokens with those of a cache, C hidden width, H heads, K key-value heads, E head width

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sana_cli.config.networks import Gemma2Config

KeyValues = tuple[Tensor, Tensor]  # of one layer, rotated: (B, K, S, E) each


class Gemma2(nn.Module):
    """The trunk. `layers` may be anything that yields its blocks in order."""

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = ScaledEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Gemma2Layer(config, sliding=kind == "sliding_attention") for kind in config.attention
        )
        self.norm = Gemma2RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, ids: Tensor, past: list[KeyValues] | None = None, *, keep: bool = False
    ) -> tuple[Tensor, list[KeyValues]]:
        """Map ids (B, L) that follow the tokens of `past` to states (B, L, C) after the final norm.

        With `keep`, also return keys and values of all tokens so far, to be the `past` of the next
        ones.
        """
        return self.trunk(self.embed_tokens(ids), past, keep=keep)

    def trunk(
        self, x: Tensor, past: list[KeyValues] | None = None, *, keep: bool = False
    ) -> tuple[Tensor, list[KeyValues]]:
        """Run `forward` of embedded tokens x (B, L, C)."""
        start = past[0][0].shape[2] if past else 0
        turns = rotations(self.config, start, x.shape[1], x)
        masks = Masks(start, x.shape[1], x.device)
        kept: list[KeyValues] = []
        for i, layer in enumerate(self.layers):
            x, key_values = layer(x, turns, masks, past[i] if past else None)
            if keep:
                kept.append(key_values)
            del key_values
        return self.norm(x), kept


class ScaledEmbedding(nn.Embedding):
    """Token ids -> rows, times the root of their width rounded to their dtype."""

    def reset_parameters(self) -> None:
        """Leave it: values come from a file, and drawing some on the meta device imports torch's compiler."""

    @property
    def multiplier(self) -> float:
        return float(self.embedding_dim**0.5)

    def forward(self, ids: Tensor) -> Tensor:
        rows = super().forward(ids)
        return rows * torch.tensor(self.multiplier).to(rows.dtype)


class Gemma2RMSNorm(nn.Module):
    """Root-mean-square norm in fp32; weights are kept as their distance from one."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The norm of x (..., C), plus `residual`."""
        weight = self.weight.float() + 1
        normed = F.rms_norm(x.float(), weight.shape, weight, self.eps).type_as(x)
        return normed if residual is None else residual + normed


class Gemma2Layer(nn.Module):
    """Attention and a gated MLP, each between two norms."""

    def __init__(self, config: Gemma2Config, *, sliding: bool) -> None:
        super().__init__()
        self.self_attn = Gemma2Attention(config, sliding=sliding)
        self.mlp = Gemma2MLP(config)
        C, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = Gemma2RMSNorm(C, eps)
        self.post_attention_layernorm = Gemma2RMSNorm(C, eps)
        self.pre_feedforward_layernorm = Gemma2RMSNorm(C, eps)
        self.post_feedforward_layernorm = Gemma2RMSNorm(C, eps)

    def forward(
        self, x: Tensor, turns: KeyValues, masks: "Masks", past: KeyValues | None
    ) -> tuple[Tensor, KeyValues]:
        attended, key_values = self.self_attn(self.input_layernorm(x), turns, masks, past)
        x = self.post_attention_layernorm(attended, x)
        gated = self.mlp(self.pre_feedforward_layernorm(x))
        return self.post_feedforward_layernorm(gated, x), key_values


class Gemma2Attention(nn.Module):
    """Causal attention with soft-capped scores; several query heads share a key-value head."""

    def __init__(self, config: Gemma2Config, *, sliding: bool) -> None:
        super().__init__()
        C, E = config.hidden_size, config.head_dim
        self.head_dim = E
        self.key_value_heads = config.num_key_value_heads
        self.scale = config.query_pre_attn_scalar**-0.5
        self.cap = config.attn_logit_softcapping
        self.window = config.sliding_window if sliding else None
        self.q_proj = nn.Linear(C, config.num_attention_heads * E, bias=config.attention_bias)
        self.k_proj = nn.Linear(C, config.num_key_value_heads * E, bias=config.attention_bias)
        self.v_proj = nn.Linear(C, config.num_key_value_heads * E, bias=config.attention_bias)
        self.o_proj = nn.Linear(config.num_attention_heads * E, C, bias=config.attention_bias)

    def forward(
        self, x: Tensor, turns: KeyValues, masks: "Masks", past: KeyValues | None
    ) -> tuple[Tensor, KeyValues]:
        """States (B, L, C), cosines and sines (L, E), masks (L, S) -> (B, L, C), and all keys and values."""
        heads = (-1, self.head_dim)
        q, k, v = (
            layer(x).unflatten(-1, heads).transpose(1, 2)  # (B, H or K, L, E)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, turns), rotate(k, turns)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        B, H, L, E = q.shape
        # Query heads of a key-value head are rows of one product.
        grouped = q.reshape(B, self.key_value_heads, -1, E)  # (B, K, H / K * L, E)
        scores = (grouped @ k.transpose(2, 3)).view(B, H, L, -1) * self.scale
        if self.cap is not None:
            scores = self.cap * torch.tanh(scores / self.cap)
        scores = scores.masked_fill(masks.unseen(self.window), -torch.inf)
        weights = scores.softmax(-1, dtype=torch.float32).to(v.dtype)
        mixed = (weights.view(B, self.key_value_heads, -1, k.shape[2]) @ v).view(B, H, L, E)
        return self.o_proj(mixed.transpose(1, 2).flatten(2)), (k, v)


class Gemma2MLP(nn.Module):
    """GeGLU with the tanh form of GELU."""

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


def rotations(config: Gemma2Config, start: int, count: int, like: Tensor) -> KeyValues:
    """Cosines and sines (L, E) of positions from `start`, in the dtype and on the device of `like` (arXiv 2104.09864)."""
    E = config.head_dim
    steps = torch.arange(0, E, 2, dtype=torch.float32, device=like.device) / E
    positions = torch.arange(start, start + count, dtype=torch.float32, device=like.device)
    angles = torch.outer(positions, 1 / config.rope_theta**steps).repeat(1, 2)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, turns: KeyValues) -> Tensor:
    """Rotary positions on (B, H, L, E): pairs are a half of the head width apart."""
    first, second = x.chunk(2, dim=-1)
    return x * turns[0] + torch.cat([-second, first], dim=-1) * turns[1]


class Masks:
    """Mask the keys that each query must not see, (L, S) bool: made once for all layers of a forward."""

    def __init__(self, start: int, count: int, device: torch.device) -> None:
        """For `count` tokens that follow `start` others."""
        self._distance = _distances(start, count, device)
        self._known: dict[int | None, Tensor] = {}

    def unseen(self, window: int | None) -> Tensor:
        """Later keys, and those that a window's width or more precedes."""
        if window not in self._known:
            future = self._distance < 0
            self._known[window] = future if window is None else future | (self._distance >= window)
        return self._known[window]


def _distances(start: int, count: int, device: torch.device) -> Tensor:
    """Return how many positions each key precedes each query, (L, S); negative for keys that come later."""
    keys = torch.arange(start + count, device=device)
    return keys[start:, None] - keys[None, :]
