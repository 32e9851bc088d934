"""List where quantized layers get their inputs: which share one, which producer can take a factor,
what is one block.

Names of three networks in one place: Sana's Linear-DiT, Gemma-2 and DC-AE. Everything else in this
package is given a model and paths.
"""

# K input channels of a layer, the first K output channels of its producer

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Layers that read the same tensor; the first represents all.
_SHARED = (
    ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("mlp.gate_proj", "mlp.up_proj"),
)
# Layer -> the layer whose first K output channels reach it unmixed and multiplied by nothing that depends on
# them, so that a factor per channel can move from one into the other and change nothing:
# - attn1.to_out: linear attention is a sum of values, weighted the same for every channel of a head;
# - attn2.to_out: so is softmax attention, and with one text token the value itself;
# - ff.conv_point: it reads value * silu(gate); values are the first half of conv_depth's channels.
_PRODUCERS = (
    ("attn1.to_out.0", "attn1.to_v"),
    ("attn2.to_out.0", "attn2.to_v"),
    ("ff.conv_point", "ff.conv_depth"),
)


@dataclass(frozen=True, slots=True)
class Site:
    """Layers that read one tensor, and the layer that a factor on that tensor can be folded into."""

    paths: tuple[str, ...]
    producer: str | None

    @property
    def key(self) -> str:
        """Return the layer that is observed for all layers of the site."""
        return self.paths[0]


def find_sites(paths: Iterable[str]) -> list[Site]:
    """Layers grouped by the tensor that they read, in the order of the model."""
    grouped: dict[str, list[str]] = {}
    for path in paths:
        grouped.setdefault(_leader(path), []).append(path)
    return [Site(tuple(members), _producer(members[0])) for members in grouped.values()]


def _leader(path: str) -> str:
    for family in _SHARED:
        for name in family:
            if path.endswith(f".{name}"):
                return path.removesuffix(name) + family[0]
    return path


def _producer(path: str) -> str | None:
    for layer, producer in _PRODUCERS:
        if path.endswith(f".{layer}"):
            return path.removesuffix(layer) + producer
    return None


def fold_(producer: nn.Module, factor_K: Tensor) -> list[str]:
    """Multiply a producer's first K output channels in place; returns the names of what changed."""
    changed = []
    for name in ("weight", "bias"):
        tensor = getattr(producer, name)
        if tensor is None:
            continue
        head = tensor.data[: len(factor_K)]
        shape = (-1,) + (1,) * (tensor.ndim - 1)
        # Out of place: weights may be views of a mapped file, which cannot be written.
        scaled = (head.float() * factor_K.view(shape)).to(tensor.dtype)
        merged = torch.cat([scaled, tensor.data[len(factor_K) :]])
        setattr(producer, name, nn.Parameter(merged, requires_grad=False))
        changed.append(name)
    return changed


def by_block(sites: Sequence[Site]) -> list[list[Site]]:
    """Sites of one block of a network together: folding couples them, and nothing couples blocks."""
    blocks: dict[str, list[Site]] = {}
    for site in sites:
        blocks.setdefault(_block(site.key), []).append(site)
    return list(blocks.values())


def _block(path: str) -> str:
    parts = path.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[: number + 1])


def batches(
    blocks: Sequence[Sequence[Site]], costs: Sequence[int], limit: int
) -> Iterator[list[Site]]:
    """Blocks joined as long as their costs stay within `limit`; a dearer block goes alone."""
    batch: list[Site] = []
    total = 0
    for block, cost in zip(blocks, costs, strict=True):
        if batch and total + cost > limit:
            yield batch
            batch, total = [], 0
        batch += block
        total += cost
    if batch:
        yield batch
