"""Share what every training stage needs: budgets, learning rate, weight averages, checkpoints and
progress lines.

A stage is finished when its time *or* its step budget is spent, whichever comes first; the elapsed
time is part of the checkpoint, so a resumed stage and its learning rate continue where they
stopped.
"""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

MAX_STEP_S = 15.0  # a longer gap is a process that was stopped or a machine that slept


@dataclass(kw_only=True)
class Budget:
    """Minutes and steps that a stage may use; 0 steps means no limit on them."""

    minutes: float
    steps: int = 0
    step: int = 0
    used_s: float = 0.0
    _mark: float = 0.0

    def start(self) -> None:
        self._mark = time.monotonic()

    def tick(self) -> None:
        """Count one step and the time since the last call."""
        now = time.monotonic()
        self.used_s += min(now - self._mark, MAX_STEP_S)
        self._mark = now
        self.step += 1

    @property
    def fraction(self) -> float:
        by_time = self.used_s / (60 * self.minutes)
        return min(1.0, max(by_time, self.step / self.steps if self.steps else 0.0))

    @property
    def done(self) -> bool:
        return self.fraction >= 1.0


def learning_rate(
    fraction: float, step: int, *, peak: float, warmup_steps: int, floor: float = 0.02
) -> float:
    """Linear warm-up over steps, then a cosine over the budget's fraction down to `floor * peak`."""
    cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fraction))
    return peak * cosine * min(1.0, (step + 1) / warmup_steps)


def set_learning_rate(
    optimizers: Sequence[torch.optim.Optimizer],
    budget: Budget,
    *,
    peak: float,
    warmup_steps: int,
    muon_factor: float,
) -> float:
    """Give Muon and AdamW, in this order, the rate of this step: Muon's is a multiple of AdamW's, which is returned."""
    lr = learning_rate(budget.fraction, budget.step, peak=peak, warmup_steps=warmup_steps)
    for optimizer, factor in zip(optimizers, (muon_factor, 1.0), strict=True):
        optimizer.param_groups[0]["lr"] = lr * factor
    return lr


class Ema:
    """An exponential average of a module's parameters, in fp32, with a decay that warms up."""

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages, values = zip(
            *((self.average[n], p) for n, p in module.named_parameters()), strict=True
        )
        torch._foreach_lerp_(list(averages), list(values), 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name, value in state["average"].items():
            self.average[name].copy_(value)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write to a temporary name, then rename: a stopped run never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The stored state, or None when there is none."""
    return torch.load(path, map_location=device, weights_only=True) if path.exists() else None


def resume(
    path: Path,
    device: torch.device,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    ema: Ema,
    budget: Budget,
) -> None:
    """Continue from the stored state: weights, their average, optimizers and time; nothing where there is none."""
    state = load_checkpoint(path, device)
    if state:
        model.load_state_dict(state["model"])
        for optimizer, stored in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        ema.load_state_dict(state["ema"])
        budget.step, budget.used_s = state["step"], state["used_s"]


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and convolutions alone: not norms, biases or tables. Frozen parameters are left out."""
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2]
    others = [p for p in trained if p.ndim < 2]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_unit_range(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [-1, 1], channels last."""
    tensor = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # channels-last memory already
    return tensor.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> np.ndarray:
    """float (B, 3, H, W) in [-1, 1] -> uint8 (B, H, W, 3)."""
    return (
        images.float()
        .add(1)
        .mul(127.5)
        .round()
        .clamp(0, 255)
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
        .cpu()
        .numpy()
    )


def save_grid(path: Path, images: np.ndarray, *, columns: int) -> None:
    """uint8 (B, H, W, 3) as one PNG, row by row."""
    count, height, width, _ = images.shape
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + 4), columns * (width + 4), 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + 4), (i % columns) * (width + 4)
        sheet[top : top + height, left : left + width] = image
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)
