"""Distil a decoder of convolutions alone from the trained one: the same latents, a fraction of the operations.

The teacher is the decoder of a checkpoint folder, so this needs no run that made it. Its pictures are the targets, also
for latents with a little noise on them, as a sampler makes them. A pool of pairs keeps turning over, because the
teacher costs more than a training step of the student.
"""

import math
import random
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from sana_cli.config.networks import TinyDecoderConfig
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.tiny_decoder import ConvBlock, TinyDecoder
from training.data import whole_pictures
from training.dc_ae import psnr, reconstruction_loss
from training.muon import Muon
from training.presets import DistilDecoderSettings
from training.runs import (
    Budget,
    Ema,
    learning_rate,
    load_checkpoint,
    pick_device,
    resume,
    save_checkpoint,
    save_grid,
    to_uint8,
    to_unit_range,
)
from training.sprites import Sprites
from training.workers import Worker

# B batch, C latent channels, h w latent grid, H W pixels

FILE = "tiny_decoder.pt"
LOG_EVERY_S = 30.0
SAVE_EVERY_S = 90.0
TEACH_BATCH = 8
CHECK_SCENES = 24

# 565,180 parameters; no stage at full resolution, whose few channels would take most of the time.
CONFIG = TinyDecoderConfig(
    widths=(64, 64, 48, 40, 24), blocks=(2, 1, 1, 1, 1), patch_size=2, scaling_factor=2.006012
)


