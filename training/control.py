"""Train a ControlNet for the built-in model: it keeps what a line drawing outlines where it is drawn (arXiv 2302.05543).

The branch begins as copies of the transformer's first blocks with projections of zero, so that it begins without any
effect. Only those blocks and projections learn: the base is frozen, and its embedders serve the branch, too. The drawing is
encoded by the DC-AE, as Sana's own ControlNet does it, and run in the order in which that one was trained.
"""

import random
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sana_cli.config.choices import ControlOrder
from sana_cli.config.networks import ControlNetConfig, TransformerConfig
from sana_cli.models.controlnet import ActiveControl, SanaControlNet
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.sana_transformer import SanaTransformer2D
from training.distil_steps import Teacher, load_teacher
from training.drawings import Drawing, sample_drawing
from training.muon import Muon, split_parameters
from training.presets import ControlSettings
from training.runs import (
    Budget,
    Ema,
    load_checkpoint,
    pick_device,
    resume,
    save_checkpoint,
    set_learning_rate,
    to_unit_range,
)
from training.sprites import Sprites
from training.transformer import noise_levels

# B batch, C latent channels, h w latent grid, N image tokens, D width

BASE = "builtin"
FILE = "control.pt"
POOL_FILE = "control-pool.pt"
LOG_EVERY_S = 30.0
SAVE_EVERY_S = 120.0
ENCODE_BATCH = 8
SHARED = ("patch_embed", "time_embed", "caption_projection", "caption_norm")  # the base's own
OWN = ("input_block", "transformer_blocks", "controlnet_blocks")


def load_autoencoder(model: str, device: torch.device) -> AutoencoderDC:
    """The autoencoder of a checkpoint folder or of `builtin`, fp32."""
    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.loading.load import load_vae

    checkpoint = open_checkpoint(model)
    return load_vae(checkpoint, dtype="fp32", device=device, halves=("encoder", "decoder"))


def control_config(base: TransformerConfig, blocks: int) -> ControlNetConfig:
    """The branch's network: the first `blocks` of its base, in the trained order."""
    return ControlNetConfig(blocks=replace(base, num_layers=blocks), order=ControlOrder.TRAINED)


def control_of(base: SanaTransformer2D, blocks: int) -> SanaControlNet:
    """A branch without any effect yet; its embedders are the base's modules."""
    net = SanaControlNet(control_config(base.config, blocks))
    for name in SHARED:
        setattr(net, name, getattr(base, name))
    for copied, original in zip(net.transformer_blocks, base.transformer_blocks, strict=False):
        copied.load_state_dict(original.state_dict())
    for projection in (net.input_block, *net.controlnet_blocks):
        assert isinstance(projection, nn.Linear)
        nn.init.zeros_(projection.weight)
        nn.init.zeros_(projection.bias)
    return net


def own_parts(net: SanaControlNet) -> nn.ModuleDict:
    """Return what is trained; parameters are named as in the branch."""
    parts = nn.ModuleDict({name: getattr(net, name) for name in OWN})
    return parts.requires_grad_(True)


class Controlled(nn.Module):
    """The frozen base with a branch."""

    def __init__(self, base: SanaTransformer2D, net: SanaControlNet) -> None:
        super().__init__()
        self.base, self.net = base, net

    def forward(
        self, x: Tensor, timestep: Tensor, control: Tensor, embeds: Tensor, mask: Tensor
    ) -> Tensor:
        """x and the drawing's latents (B, C, h, w), timestep (B,), text states and mask -> velocity (B, C, h, w)."""
        context = replace(
            self.base.encode_text(embeds, mask), control=self.net.encode_text(embeds, mask)
        )
        active = ActiveControl(
            net=self.net, tokens=self.net.encode_control(control), scale=1.0,
            order=self.net.config.order,
        )  # fmt: skip
        return self.base(x, timestep, [context], control=active)


class DrawingPool:
    """Unit-variance latents of pictures and of their lines in half precision, with some captions of each."""

    def __init__(
        self, vae: AutoencoderDC, sprites: Sprites, rng: random.Random, limit: int
    ) -> None:
        self.vae, self.sprites, self.rng, self.limit = vae, sprites, rng, limit
        self.latents: list[Tensor] = []  # each (2, C, h, w): picture, lines
        self.captions: list[list[str]] = []

    def add(self, count: int) -> None:
        """Draw and encode `count` new drawings; past the limit the oldest go."""
        drawings = [sample_drawing(self.rng, self.sprites) for _ in range(count)]
        for start in range(0, count, ENCODE_BATCH):
            part = drawings[start : start + ENCODE_BATCH]
            self.latents += encode_drawings(self.vae, part).half().cpu().unbind()
            self.captions += [self._captions(drawing) for drawing in part]
        self.latents = self.latents[-self.limit :]
        self.captions = self.captions[-self.limit :]

    def _captions(self, drawing: Drawing) -> list[str]:
        return [drawing.caption(self.rng, of_place=self.rng.random() < 0.4) for _ in range(4)]

    def batch(self, count: int, *, caption_dropout: float) -> tuple[list[str], Tensor]:
        """Captions, some of them empty, and latents (B, 2, C, h, w) fp32."""
        chosen = [self.rng.randrange(len(self.latents)) for _ in range(count)]
        captions = [
            "" if self.rng.random() < caption_dropout else self.rng.choice(self.captions[i])
            for i in chosen
        ]
        return captions, torch.stack([self.latents[i] for i in chosen]).float()

    def save(self, path: Path) -> None:
        save_checkpoint(path, {"latents": torch.stack(self.latents), "captions": self.captions})

    def load(self, path: Path) -> None:
        """Take what an earlier run encoded, if there is any."""
        state = load_checkpoint(path, torch.device("cpu"))
        if state is not None:
            self.latents, self.captions = list(state["latents"].unbind()), state["captions"]


