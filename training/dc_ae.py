"""Train the autoencoder: small crops first, then larger ones, then whole pictures, as DC-AE was trained.

A second stage trains the decoder alone with the encoder frozen, so it may run after the transformer has learned the
latents; a little noise on the latents prepares it for those that a sampler makes.
The crops of all phases hold about the same number of pixels a batch, so a step takes about the same time throughout.
"""

import math
import random
import time
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from sana_cli.config.networks import DCAEConfig
from sana_cli.models.dc_ae import AutoencoderDC
from training.data import crops, whole_pictures
from training.presets import AutoencoderSettings
from training.runs import (
    Budget,
    Ema,
    learning_rate,
    load_checkpoint,
    parameter_groups,
    pick_device,
    save_checkpoint,
    save_grid,
    to_uint8,
    to_unit_range,
)
from training.sprites import Sprites
from training.workers import Worker

# B batch, C latent channels, H height, W width

Part = Literal["all", "decoder"]
FILES: dict[Part, str] = {"all": "dc_ae.pt", "decoder": "decoder.pt"}
LOG_EVERY_S = 40.0
SAVE_EVERY_S = 120.0

CONFIG = DCAEConfig(
    encoder_block_out_channels=(16, 32, 64, 128, 128, 128),
    decoder_block_out_channels=(16, 32, 64, 128, 128, 128),
    encoder_layers_per_block=(0, 1, 1, 1, 1, 1),
    decoder_layers_per_block=(0, 1, 2, 2, 2, 2),
    scaling_factor=1.0,  # the real one is measured when training ends
)


def initialise(model: nn.Module) -> None:
    """Residual branches start small: the norms that end them get a tenth of their weight."""
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", "norm_out.weight")) and "blocks" in name:
            nn.init.constant_(parameter, 0.1)


def reconstruction_loss(decoded: Tensor, image: Tensor, *, edge_weight: float) -> Tensor:
    """L1 + 2 MSE, and L1 of the differences between neighbours, which asks for crisp edges."""
    error = decoded - image
    loss = error.abs().mean() + 2 * error.square().mean()
    across, down = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    return loss + edge_weight * (across.abs().mean() + down.abs().mean())


def psnr(decoded: Tensor, image: Tensor) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB, on values clamped to [-1, 1]."""
    mse = (
        (decoded.float().clamp(-1, 1) - image.float()).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    )
    return float((10 * torch.log10(4 / mse)).mean())


class AutoencoderStep(nn.Module):
    """Encode, decode and lose, as one module to compile."""

    def __init__(self, model: AutoencoderDC, settings: AutoencoderSettings, part: Part) -> None:
        super().__init__()
        self.model, self.settings, self.part = model, settings, part

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image (B, 3, H, W) in [-1, 1] -> loss, and the mean squared latent."""
        if self.part == "decoder":
            with torch.no_grad():
                latents = self.model.encode(image)
                noise = (
                    torch.randn_like(latents) * latents.std() * self.settings.decoder_latent_noise
                )
                strength = torch.rand(
                    (len(latents), 1, 1, 1), device=latents.device, dtype=latents.dtype
                )
                latents = latents + noise * strength
        else:
            latents = self.model.encode(image)
        decoded = self.model.decode(latents)
        energy = latents.float().square().mean()
        loss = reconstruction_loss(decoded.float(), image, edge_weight=self.settings.edge_weight)
        return loss + self.settings.latent_penalty * energy, energy


