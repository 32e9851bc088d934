"""Train the text encoder and the Linear-DiT together by flow matching on the autoencoder's latents.

x_sigma = (1 - sigma) x0 + sigma noise, target v = noise - x0, sigma logit-normal and shifted; the timestep is the integer
trunc(1000 sigma), as the samplers feed it. Latents are cached in a pool that keeps turning over, because encoding a
picture costs more than a training step on its latents.
"""

import math
import random
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedTokenizerFast

from sana_cli.config.networks import TransformerConfig
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.sana_transformer import SanaTransformer2D
from training.captions import choose_caption
from training.data import whole_pictures
from training.dc_ae import load_autoencoder
from training.muon import Muon, split_parameters
from training.presets import TransformerSettings
from training.runs import (
    Budget,
    Ema,
    load_checkpoint,
    pick_device,
    resume,
    save_checkpoint,
    save_grid,
    set_learning_rate,
    to_uint8,
    to_unit_range,
)
from training.sampling import sample_latents
from training.scenes import Scene
from training.sprites import Sprites
from training.text import build_text_encoder, build_tokenizer, tokenize
from training.workers import Worker

# B batch, C latent channels, h w latent grid, L text tokens

LOG_EVERY_S = 30.0
SAVE_EVERY_S = 150.0
GRID_EVERY_S = 240.0
ENCODE_BATCH = 16
SCENES_PER_MINUTE = 250  # of training, in the first pool
FLOW_SHIFT = 3.0
# The layout is settled in a sampler's first steps, so relations are learned there alone.
NOISIEST_FROM = 0.85
NOISIEST_SHARE = 0.3

GRID_PROMPTS = (
    "a cat", "a large panda on a pink background in shaded style", "a rocket on a black background",
    "a small green triangle on a white background", "a large red heart on a yellow background",
    "a cat left of a pizza on a blue background", "a dog right of a car on a green background in flat style",
    "a sun above a house on a blue background", "an owl below a moon on a black background",
    "a blue circle above a yellow square on a white background", "two frogs on a purple background",
    "three apples on a white background in shaded style", "a unicorn on a white background in flat style",
    "a purple star right of a robot on a gray background", "a hamburger", "a medium orange ring on a blue background",
)  # fmt: skip


def transformer_config(caption_channels: int) -> TransformerConfig:
    """Eight blocks of width 192 on an 8x8 grid, with the fixed positions that Sana uses at 2K."""
    return TransformerConfig(
        num_attention_heads=6,
        num_layers=8,
        num_cross_attention_heads=6,
        cross_attention_head_dim=32,
        cross_attention_dim=192,
        caption_channels=caption_channels,
        sample_size=8,
        interpolation_scale=1.0,
    )


