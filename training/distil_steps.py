"""Distil the few-step model from the built-in one, in the way of SANA-Sprint (arXiv 2503.09641).

The student is the teacher's network in TrigFlow, x_t = cos(t) x0 + sin(t) noise, with guidance as an input. It learns to
map every point of the teacher's guided path to the path's end. First by regression on paths that are kept in a bank
("knowledge of the solver"; each path gives ten pairs), then continuously in time (sCM, arXiv 2410.11081): the tangent of
its own prediction along the teacher's guided velocity becomes zero. The text encoder stays the teacher's.
"""

import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sana_cli.config.networks import TransformerConfig
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext
from sana_cli.schedulers import flow_euler_sigmas
from training.captions import choose_caption
from training.muon import Muon, split_parameters
from training.presets import DistilStepsSettings
from training.runs import (
    Budget,
    Ema,
    load_checkpoint,
    pick_device,
    resume,
    save_checkpoint,
    set_learning_rate,
)
from training.scenes import sample_scene
from training.text import build_tokenizer, text_states, tokenize

# B batch, C latent channels, h w latent grid, L text tokens, P points of a path

FILE = "sprint.pt"
LOG_EVERY_S = 30.0
SAVE_EVERY_S = 90.0
TIMESTEP_SCALE = 1000.0  # the teacher's timesteps are 0..1000, the angle's flow time is 0..1
PATHS_AT_ONCE = 32
_STEP = 3e-4  # radians, of the differences that estimate a derivative by time
_TANGENT_NORM = 0.1  # added to the norm that tangents are divided by


@dataclass(frozen=True)
class Teacher:
    """The model that is distilled, and its text side."""

    transformer: SanaTransformer2D
    text_encoder: nn.Module
    tokenizer: object
    shift: float

    @torch.no_grad()
    def embed(self, captions: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Text encoder states (B, L, caption_channels) fp32 and mask (B, L) bool."""
        ids, mask = tokenize(self.tokenizer, captions, device)
        return text_states(self.text_encoder, ids, mask).float(), mask

    @torch.no_grad()
    def contexts(self, embeds: Tensor, mask: Tensor) -> list[TextContext]:
        """Return the contexts of the empty text and of the captions, for `guided`."""
        empty, _ = self.embed([""], embeds.device)
        empty = empty.expand(len(embeds), -1, -1)
        return [self.transformer.encode_text(empty), self.transformer.encode_text(embeds, mask)]

    @torch.no_grad()
    def guided(
        self, x: Tensor, sigma: Tensor, contexts: list[TextContext], guidance: Tensor
    ) -> Tensor:
        """Guided velocity noise - data (B, C, h, w) fp32 at noise level sigma (B,); guidance (B,)."""
        timestep = TIMESTEP_SCALE * torch.cat([sigma, sigma])
        velocity = self.transformer(torch.cat([x, x]), timestep, contexts).float()
        unconditional, conditional = velocity.chunk(2)
        return unconditional + _column(guidance) * (conditional - unconditional)


@dataclass
class Paths:
    """Guided paths of the teacher: captions, guidance, points (P, C, h, w) from noise on, and their ends."""

    captions: list[str]
    guidance: list[float]
    points: list[Tensor]
    ends: list[Tensor]


def load_teacher(model: str, device: torch.device) -> Teacher:
    """The transformer and text encoder of a checkpoint folder or of `builtin`, fp32."""
    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.loading.load import load_prompt_encoder, load_transformer

    checkpoint = open_checkpoint(model)
    encoder = load_prompt_encoder(checkpoint, dtype="fp32", device=device)
    transformer = load_transformer(checkpoint, dtype="fp32", device=device)
    return Teacher(
        transformer.requires_grad_(False), encoder.model, build_tokenizer(),
        checkpoint.defaults.flow_shift,
    )  # fmt: skip


def student_config(teacher: TransformerConfig) -> TransformerConfig:
    """The teacher's network with guidance as an input and the flow time as timestep, as Sprint's."""
    return replace(teacher, guidance_embeds=True, timestep_scale=TIMESTEP_SCALE)


def student_of(teacher: SanaTransformer2D) -> SanaTransformer2D:
    """A student that predicts what the teacher does: the embedding of guidance starts at zero."""
    student = SanaTransformer2D(student_config(teacher.config))
    state = {
        name.replace("time_embed.emb.", "time_embed."): value
        for name, value in teacher.state_dict().items()
    }
    student.load_state_dict(state, strict=False)
    last = student.time_embed.guidance_embedder.linear_2
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return student


class TrigFlow(nn.Module):
    """The student's prediction F in TrigFlow; x0 = cos(t) x_t - sin(t) F. Data of unit variance."""

    def __init__(self, transformer: SanaTransformer2D) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self, x: Tensor, angle: Tensor, embeds: Tensor, mask: Tensor, guidance: Tensor
    ) -> Tensor:
        """x (B, C, h, w), angle (B,) in radians, guidance (B,) -> F (B, C, h, w) fp32."""
        config = self.transformer.config
        s = flow_time(angle)
        r = _column(torch.hypot(s, 1 - s))
        flow_x = x * r
        context = self.transformer.encode_text(embeds, mask)
        velocity = self.transformer(
            flow_x, s * config.timestep_scale, [context], guidance * config.guidance_embeds_scale
        ).float()
        return to_trig(flow_x, velocity, s) / r