def train_autoencoder(
    worker: Worker,
    run_folder: Path,
    sprites: Sprites,
    budget: Budget,
    settings: AutoencoderSettings,
    part: Part,
) -> None:
    """Train or resume; leaves weights, average and scaling factor in the run folder, see `FILES`."""
    device = pick_device()
    path = run_folder / FILES[part]
    torch.manual_seed(worker.rank)
    model = AutoencoderDC(CONFIG).to(device, memory_format=torch.channels_last)
    initialise(model)
    if part == "decoder":
        whole, _ = load_autoencoder(run_folder, device, parts=("all",))
        model.load_state_dict(whole.state_dict())
        model.encoder.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, settings.weight_decay), lr=1e-3, betas=(0.9, 0.98), fused=True
    )
    ema = Ema(model, decay=settings.ema_decay)
    state = load_checkpoint(path, device)
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        budget.step, budget.used_s = state["step"], state["used_s"]
    rng = random.Random(1000 + budget.step + 7919 * worker.rank)
    step = AutoencoderStep(model, settings, part)
    run_step = torch.compile(step, dynamic=False) if settings.compile else step
    if worker.is_first:
        print(
            f"autoencoder: {sum(p.numel() for p in model.parameters()):,} parameters on {device}",
            flush=True,
        )
    peak_lr = settings.peak_lr if part == "all" else settings.decoder_peak_lr
    budget.start()
    last_log = last_save = time.monotonic()
    seen, losses = 0, []
    while not budget.done:
        phases = settings.phases if part == "all" else settings.phases[-1:]
        _, size, batch = next(phase for phase in phases if budget.fraction < phase[0])
        lr = learning_rate(
            budget.fraction, budget.step, peak=peak_lr, warmup_steps=settings.warmup_steps
        )
        for group in optimizer.param_groups:
            group["lr"] = lr
        image = to_unit_range(
            crops(sprites, rng, math.ceil(batch / worker.count), size=size), device
        )
        with torch.autocast(device.type, torch.bfloat16):
            loss, energy = run_step(image)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        worker.average_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.update(model)
        budget.tick()
        budget.used_s = worker.agree(budget.used_s)
        seen += batch
        losses.append(loss.detach())
        now = time.monotonic()
        if worker.is_first and (now - last_log > LOG_EVERY_S or budget.done):
            mean = torch.stack(losses).mean().item()
            quality = check(model, ema, sprites, path.with_suffix(".png"), device)
            print(
                f"{path.stem} {100 * budget.fraction:5.1f}% step {budget.step} {size}px lr {lr:.1e} loss {mean:.4f} "
                f"z2 {energy.item():.2f} psnr {quality:.2f} dB, {seen / (now - last_log):.0f} crops/s",
                flush=True,
            )
            if now - last_save > SAVE_EVERY_S or budget.done:
                save_checkpoint(path, _state(model, optimizer, ema, budget))
                last_save = time.monotonic()
            seen, losses, last_log = 0, [], time.monotonic()
    if worker.is_first:
        finish(path, model, ema, sprites, device, _state(model, optimizer, ema, budget))


def _state(
    model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema, budget: Budget
) -> dict[str, object]:
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ema": ema.state_dict(),
        "step": budget.step,
        "used_s": budget.used_s,
    }


@torch.no_grad()
def check(
    model: AutoencoderDC, ema: Ema, sprites: Sprites, path: Path, device: torch.device
) -> float:
    """PSNR of the averaged weights on the same 8 fresh pictures each time, and a grid of both."""
    averaged = AutoencoderDC(CONFIG).to(device, memory_format=torch.channels_last)
    averaged.load_state_dict(ema.average)
    _, images = whole_pictures(sprites, random.Random(7), 8)
    image = to_unit_range(images, device)
    with torch.autocast(device.type, torch.bfloat16):
        decoded = averaged.decode(averaged.encode(image)).float()
    save_grid(path, to_uint8(torch.cat([image, decoded])), columns=8)
    return psnr(decoded, image)


@torch.no_grad()
def finish(
    path: Path,
    model: AutoencoderDC,
    ema: Ema,
    sprites: Sprites,
    device: torch.device,
    state: dict[str, object],
) -> None:
    """Measure the latents' standard deviation with the averaged weights and store 1/std as the scaling factor."""
    model.load_state_dict(ema.average)
    _, images = whole_pictures(sprites, random.Random(8), 64)
    latents = model.encode(to_unit_range(images, device))
    scaling_factor = float(1 / latents.std())
    print(f"autoencoder done: scaling factor {scaling_factor:.4f}", flush=True)
    save_checkpoint(path, {**state, "scaling_factor": scaling_factor})


def load_autoencoder(
    run_folder: Path, device: torch.device, *, parts: tuple[Part, ...] = ("decoder", "all")
) -> tuple[AutoencoderDC, float]:
    """The averaged autoencoder of a run and its scaling factor, from the first of the stages that has ended."""
    for part in parts:
        state = load_checkpoint(run_folder / FILES[part], device)
        if state is not None and "scaling_factor" in state:
            model = AutoencoderDC(CONFIG).to(device, memory_format=torch.channels_last)
            model.load_state_dict(state["ema"]["average"])
            return model.eval().requires_grad_(False), state["scaling_factor"]
    raise FileNotFoundError(
        f"no trained autoencoder in {run_folder}: run `python -m training dc-ae` first"
    )
