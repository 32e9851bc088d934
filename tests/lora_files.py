"""LoRAs made at random, as trainers save them, for the layers of a model's blocks and some beside them."""

from collections.abc import Mapping
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

LAYERS = (
    "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v",
    "attn2.to_out.0", "ff.conv_inverted", "ff.conv_depth", "ff.conv_point",
)  # fmt: skip
OTHERS = ("patch_embed.proj", "proj_out", "caption_projection.linear_1", "time_embed.linear")


def chosen(
    shapes: Mapping[str, tuple[int, ...]], layers: tuple[str, ...]
) -> dict[str, tuple[int, ...]]:
    """Weights of these layers by path, of every block."""
    paths = {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if name.endswith(".weight")
    }
    return {p: shape for p, shape in paths.items() if p in layers or p.split(".", 2)[-1] in layers}


def random_lora(
    shapes: Mapping[str, tuple[int, ...]],
    *,
    layers: tuple[str, ...] = LAYERS + OTHERS,
    rank: int = 3,
    seed: int = 0,
    strength: float = 0.3,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Halves (down, up) by path, whose product changes a weight by about `strength` of 1/sqrt(K)."""
    generator = torch.Generator().manual_seed(seed)
    halves = {}
    for path, (N, *rest) in chosen(shapes, layers).items():
        down = torch.randn(rank, *rest, generator=generator) / prod(rest) ** 0.5
        up = (
            torch.randn(N, rank, *[1] * (len(rest) - 1), generator=generator) * strength / rank**0.5
        )
        halves[path] = (down, up)
    return halves


def write_lora(
    path: Path,
    halves: Mapping[str, tuple[Tensor, Tensor]],
    *,
    prefix: str = "transformer.",
    names: tuple[str, str] = ("lora_A.weight", "lora_B.weight"),
    alpha: float | None = None,
    metadata: dict[str, str] | None = None,
    flat: bool = False,
) -> Path:
    """`flat` is kohya's way: dots of a layer's path become underscores."""
    tensors = {}
    for path_of_layer, pair in halves.items():
        layer = path_of_layer.replace(".", "_") if flat else path_of_layer
        tensors |= {
            f"{prefix}{layer}.{name}": half.clone() for name, half in zip(names, pair, strict=True)
        }
        if alpha is not None:
            tensors[f"{prefix}{layer}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path, metadata)
    return path