def flow_time(angle: Tensor) -> Tensor:
    """The noise level s of a flow model at a TrigFlow angle, tan(t) = s / (1 - s)."""
    return angle.sin() / (angle.sin() + angle.cos())


def to_trig(flow_x: Tensor, velocity: Tensor, s: Tensor) -> Tensor:
    """r times F, from a flow model's input and velocity (SANA-Sprint, equation 6)."""
    s = _column(s)
    return (1 - 2 * s) * flow_x + (1 - 2 * s + 2 * s * s) * velocity


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]


class Bank:
    """Paths of the teacher on scenes of the training split; the oldest go when it is full."""

    def __init__(self, teacher: Teacher, rng: random.Random, settings: DistilStepsSettings) -> None:
        self.teacher, self.rng, self.settings = teacher, rng, settings
        sigmas = flow_euler_sigmas(settings.path_steps, teacher.shift)
        self.sigmas = torch.tensor(sigmas)
        self.paths = Paths([], [], [], [])

    def add(self, count: int, generator: torch.Generator) -> None:
        """Draw `count` paths with the teacher by Flow-Euler, which is right in 98 % with ten steps."""
        device = next(self.teacher.transformer.parameters()).device
        captions = [choose_caption(sample_scene(self.rng), self.rng) for _ in range(count)]
        low, high = self.settings.guidance
        guidance = low + (high - low) * torch.rand(count, generator=generator)
        embeds, mask = self.teacher.embed(captions, device)
        config = self.teacher.transformer.config
        shape = (count, config.in_channels, config.sample_size, config.sample_size)
        x = torch.randn(shape, generator=generator).to(device)
        points = [x]
        with torch.autocast(device.type, torch.bfloat16):
            contexts = self.teacher.contexts(embeds, mask)
            for here, there in zip(self.sigmas, self.sigmas[1:], strict=False):
                at = here.expand(count).to(device)
                velocity = self.teacher.guided(x, at, contexts, guidance.to(device))
                x = x + (there - here).to(device) * velocity
                points.append(x)
        kept = torch.stack(points[:-1], dim=1).half().cpu()  # (B, P, C, h, w)
        paths, limit = self.paths, self.settings.bank
        paths.captions = (paths.captions + captions)[-limit:]
        paths.guidance = (paths.guidance + guidance.tolist())[-limit:]
        paths.points = (paths.points + [p.clone() for p in kept])[-limit:]
        paths.ends = (paths.ends + [e.clone() for e in x.half().cpu()])[-limit:]

    def choose(self, count: int) -> list[int]:
        return [self.rng.randrange(len(self.paths.captions)) for _ in range(count)]

    def pairs(self, chosen: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Points in TrigFlow (B, C, h, w), their angles (B,), and the ends of their paths (B, C, h, w)."""
        start = self.settings.start_share
        places = [
            0 if self.rng.random() < start else self.rng.randrange(len(self.sigmas) - 1)
            for _ in chosen
        ]
        flow_x = torch.stack([self.paths.points[i][p] for i, p in zip(chosen, places, strict=True)])
        s = self.sigmas[places]
        ends = torch.stack([self.paths.ends[i] for i in chosen])
        return flow_x.float() / _column(torch.hypot(s, 1 - s)), torch.atan2(s, 1 - s), ends.float()

    def noised(self, chosen: list[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Ends of paths with fresh noise, (B, C, h, w), and their angles (B,).

        None is at pure noise, where the tangent is zero whatever the student predicts.
        """
        ends = torch.stack([self.paths.ends[i] for i in chosen]).float()
        mean, deviation = self.settings.log_tangent
        normal = torch.randn(len(chosen), generator=generator)
        angle = torch.atan((mean + deviation * normal).exp())
        noise = torch.randn(ends.shape, generator=generator)
        return _column(angle.cos()) * ends + _column(angle.sin()) * noise, angle


def regression_loss(
    student: TrigFlow, x: Tensor, angle: Tensor, ends: Tensor, text: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Mean squared distance of the predicted x0 to the end of the path."""
    predicted = _column(angle.cos()) * x - _column(angle.sin()) * student(x, angle, *text)
    return (predicted - ends).square().mean()


def consistency_loss(
    student: TrigFlow,
    teacher: Teacher,
    x: Tensor,
    angle: Tensor,
    text: tuple[Tensor, Tensor, Tensor],
    *,
    weight: float,
) -> Tensor:
    """The sCM loss: F moves against the normalised tangent of x0 along the teacher's guided path.

    The derivative by time is a central difference in fp32: forward-mode differentiation takes three times as long on a
    CPU. `weight` of the terms that depend on it grows from 0 to 1 while training warms up.
    """
    embeds, mask, guidance = text
    s = flow_time(angle)
    flow_x = x * _column(torch.hypot(s, 1 - s))
    with torch.autocast(x.device.type, torch.bfloat16):
        velocity = teacher.guided(flow_x, s, teacher.contexts(embeds, mask), guidance)
    slope = to_trig(flow_x, velocity, s) / _column(torch.hypot(s, 1 - s))  # dx/dt
    with torch.autocast(x.device.type, torch.bfloat16):
        predicted = student(x, angle, *text)
    with torch.no_grad():
        later, sooner = (student(x + step * slope, angle + step, *text) for step in (_STEP, -_STEP))
        derivative = (later - sooner) / (2 * _STEP)
        cos, sin = _column(angle.cos()), _column(angle.sin())
        frozen = predicted.detach()
        tangent = -cos.square() * (frozen - slope) - weight * cos * sin * (x + derivative)
        norm = tangent.flatten(1).norm(dim=1) / tangent[0].numel() ** 0.5
        tangent = tangent / (_column(norm) + _TANGENT_NORM)
    return (predicted - frozen - tangent).square().mean()


def student_from(model: str, teacher: TransformerConfig, device: torch.device) -> SanaTransformer2D:
    """The few-step model of a checkpoint folder or of `builtin-sprint`, fp32; ValueError unless distilled from this teacher."""
    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.loading.load import load_transformer

    loaded = load_transformer(open_checkpoint(model), dtype="fp32", device=device)
    student = SanaTransformer2D(student_config(teacher))
    if loaded.config != student.config:
        raise ValueError(f"{model} has another network than a student of the teacher")
    student.load_state_dict(loaded.state_dict())
    return student


def train_few_steps(
    run_folder: Path,
    teacher_model: str,
    budget: Budget,
    settings: DistilStepsSettings,
    *,
    student_model: str = "",
) -> None:
    """Train or resume; leaves `sprint.pt` with the student and its average in the run folder.

    `student_model` starts from a few-step model in place of the teacher.
    """
    device = pick_device()
    path = run_folder / FILE
    torch.manual_seed(5)
    teacher = load_teacher(teacher_model, device)
    first = (
        student_from(student_model, teacher.transformer.config, device)
        if student_model
        else student_of(teacher.transformer)
    )
    student = TrigFlow(first).to(device)
    matrices, others = split_parameters(student)
    optimizers = (
        Muon(matrices, lr=1e-3),
        torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    )
    ema = Ema(student, decay=settings.ema_decay)
    resume(path, device, student, optimizers, ema, budget)
    seed = 4000 + budget.step
    generator = torch.Generator().manual_seed(seed)
    bank = Bank(teacher, random.Random(seed), settings)
    attention = SDPBackend.MATH if device.type == "cpu" else SDPBackend.EFFICIENT_ATTENTION
    with sdpa_kernel(attention):
        for _ in range(settings.first_paths // PATHS_AT_ONCE):
            bank.add(PATHS_AT_ONCE, generator)
        budget.start()
        last_log = last_save = time.monotonic()
        losses: list[Tensor] = []
        continuous_from: float | None = None
        while not budget.done:
            continuous = budget.fraction >= settings.continuous_from
            peak = settings.continuous_peak_lr if continuous else settings.peak_lr
            lr = set_learning_rate(
                optimizers, budget, peak=peak, warmup_steps=settings.warmup_steps,
                muon_factor=settings.muon_lr_factor,
            )  # fmt: skip
            if budget.step % settings.refresh_every == 0:
                bank.add(PATHS_AT_ONCE, generator)
            chosen = bank.choose(settings.batch)
            embeds, mask = teacher.embed([bank.paths.captions[i] for i in chosen], device)
            guidance = torch.tensor([bank.paths.guidance[i] for i in chosen], device=device)
            text = (embeds, mask, guidance)
            anchors = settings.anchors if continuous else 1.0
            loss = torch.zeros((), device=device)
            if continuous:
                continuous_from = budget.fraction if continuous_from is None else continuous_from
                x, angle = (t.to(device) for t in bank.noised(chosen, generator))
                warm = (budget.fraction - continuous_from) / settings.continuous_warmup
                loss = consistency_loss(student, teacher, x, angle, text, weight=min(1.0, warm))
            if anchors:
                x, angle, ends = (t.to(device) for t in bank.pairs(chosen))
                with torch.autocast(device.type, torch.bfloat16):
                    loss = loss + anchors * regression_loss(student, x, angle, ends, text)
            student.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            ema.update(student)
            budget.tick()
            losses.append(loss.detach())
            now = time.monotonic()
            if now - last_log > LOG_EVERY_S or budget.done:
                print(
                    f"few steps {100 * budget.fraction:5.1f}% step {budget.step} lr {lr:.1e} "
                    f"{'consistency' if continuous else 'regression'} loss "
                    f"{torch.stack(losses).mean().item():.4f} paths {len(bank.paths.captions)}, "
                    f"{(now - last_log) / len(losses):.2f} s/step",
                    flush=True,
                )
                losses, last_log = [], now
                if now - last_save > SAVE_EVERY_S or budget.done:
                    save_checkpoint(path, _state(student, optimizers, ema, budget))
                    if not continuous:  # to compare both ways, and to fall back to
                        save_checkpoint(
                            path.with_stem(f"{path.stem}-regression"),
                            {"ema": ema.state_dict(), "step": budget.step},
                        )
                    last_save = now


def _state(
    student: nn.Module,
    optimizers: tuple[torch.optim.Optimizer, ...],
    ema: Ema,
    budget: Budget,
) -> dict[str, object]:
    return {
        "step": budget.step,
        "used_s": budget.used_s,
        "ema": ema.state_dict(),
        "model": student.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }


def load_student(
    run_folder: Path, teacher: TransformerConfig, *, file: str = FILE
) -> SanaTransformer2D:
    """The averaged student of a run."""
    state = load_checkpoint(run_folder / file, torch.device("cpu"))
    if state is None:
        raise FileNotFoundError(2, "no distilled transformer", str(run_folder / file))
    model = TrigFlow(SanaTransformer2D(student_config(teacher)))
    model.load_state_dict(state["ema"]["average"])
    return model.transformer.eval().requires_grad_(False)