def initialise(model: TinyDecoder) -> None:
    """Kaiming weights; the convolution that ends a residual branch starts at a fifth of that."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, ConvBlock):
            module.convs[-1].weight.data.mul_(0.2)
    last = model.conv_out
    assert last.bias is not None
    last.weight.data.mul_(0.3)
    nn.init.constant_(last.bias, 0.5)


class TeacherPool:
    """Unit-variance latents in half precision, and the teacher's pictures of them in 8 bits, on the CPU."""

    def __init__(
        self,
        teacher: AutoencoderDC,
        sprites: Sprites,
        rng: random.Random,
        *,
        limit: int,
        noise: float,
    ) -> None:
        self.teacher, self.sprites, self.rng, self.limit, self.noise = (
            teacher, sprites, rng, limit, noise,
        )  # fmt: skip
        self.latents: list[Tensor] = []
        self.images: list[Tensor] = []
        self._oldest = 0

    def add(self, count: int) -> None:
        """Draw, encode and decode `count` new scenes; past the limit they replace the oldest."""
        for start in range(0, count, TEACH_BATCH):
            latents, images = self.taught(min(TEACH_BATCH, count - start))
            for latent, image in zip(latents.half().cpu(), images, strict=True):
                if len(self.latents) < self.limit:
                    self.latents.append(latent.clone())
                    self.images.append(image.clone())
                    continue
                self.latents[self._oldest], self.images[self._oldest] = (
                    latent.clone(),
                    image.clone(),
                )
                self._oldest = (self._oldest + 1) % self.limit

    @torch.no_grad()
    def taught(self, count: int) -> tuple[Tensor, Tensor]:
        """Latents (B, C, h, w) fp32, with noise of a random strength, and pictures (B, H, W, 3) uint8."""
        device = next(self.teacher.parameters()).device
        scaling_factor = self.teacher.config.scaling_factor
        _, images = whole_pictures(self.sprites, self.rng, count)
        with torch.autocast(device.type, torch.bfloat16):
            latents = self.teacher.encode(to_unit_range(images, device)).float() * scaling_factor
            strength = self.noise * torch.rand((count, 1, 1, 1), device=device)
            latents = latents + torch.randn_like(latents) * strength
            decoded = self.teacher.decode(latents / scaling_factor)
        return latents, torch.from_numpy(to_uint8(decoded))

    def batch(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Latents (B, C, h, w) fp32 and the teacher's pictures (B, 3, H, W) fp32 in [-1, 1]."""
        chosen = [self.rng.randrange(len(self.latents)) for _ in range(count)]
        latents = torch.stack([self.latents[i] for i in chosen]).float().to(device)
        images = torch.stack([self.images[i] for i in chosen]).numpy()
        return latents, to_unit_range(images, device)


def load_teacher(model: str, device: torch.device) -> AutoencoderDC:
    """The full autoencoder of a checkpoint folder or of `builtin`, fp32."""
    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.loading.load import load_vae

    checkpoint = open_checkpoint(model)
    return load_vae(checkpoint, dtype="fp32", device=device, halves=("encoder", "decoder"))


def split_parameters(model: TinyDecoder) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weights of the convolutions inside blocks for Muon; all others for AdamW."""
    inside = {id(m.weight) for b in model.modules() if isinstance(b, ConvBlock)
              for m in b.modules() if isinstance(m, nn.Conv2d)}  # fmt: skip
    parameters = list(model.parameters())
    return (
        [p for p in parameters if id(p) in inside],
        [p for p in parameters if id(p) not in inside],
    )


def train_tiny_decoder(
    worker: Worker,
    run_folder: Path,
    teacher_model: str,
    sprites: Sprites,
    budget: Budget,
    settings: DistilDecoderSettings,
) -> None:
    """Train or resume; leaves `tiny_decoder.pt` with weights and their average in the run folder."""
    device = pick_device()
    path = run_folder / FILE
    torch.manual_seed(3 + worker.rank)
    model = TinyDecoder(CONFIG).to(device)
    initialise(model)
    matrices, others = split_parameters(model)
    optimizers = (
        Muon(matrices, lr=1e-3),
        torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    )
    ema = Ema(model, decay=settings.ema_decay)
    resume(path, device, model, optimizers, ema, budget)
    teacher = load_teacher(teacher_model, device)
    rng = random.Random(3000 + budget.step + 7919 * worker.rank)
    pool = TeacherPool(
        teacher,
        sprites,
        rng,
        limit=settings.pool_limit // worker.count,
        noise=settings.latent_noise,
    )
    held = TeacherPool(teacher, sprites, random.Random(7), limit=CHECK_SCENES, noise=0.0)
    held.add(CHECK_SCENES)
    pool.add(settings.pool // worker.count)
    if worker.is_first:
        print(
            f"tiny decoder: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True
        )
    budget.start()
    last_log = last_save = time.monotonic()
    losses: list[Tensor] = []
    while not budget.done:
        lr = learning_rate(
            budget.fraction, budget.step, peak=settings.peak_lr, warmup_steps=settings.warmup_steps
        )
        for optimizer, factor in zip(optimizers, (settings.muon_lr_factor, 1.0), strict=True):
            optimizer.param_groups[0]["lr"] = lr * factor
        if budget.step % settings.refresh_every == 0:
            pool.add(TEACH_BATCH)
        latents, image = pool.batch(math.ceil(settings.batch / worker.count), device)
        with torch.autocast(device.type, torch.bfloat16):
            decoded = model(latents)
        loss = reconstruction_loss(decoded.float(), image, edge_weight=settings.edge_weight)
        model.zero_grad(set_to_none=True)
        loss.backward()
        worker.average_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        ema.update(model)
        budget.tick()
        budget.used_s = worker.agree(budget.used_s)
        losses.append(loss.detach())
        now = time.monotonic()
        if worker.is_first and (now - last_log > LOG_EVERY_S or budget.done):
            print(
                f"tiny decoder {100 * budget.fraction:5.1f}% step {budget.step} lr {lr:.1e} "
                f"loss {torch.stack(losses).mean().item():.4f} pool {len(pool.latents)} "
                f"psnr to the teacher {check(ema, held, path.with_suffix('.png'), device):.2f} dB, "
                f"{(now - last_log) / len(losses):.2f} s/step",
                flush=True,
            )
            losses, last_log = [], time.monotonic()
            if now - last_save > SAVE_EVERY_S or budget.done:
                save_checkpoint(
                    path,
                    {
                        "step": budget.step, "used_s": budget.used_s, "ema": ema.state_dict(),
                        "model": model.state_dict(),
                        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    },
                )  # fmt: skip
                last_save = time.monotonic()


def load_tiny_decoder(run_folder: Path, device: torch.device) -> TinyDecoder:
    """The averaged decoder of a run."""
    state = load_checkpoint(run_folder / FILE, device)
    if state is None:
        raise FileNotFoundError(2, "no distilled decoder", str(run_folder / FILE))
    model = TinyDecoder(CONFIG).to(device, memory_format=torch.channels_last)
    model.load_state_dict(state["ema"]["average"])
    return model.eval().requires_grad_(False)


@torch.no_grad()
def check(ema: Ema, held: TeacherPool, path: Path, device: torch.device) -> float:
    """PSNR of the averaged weights to the teacher on the same fresh scenes, and a grid of both."""
    model = TinyDecoder(CONFIG).to(device, memory_format=torch.channels_last)
    model.load_state_dict(ema.average)
    latents = torch.stack(held.latents).float().to(device)
    image = to_unit_range(torch.stack(held.images).numpy(), device)
    decoded = model(latents)
    save_grid(path, to_uint8(torch.cat([image[:8], decoded[:8]])), columns=8)
    return psnr(decoded, image)