@torch.no_grad()
def encode_drawings(vae: AutoencoderDC, drawings: list[Drawing]) -> Tensor:
    """Unit-variance latents of pictures and lines, (B, 2, C, h, w) fp32."""
    import numpy as np

    device = next(vae.parameters()).device
    images = np.stack([side for d in drawings for side in (d.picture, d.lines)])
    with torch.autocast(device.type, torch.bfloat16):
        latents = vae.encode(to_unit_range(images, device)).float() * vae.config.scaling_factor
    return latents.unflatten(0, (-1, 2))


def train_control(
    run_folder: Path, sprites: Sprites, budget: Budget, settings: ControlSettings
) -> None:
    """Train or resume; leaves `control.pt` with the branch and its average in the run folder."""
    device = pick_device()
    path = run_folder / FILE
    torch.manual_seed(6)
    teacher = load_teacher(BASE, device)
    net = control_of(teacher.transformer, settings.blocks).to(device)
    controlled, own = Controlled(teacher.transformer, net), own_parts(net)
    matrices, others = split_parameters(own)
    optimizers = (
        Muon(matrices, lr=1e-3, weight_decay=settings.weight_decay),
        torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    )
    ema = Ema(own, decay=settings.ema_decay)
    resume(path, device, own, optimizers, ema, budget)
    seed = 5000 + budget.step
    generator = torch.Generator().manual_seed(seed)
    pool = DrawingPool(
        load_autoencoder(BASE, device), sprites, random.Random(seed), settings.pool_limit
    )
    pool.load(run_folder / POOL_FILE)
    pool.add(max(0, settings.pool - len(pool.latents)))
    print(f"control: {sum(p.numel() for p in own.parameters()):,} parameters", flush=True)
    attention = SDPBackend.MATH if device.type == "cpu" else SDPBackend.EFFICIENT_ATTENTION
    budget.start()
    last_log = last_save = time.monotonic()
    losses: list[Tensor] = []
    while not budget.done:
        lr = set_learning_rate(
            optimizers, budget, peak=settings.peak_lr, warmup_steps=settings.warmup_steps,
            muon_factor=settings.muon_lr_factor,
        )  # fmt: skip
        if budget.step % settings.refresh_every == 0:
            pool.add(ENCODE_BATCH)
        with sdpa_kernel(attention):
            loss = flow_loss(controlled, teacher, pool, settings, generator)
            own.zero_grad(set_to_none=True)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(own.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        ema.update(own)
        budget.tick()
        losses.append(loss.detach())
        now = time.monotonic()
        if now - last_log > LOG_EVERY_S or budget.done:
            print(
                f"control {100 * budget.fraction:5.1f}% step {budget.step} lr {lr:.1e} "
                f"loss {torch.stack(losses).mean().item():.4f} drawings {len(pool.latents)}, "
                f"{(now - last_log) / len(losses):.2f} s/step",
                flush=True,
            )
            losses, last_log = [], now
            if now - last_save > SAVE_EVERY_S or budget.done:
                state = {"step": budget.step, "used_s": budget.used_s, "ema": ema.state_dict()}
                save_checkpoint(
                    path,
                    state
                    | {
                        "blocks": settings.blocks, "model": own.state_dict(),
                        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    },
                )  # fmt: skip
                pool.save(run_folder / POOL_FILE)
                last_save = now


def flow_loss(
    controlled: Controlled,
    teacher: Teacher,
    pool: DrawingPool,
    settings: ControlSettings,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared distance of the velocity to noise - data on a batch of the pool, as the base was trained."""
    device = next(controlled.parameters()).device
    captions, latents = pool.batch(settings.batch, caption_dropout=settings.caption_dropout)
    clean, control = latents.unbind(1)
    embeds, mask = teacher.embed(captions, device)
    sigma = noise_levels(len(clean), teacher.shift, generator)
    noise = torch.randn(clean.shape, generator=generator)
    noisy = torch.lerp(clean, noise, sigma[:, None, None, None]).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        velocity = controlled(
            noisy, (1000 * sigma).trunc().to(device), control.to(device), embeds, mask
        )
    return (velocity.float() - (noise - clean).to(device)).square().mean()


def load_control(run_folder: Path, base: SanaTransformer2D) -> SanaControlNet:
    """The averaged branch of a run, for this base."""
    state = load_checkpoint(run_folder / FILE, torch.device("cpu"))
    if state is None:
        raise FileNotFoundError(2, "no trained ControlNet", str(run_folder / FILE))
    net = control_of(base, state["blocks"])
    own_parts(net).load_state_dict(state["ema"]["average"])
    return net.eval().requires_grad_(False)