class TextToVelocity(nn.Module):
    """A module of both networks, so that they are trained together."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.text_encoder = build_text_encoder(vocabulary_size)
        self.transformer = SanaTransformer2D(
            transformer_config(self.text_encoder.config.hidden_size)
        )

    def forward(self, latents: Tensor, timestep: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """latents (B, C, h, w), timestep (B,), ids and mask (B, L) -> velocity (B, C, h, w)."""
        embeds = self.text_encoder(ids, attention_mask=mask, use_cache=False).last_hidden_state
        return self.transformer(latents, timestep, [self.transformer.encode_text(embeds, mask)])


def initialise(transformer: SanaTransformer2D) -> None:
    """Xavier weights; small AdaLN tables; a final projection of zero, so that the first guess is zero."""
    D = transformer.config.inner_dim
    for module in transformer.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            if module.weight.shape[1] == 1:  # depthwise: fan in is 9 taps
                nn.init.normal_(module.weight, std=1 / 3)
            else:
                nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for block in transformer.transformer_blocks:
        nn.init.normal_(block.scale_shift_table, std=D**-0.5)
        nn.init.normal_(block.attn2.to_out[0].weight, std=0.02)
    nn.init.normal_(transformer.scale_shift_table, std=D**-0.5)
    nn.init.normal_(transformer.time_embed.linear.weight, std=0.02)
    nn.init.zeros_(transformer.proj_out.weight)


class LatentPool:
    """Scenes of the training split with their unit-variance latents, kept as half precision on the CPU."""

    def __init__(
        self,
        vae: AutoencoderDC,
        scaling_factor: float,
        sprites: Sprites,
        rng: random.Random,
        limit: int,
    ):
        self.vae, self.scaling_factor, self.sprites, self.rng, self.limit = (
            vae,
            scaling_factor,
            sprites,
            rng,
            limit,
        )
        self.scenes: list[Scene] = []
        self.latents: list[Tensor] = []
        self._oldest = 0

    @torch.no_grad()
    def add(self, count: int) -> None:
        """Draw and encode `count` new scenes; past the limit they replace the oldest."""
        device = next(self.vae.parameters()).device
        for start in range(0, count, ENCODE_BATCH):
            scenes, images = whole_pictures(
                self.sprites, self.rng, min(ENCODE_BATCH, count - start)
            )
            with torch.autocast(device.type, torch.bfloat16):
                latents = self.vae.encode(to_unit_range(images, device))
            for scene, latent in zip(
                scenes, (latents.float() * self.scaling_factor).half().cpu(), strict=True
            ):
                self._put(scene, latent.clone())

    def _put(self, scene: Scene, latent: Tensor) -> None:
        if len(self.scenes) < self.limit:
            self.scenes.append(scene)
            self.latents.append(latent)
            return
        self.scenes[self._oldest], self.latents[self._oldest] = scene, latent
        self._oldest = (self._oldest + 1) % self.limit

    def batch(self, count: int, *, caption_dropout: float) -> tuple[list[str], Tensor]:
        """Captions, some of them empty, and latents (B, C, h, w) fp32."""
        chosen = [self.rng.randrange(len(self.scenes)) for _ in range(count)]
        captions = [
            "" if self.rng.random() < caption_dropout else choose_caption(self.scenes[i], self.rng)
            for i in chosen
        ]
        return captions, torch.stack([self.latents[i] for i in chosen]).float()


def noise_levels(count: int, shift: float, generator: torch.Generator) -> Tensor:
    """Logit-normal sigmas, shifted towards noise, (B,); a share of them uniform in the noisiest range."""
    u = torch.sigmoid(torch.randn(count, generator=generator))
    sigma = shift * u / (1 + (shift - 1) * u)
    noisiest = 1 - (1 - NOISIEST_FROM) * torch.rand(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < NOISIEST_SHARE, noisiest, sigma)


def train_transformer(
    worker: Worker,
    run_folder: Path,
    sprites: Sprites,
    budget: Budget,
    settings: TransformerSettings,
) -> None:
    """Train or resume; leaves `transformer.pt` with both networks and their averages in the run folder."""
    device = pick_device()
    path = run_folder / "transformer.pt"
    tokenizer = build_tokenizer()
    torch.manual_seed(1)
    model = TextToVelocity(len(tokenizer)).to(device)
    initialise(model.transformer)
    matrices, others = split_parameters(model)
    optimizers = (
        Muon(matrices, lr=1e-3, weight_decay=settings.weight_decay),
        torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    )
    ema = Ema(model, decay=settings.ema_decay)
    resume(path, device, model, optimizers, ema, budget)
    seed = 2000 + budget.step + 7919 * worker.rank
    generator = torch.Generator().manual_seed(seed)
    vae, scaling_factor = load_autoencoder(run_folder, device)
    pool = LatentPool(
        vae, scaling_factor, sprites, random.Random(seed), settings.pool_limit // worker.count
    )
    pool.add(min(settings.pool, math.ceil(SCENES_PER_MINUTE * budget.minutes)) // worker.count)
    run_model = torch.compile(model, dynamic=True) if settings.compile else model
    if worker.is_first:
        counts = [
            sum(p.numel() for p in part.parameters())
            for part in (model.text_encoder, model.transformer)
        ]
        print(
            f"text encoder {counts[0]:,}, transformer {counts[1]:,} parameters on {device}",
            flush=True,
        )
    batch = math.ceil(settings.batch / worker.count)
    # The fused kernel's backward takes a third of a step on a CPU for texts this short.
    attention = SDPBackend.MATH if device.type == "cpu" else SDPBackend.EFFICIENT_ATTENTION
    budget.start()
    last_log = last_save = last_grid = time.monotonic()
    seen, losses = 0, []
    while not budget.done:
        lr = set_learning_rate(
            optimizers, budget, peak=settings.peak_lr, warmup_steps=settings.warmup_steps,
            muon_factor=settings.muon_lr_factor,
        )  # fmt: skip
        if budget.step % settings.refresh_every == 0:
            pool.add(ENCODE_BATCH)
        captions, clean = pool.batch(batch, caption_dropout=settings.caption_dropout)
        ids, mask = tokenize(tokenizer, captions, device)
        sigma = noise_levels(batch, FLOW_SHIFT, generator)
        noise = torch.randn(clean.shape, generator=generator)
        noisy = torch.lerp(clean, noise, sigma[:, None, None, None])
        target = (noise - clean).to(device)
        with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(attention):
            velocity = run_model(noisy.to(device), (1000 * sigma).trunc().to(device), ids, mask)
        loss = (velocity.float() - target).square().mean()
        model.zero_grad(set_to_none=True)
        loss.backward()
        worker.average_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        ema.update(model)
        budget.tick()
        budget.used_s = worker.agree(budget.used_s)
        seen += batch * worker.count
        losses.append(loss.detach())
        now = time.monotonic()
        if worker.is_first and (now - last_log > LOG_EVERY_S or budget.done):
            mean = torch.stack(losses).mean().item()
            print(
                f"transformer {100 * budget.fraction:5.1f}% step {budget.step} lr {lr:.1e} loss {mean:.4f} "
                f"{seen / (now - last_log):.0f} pictures/s pool {len(pool.scenes)} per worker",
                flush=True,
            )
            seen, losses, last_log = 0, [], now
            if now - last_save > SAVE_EVERY_S or budget.done:
                state = {"step": budget.step, "used_s": budget.used_s, "ema": ema.state_dict()}
                save_checkpoint(
                    path,
                    {
                        **state,
                        "model": model.state_dict(),
                        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    },
                )
                last_save = now
            if now - last_grid > GRID_EVERY_S or budget.done:
                draw_grid(run_folder, ema, tokenizer, vae, scaling_factor)
                last_grid = last_log = time.monotonic()


def averaged_networks(
    ema_average: dict[str, Tensor], vocabulary_size: int, device: torch.device
) -> TextToVelocity:
    """Return both networks with averaged weights, for inference."""
    model = TextToVelocity(vocabulary_size).to(device)
    model.load_state_dict(ema_average, strict=False)
    return model.eval().requires_grad_(False)


def load_networks(
    run_folder: Path, device: torch.device
) -> tuple[TextToVelocity, PreTrainedTokenizerFast]:
    """The averaged text encoder and transformer of a run, and the tokenizer."""
    state = load_checkpoint(run_folder / "transformer.pt", device)
    if state is None:
        raise FileNotFoundError(
            f"no trained transformer in {run_folder}: run `python -m training transformer` first"
        )
    tokenizer = build_tokenizer()
    return averaged_networks(state["ema"]["average"], len(tokenizer), device), tokenizer


@torch.inference_mode()
def draw_grid(
    run_folder: Path,
    ema: Ema,
    tokenizer: PreTrainedTokenizerFast,
    vae: AutoencoderDC,
    scaling_factor: float,
) -> None:
    """The fixed prompts with the averaged weights, as `transformer.png` (order as in GRID_PROMPTS)."""
    device = next(vae.parameters()).device
    networks = averaged_networks(ema.average, len(tokenizer), device)
    with torch.autocast(device.type, torch.bfloat16):
        latents = sample_latents(
            networks.transformer, networks.text_encoder, tokenizer, list(GRID_PROMPTS),
            seeds=list(range(len(GRID_PROMPTS))), steps=16, guidance=4.0, shift=FLOW_SHIFT,
        )  # fmt: skip
        images = to_uint8(vae.decode(latents / scaling_factor))
    save_grid(run_folder / "transformer.png", images, columns=8)
