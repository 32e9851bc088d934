"""Distil a decoder of convolutions alone from the trained one: the same latents, a fraction of the operations.

The teacher is the decoder of a checkpoint folder, so this needs no run that made it. Crops around what pictures show come
first, since most of a picture is flat; whole pictures follow. The loss is the logarithm of each picture's error, so its
mean is the PSNR. Workers train for themselves and average their weights now and then.
"""

import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sana_cli.config.networks import TinyDecoderConfig
from sana_cli.models.tiny_decoder import ConvBlock, TinyDecoder
from training.dc_ae import psnr
from training.decoder_pool import Batch, Pool, Teachers, decoded
from training.evaluate import questions
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
from training.sampling import sample_latents
from training.sprites import Sprites
from training.workers import Worker

# B batch, C latent channels, h w latent grid, P pixels along a side of a patch, G patches along a side of a latent position

FILE = "tiny_decoder.pt"
LOG_EVERY_S = 120.0
TEACH_BATCH = 16
_CHECK_SHARE = 0.06  # of the evaluation's prompts: what they draw is held out

# 646,144 parameters: 0.76 MB of the package. The last stage has a quarter of the resolution:
# 16 pixels a position are cheaper from 48 channels than from a stage at full resolution with few.
CONFIG = TinyDecoderConfig(
    widths=(64, 64, 64, 48), blocks=(2, 1, 1, 1), patch_size=4, scaling_factor=2.006012
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


def split_parameters(model: TinyDecoder) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weights of the convolutions inside blocks for Muon; all others for AdamW."""
    inside = {id(m.weight) for b in model.modules() if isinstance(b, ConvBlock)
              for m in b.modules() if isinstance(m, nn.Conv2d)}  # fmt: skip
    parameters = list(model.parameters())
    return (
        [p for p in parameters if id(p) in inside],
        [p for p in parameters if id(p) not in inside],
    )


def in_patches(model: TinyDecoder, latents: Tensor) -> Tensor:
    """The last convolution's output (B, G h, G w, 3 P P), 0..1, before it is shuffled to pixels."""
    x = model.embed(latents)
    for block in model.blocks():
        x = block(x)
    return model.conv_out(x).permute(0, 2, 3, 1)


def loss_and_gradient(out: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """0.6 ln(MSE) + 0.4 ln(L1) of each picture in -1..1, mean over pictures; and its gradient by `out`.

    Written out, since autograd would pass over these largest maps several times more.
    """
    error = out.float() - batch.patches  # half of the error in -1..1
    if batch.weight is not None:
        error = error * batch.weight
    flat = error.flatten(1)
    count, pictures = flat.shape[1], len(flat)
    mse, l1 = 4 * flat.square().mean(1), 2 * flat.abs().mean(1)
    loss = (0.6 * (mse + 2e-4).log() + 0.4 * (l1 + 2e-3).log()).mean()
    by_square = 0.6 * 8 / (mse + 2e-4) / count / pictures
    by_sign = 0.4 * 2 / (l1 + 2e-3) / count / pictures
    gradient = flat * by_square[:, None] + flat.sign() * by_sign[:, None]
    return loss, gradient.view_as(error).to(out.dtype)


@dataclass(frozen=True)
class Held:
    """Hold what the teacher draws for some of the evaluation's prompts: latents, and pictures (B, H, W, 3) uint8."""

    latents: np.ndarray
    images: np.ndarray

    @classmethod
    def of(cls, teachers: Teachers) -> "Held":
        painter, asked = teachers.painter, questions(scale=_CHECK_SHARE)
        latents = sample_latents(
            painter.transformer, painter.text_encoder, painter.tokenizer,
            [q.prompt for q in asked], seeds=[q.seed for q in asked], steps=painter.steps,
            guidance=painter.guidance, shift=painter.shift, scheduler=painter.scheduler,
        )  # fmt: skip
        return cls(*decoded(painter.vae, latents))

    @torch.no_grad()
    def check(self, average: dict[str, Tensor], path: Path, device: torch.device) -> float:
        """PSNR of averaged weights to the teacher in dB, and a grid of both at `path`."""
        model = TinyDecoder(CONFIG).to(device, memory_format=torch.channels_last)
        model.load_state_dict(average)
        image = to_unit_range(self.images, device)
        out = model(torch.from_numpy(self.latents).float().to(device))
        save_grid(path, to_uint8(torch.cat([image[:8], out[:8]])), columns=8)
        return psnr(out, image)


def train_tiny_decoder(
    worker: Worker,
    run_folder: Path,
    teacher_model: str,
    sprites: Sprites,
    budget: Budget,
    settings: DistilDecoderSettings,
) -> None:
    """Train or resume; leaves `tiny_decoder.pt` with weights and their average in the run folder."""
    path = run_folder / FILE
    student = Student.resumed(path, budget, settings)
    seed = 3000 + budget.step + 7919 * worker.rank
    torch.manual_seed(seed)
    teachers = Teachers(teacher_model, sprites, random.Random(seed), noise=settings.latent_noise)
    pool = Pool(
        limit=settings.pool_limit // worker.count, patch=CONFIG.patch_size,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    while len(pool) < settings.pool / worker.count:
        pool.add(*teachers.some(TEACH_BATCH))
    held = Held.of(teachers) if worker.is_first else None
    budget.start()
    last_log, losses = time.monotonic(), list[Tensor]()
    while not budget.done:  # the same in all workers, since they agree on the time below
        for _ in range(settings.average_every):
            if budget.step % settings.refresh_every == settings.refresh_every - 1:
                pool.add(*teachers.some(TEACH_BATCH))
            crops = budget.fraction < settings.crops_until
            batch = pool.crops(settings.crop_batch) if crops else pool.wholes(settings.batch)
            losses.append(student.step(batch, budget))
            budget.tick()
        worker.average_weights(student.model)
        student.ema.update(student.model)
        budget.used_s = worker.agree(budget.used_s)
        now = time.monotonic()
        if held is not None and (now - last_log > LOG_EVERY_S or budget.done):
            quality = held.check(student.ema.average, path.with_suffix(".png"), student.device)
            print(
                f"tiny decoder {100 * budget.fraction:5.1f}% step {budget.step} "
                f"loss {torch.stack(losses).mean().item():.3f} pool {len(pool)} "
                f"psnr to the teacher {quality:.2f} dB, {(now - last_log) / len(losses):.2f} s/step",
                flush=True,
            )
            losses, last_log = [], time.monotonic()
            save_checkpoint(path, student.state_dict(budget))


class Student:
    """The decoder that learns, its optimizers and the average of its weights."""

    def __init__(self, settings: DistilDecoderSettings) -> None:
        self.settings, self.device = settings, pick_device()
        torch.manual_seed(3)  # the same start in every worker
        self.model = TinyDecoder(CONFIG).to(self.device, memory_format=torch.channels_last)
        initialise(self.model)
        matrices, others = split_parameters(self.model)
        self.optimizers: tuple[torch.optim.Optimizer, ...] = (
            Muon(matrices, lr=1e-3),
            torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        )
        self.ema = Ema(self.model, decay=settings.ema_decay)

    @classmethod
    def resumed(cls, path: Path, budget: Budget, settings: DistilDecoderSettings) -> "Student":
        """Read the student stored at `path`, and time and steps into `budget`; make a new one where nothing is."""
        student = cls(settings)
        resume(path, student.device, student.model, student.optimizers, student.ema, budget)
        return student

    def step(self, batch: Batch, budget: Budget) -> Tensor:
        """Take one step with all optimizers; return the loss."""
        settings, batch = self.settings, batch.to(self.device)
        lr = learning_rate(
            budget.fraction, budget.step, peak=settings.peak_lr, warmup_steps=settings.warmup_steps,
            floor=0.005,
        )  # fmt: skip
        with torch.autocast(self.device.type, torch.bfloat16):
            out = in_patches(self.model, batch.latents)
        with torch.no_grad():
            loss, gradient = loss_and_gradient(out, batch)
        self.model.zero_grad(set_to_none=True)
        out.backward(gradient)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, factor in zip(self.optimizers, (settings.muon_lr_factor, 1.0), strict=True):
            optimizer.param_groups[0]["lr"] = lr * factor
            optimizer.step()
        return loss

    def state_dict(self, budget: Budget) -> dict[str, object]:
        """Collect what `resumed` reads."""
        return {
            "step": budget.step, "used_s": budget.used_s, "ema": self.ema.state_dict(),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }  # fmt: skip


def load_tiny_decoder(run_folder: Path, device: torch.device) -> TinyDecoder:
    """The averaged decoder of a run."""
    state = load_checkpoint(run_folder / FILE, device)
    if state is None:
        raise FileNotFoundError(2, "no distilled decoder", str(run_folder / FILE))
    model = TinyDecoder(CONFIG).to(device, memory_format=torch.channels_last)
    model.load_state_dict(state["ema"]["average"])
    return model.eval().requires_grad_(False)
