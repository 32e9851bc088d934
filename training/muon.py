"""Muon: momentum whose matrices are made orthogonal, for the hidden matrices of the transformer.

Every singular direction of an update gets the same length, so rare directions (here: the words of one object among a
hundred) are learned as fast as common ones. Scaled as in "Muon is scalable for LLM training" (arXiv 2502.16982), so that
learning rates mean about the same as AdamW's. Vectors, tables and embeddings stay with AdamW.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

# K matrices of one shape, M rows, N columns

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, from Keller Jordan's Muon
_ITERATIONS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """(K, M, N) -> about the nearest matrices with singular values near 1, in bf16."""
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """For parameters of two dimensions, or 1x1 convolutions; all of them need gradients."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update all parameters once; matrices of one shape are handled together."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                by_shape[tuple(parameter.flatten(1).shape)].append(parameter)
            for shape, parameters in by_shape.items():
                gradients = [p.grad for p in parameters]
                averages = [
                    self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in parameters
                ]
                torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
                ahead = torch._foreach_lerp(gradients, averages, group["momentum"])  # Nesterov
                updates = orthogonalise(torch.stack([u.flatten(1) for u in ahead]))
                scale = 0.2 * max(shape) ** 0.5
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.add_(
                        update.view_as(parameter).to(parameter.dtype), alpha=-group["lr"] * scale
                    )


def split_parameters(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Matrices for Muon (linear layers and 1x1 convolutions inside blocks), and all the others for AdamW."""
    matrices, others = [], []
    for name, parameter in module.named_parameters():
        inside = "blocks." in name or "layers." in name
        is_matrix = parameter.ndim >= 2 and parameter.shape[1:].numel() == parameter.shape[1] > 1
        (matrices if inside and is_matrix and "table" not in name else others).append(parameter)
    return matrices, others
