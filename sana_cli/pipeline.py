"""From a request to pictures: encode_prompt -> init_latents -> denoise -> decode -> save.

Parts are resident only while they are needed: the text encoder, by far the largest, is gone before
the transformer is read. Every stage's result is checked for NaN, Inf and flatness; a stage that
fails runs once more in fp32 before the run gives up, since the usual cause is a 16-bit overflow.
"""

# B batch, C latent channels, h w latent grid, L text tokens

import gc
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from sana_cli import __version__, image_io
from sana_cli.errors import ExitCode, SanaError
from sana_cli.loading import (
    Checkpoint,
    load_prompt_encoder,
    load_transformer,
    load_vae,
)
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext
from sana_cli.models.text_encoder import EncodedPrompt
from sana_cli.precision import DTYPES, SAFEST, DtypePlan, plan_dtypes
from sana_cli.published import aspect_ratio_bins
from sana_cli.schedulers import Sampler, SchedulerName, make_scheduler

MAX_SIDE = 16384  # pixels; larger ones are typing mistakes
MAX_SEED = 2**64 - 1  # what torch.Generator takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to draw. None means the model's own default."""

    prompt: str
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    bins: bool = False  # draw at the nearest published aspect ratio, then resize to width x height
    steps: int | None = None
    guidance_scale: float | None = None
    scheduler: SchedulerName | None = None
    enhance: bool | None = None
    seed: int | None = None
    count: int = 1
    output: Path | None = None  # a .png file, or a folder; None: the working folder
    overwrite: bool = False
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A request with every blank filled in for one model."""

    prompt: str
    negative_prompt: str
    width: int  # of the finished picture, pixels
    height: int
    drawn_width: int  # of what the model draws; differs with bins
    drawn_height: int
    steps: int
    guidance_scale: float
    scheduler: SchedulerName
    flow_shift: float
    enhance: bool


@dataclass(slots=True, kw_only=True)
class Picture:
    """One finished picture; `seconds` by stage: load, text, denoise, decode, save, total."""

    path: Path
    seed: int
    width: int
    height: int
    seconds: dict[str, float]
    peak_memory_bytes: int
    settings: dict[str, Any] = field(default_factory=dict)


class Reporter(Protocol):
    """Where progress and notices go; `console.py` draws them, tests collect them."""

    def stage(
        self, title: str, total: int | None = None
    ) -> AbstractContextManager[Callable[[], None]]:
        """Open a stage of `total` steps (None: unknown); the yielded function advances it."""

    def notice(self, message: str) -> None:
        """Something that the user should know, in one line."""


# -- settings ----------------------------------------------------------------------------------


def resolve(request: Request, checkpoint: Checkpoint) -> Settings:
    """Fill in the model's defaults; SanaError (usage) for what cannot be drawn."""
    defaults = checkpoint.defaults
    sprint = checkpoint.transformer.guidance_embeds
    _require(bool(request.prompt.strip()), "the prompt is empty", 'say what to draw: "a red fox"')
    native = defaults.native_size
    width, height = request.width or native, request.height or native
    drawn_width, drawn_height = _drawn_size(width, height, native, bins=request.bins)
    steps = defaults.steps if request.steps is None else request.steps
    _require(1 <= steps <= 1000, f"cannot draw in {steps} steps", "use 1 to 1000; 20 is usual")
    guidance = defaults.guidance_scale if request.guidance_scale is None else request.guidance_scale
    _require(
        0 <= guidance <= 100, f"guidance {guidance} is out of range", "use 1 (off) to about 10"
    )
    _require(
        1 <= request.count <= 10_000,
        f"cannot draw {request.count} pictures",
        "use --count 1 or more",
    )
    _require(
        request.seed is None or 0 <= request.seed <= MAX_SEED - request.count + 1,
        f"seed {request.seed} is out of range",
        f"use 0 to {MAX_SEED}",
    )
    scheduler = request.scheduler or defaults.scheduler
    _require(
        (scheduler == "scm") == sprint,
        f"scheduler {scheduler} does not fit {checkpoint.name}",
        "Sprint models need scm, all others flow-dpm or flow-euler",
    )
    return Settings(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width=width,
        height=height,
        drawn_width=drawn_width,
        drawn_height=drawn_height,
        steps=steps,
        guidance_scale=float(guidance),
        scheduler=scheduler,  # type: ignore[arg-type]  # loading checks the name
        flow_shift=defaults.flow_shift,
        enhance=defaults.enhance if request.enhance is None else request.enhance,
    )


def _require(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise SanaError(message, hint=hint, code=ExitCode.USAGE)


def _drawn_size(width: int, height: int, native: int, *, bins: bool) -> tuple[int, int]:
    for side in (width, height):
        _require(
            32 <= side <= MAX_SIDE,
            f"size {width}x{height} is out of range",
            f"use sides of 32 to {MAX_SIDE} pixels; this model is at its best near {native}",
        )
    if not bins:
        near = f"{_nearest(width)}x{_nearest(height)}"
        _require(
            width % 32 == 0 and height % 32 == 0,
            f"size {width}x{height} is not a multiple of 32",
            f"use {near}, or --bins to draw at a published size and resize",
        )
        return width, height
    try:
        table = aspect_ratio_bins(native)
    except ValueError as error:
        raise SanaError(str(error), hint="use --exact", code=ExitCode.USAGE) from error
    closest = min(table, key=lambda ratio: abs(ratio - height / width))
    drawn_height, drawn_width = table[closest]
    return drawn_width, drawn_height


def _nearest(side: int) -> int:
    return max(32, round(side / 32) * 32)


def output_paths(request: Request, seeds: list[int]) -> list[Path]:
    """Where each picture goes; refuses, before any work, names that are taken or unwritable."""
    target = request.output
    if target is None or target.is_dir():
        folder = target or Path()
        base = image_io.slug(request.prompt)
        paths = [_free_name(folder / f"{base}-{seed}.png", request.overwrite) for seed in seeds]
    else:
        _require(
            target.suffix.lower() == ".png",
            f"cannot write {target.name}: pictures are saved as .png",
            f"use {target.with_suffix('.png')}",
        )
        several = len(seeds) > 1
        paths = [target.with_stem(f"{target.stem}-{seed}") if several else target for seed in seeds]
        for path in paths:
            if path.exists() and not request.overwrite:
                raise image_io.already_exists(path)
    image_io.check_writable(paths[0])
    return paths


def _free_name(path: Path, overwrite: bool) -> Path:
    candidate, number = path, 2
    while candidate.exists() and not overwrite:
        candidate, number = path.with_stem(f"{path.stem}-{number}"), number + 1
    return candidate


# -- the five verbs ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """The conditional and, when guidance is active, the unconditional text, (1, L, C) fp32."""

    positive: Tensor
    negative: Tensor | None


def uses_two_branches(settings: Settings) -> bool:
    """Classifier-free guidance runs for flow models at a scale above 1; Sprint embeds the scale."""
    return settings.guidance_scale > 1 and settings.scheduler != "scm"


def encode_prompt(
    checkpoint: Checkpoint,
    settings: Settings,
    *,
    dtype: str,
    device: torch.device,
    reporter: Reporter,
) -> tuple[EncodedPair, float]:
    """Both texts through Gemma, which is freed again. Also returns the seconds spent loading it."""
    started = time.perf_counter()
    with reporter.stage("load text encoder"):
        encoder = load_prompt_encoder(checkpoint, dtype=dtype, device=device)
    loading = time.perf_counter() - started
    with reporter.stage("text"):
        positive = encoder.encode(settings.prompt, enhance=settings.enhance)
        negative = None
        if uses_two_branches(settings):
            negative = encoder.encode_negative(settings.negative_prompt).embeds.float()
    _notice_prompt_problems(positive, checkpoint, reporter)
    return EncodedPair(positive.embeds.float(), negative), loading


def _notice_prompt_problems(
    prompt: EncodedPrompt, checkpoint: Checkpoint, reporter: Reporter
) -> None:
    if prompt.truncated_tokens:
        reporter.notice(
            f"the prompt is too long: its last {prompt.truncated_tokens} tokens are not used"
        )
    if prompt.unknown_words:
        words = ", ".join(prompt.unknown_words)
        reporter.notice(f"{checkpoint.name} does not know: {words} (see its model card)")


def init_noise(seed: int, channels: int, settings: Settings) -> tuple[Tensor, Callable[[], Tensor]]:
    """Unit noise (1, C, h, w) fp32, and a function for more of it.

    Always from a CPU generator, so that a seed is the same picture on every device.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = (1, channels, settings.drawn_height // 32, settings.drawn_width // 32)

    def draw() -> Tensor:
        return torch.randn(shape, generator=generator)

    return draw(), draw


@torch.inference_mode()
def denoise(
    transformer: SanaTransformer2D,
    contexts: list[TextContext],
    latents: Tensor,
    sampler: Sampler,
    *,
    guidance_scale: float,
    after_step: Callable[[int, Tensor], None] = lambda i, latents: None,
) -> Tensor:
    """The denoising loop: latents (1, C, h, w) fp32 in and out.

    Two contexts are the unconditional and the conditional branch. `after_step` may raise to stop.
    """
    dtype = transformer.proj_out.weight.dtype
    config = transformer.config
    device = latents.device
    embedded = None
    if config.guidance_embeds:
        embedded = torch.full((1,), guidance_scale * config.guidance_embeds_scale, device=device)
    latents = sampler.start(latents)
    for i in range(sampler.steps):
        x, timestep = sampler.inputs(i, latents)
        batch = x.expand(len(contexts), -1, -1, -1).to(dtype)
        t = torch.full((len(contexts),), timestep * config.timestep_scale, device=device)
        velocity = transformer(batch, t, contexts, embedded).float()
        if len(contexts) == 2:
            unconditional, conditional = velocity.chunk(2)
            velocity = unconditional + guidance_scale * (conditional - unconditional)
        latents = sampler.step(i, latents, velocity)
        after_step(i, latents)
    return latents


@torch.inference_mode()
def decode(vae: AutoencoderDC, latents: Tensor) -> Tensor:
    """Finished latents (1, C, h, w) -> (1, 3, 32h, 32w), nominally -1..1."""
    dtype = vae.decoder.conv_in.weight.dtype
    return vae.decode(latents.to(dtype) / vae.config.scaling_factor)


# -- the run -----------------------------------------------------------------------------------


class BrokenValues(Exception):
    """NaN, Inf or a flat result where a picture should be."""


def check_values(tensor: Tensor, stage: str, *, flat_below: float = 0.0) -> None:
    """Raise BrokenValues for NaN, Inf, or a spread not above `flat_below`."""
    if not tensor.isfinite().all():
        raise BrokenValues(f"NaN or infinite values after {stage}")
    if tensor.numel() > 1 and float(tensor.float().std()) <= flat_below:
        raise BrokenValues(f"flat values after {stage}")


class Run:
    """One request on one model. Keeps what the pictures of a request share."""

    def __init__(
        self, checkpoint: Checkpoint, request: Request, *, device: torch.device, reporter: Reporter
    ) -> None:
        self.checkpoint = checkpoint
        self.request = request
        self.device = device
        self.reporter = reporter
        self.settings = resolve(request, checkpoint)
        self.dtypes = plan_dtypes(request.precision, checkpoint.trained_precision, device)
        self._text: EncodedPair | None = None
        self._transformer: SanaTransformer2D | None = None
        self._vae: AutoencoderDC | None = None
        self._contexts: list[TextContext] = []
        self._seconds: dict[str, float] = {}
        self._warn_ineffective()

    def _warn_ineffective(self) -> None:
        if self.settings.negative_prompt and not uses_two_branches(self.settings):
            self.reporter.notice("--negative has no effect: guidance is 1 or below, or embedded")

    def pictures(self) -> Iterator[Picture]:
        """Draw and save them one by one, so that an interruption keeps those that are done."""
        first = secrets.randbelow(2**32) if self.request.seed is None else self.request.seed
        seeds = [first + i for i in range(self.request.count)]
        paths = output_paths(self.request, seeds)
        for seed, path in zip(seeds, paths, strict=True):
            with translate_out_of_memory(self.settings):
                yield self._draw(seed, path)
            self._seconds = {}

    def _draw(self, seed: int, path: Path) -> Picture:
        started = time.perf_counter()
        latents = self._guarded(lambda: self._latents(seed))
        decoded = self._guarded(lambda: self._decoded(latents))
        with self._timed("save"), self.reporter.stage("save"):
            settings = self._embedded_settings(seed)
            image = image_io.to_image(decoded)
            image_io.save_png(image, path, settings=settings, overwrite=self.request.overwrite)
        stages = ("load", "text", "denoise", "decode", "save")
        seconds = {stage: self._seconds.get(stage, 0.0) for stage in stages}
        return Picture(
            path=path,
            seed=seed,
            width=self.settings.width,
            height=self.settings.height,
            seconds={**seconds, "total": time.perf_counter() - started},
            peak_memory_bytes=peak_memory_bytes(self.device),
            settings=settings,
        )

    def _guarded(self, stage: Callable[[], Tensor]) -> Tensor:
        """Run a stage; if its values are broken, once more with everything in fp32."""
        try:
            return stage()
        except BrokenValues as broken:
            if self.dtypes.is_safest:
                raise _no_picture(broken) from broken
            self.reporter.notice(f"{broken} in {_named(self.dtypes)}; trying once more in fp32")
        self._forget()
        self.dtypes = SAFEST
        try:
            return stage()
        except BrokenValues as broken:
            raise _no_picture(broken) from broken

    def _forget(self) -> None:
        self._text, self._transformer, self._vae, self._contexts = None, None, None, []
        release_memory(self.device)

    def _latents(self, seed: int) -> Tensor:
        self._ensure_transformer()
        assert self._transformer is not None
        settings = self.settings
        noise, draw = init_noise(seed, self.checkpoint.transformer.in_channels, settings)
        sampler = make_scheduler(
            settings.scheduler,
            settings.steps,
            shift=settings.flow_shift,
            draw_noise=lambda: draw().to(self.device),
        )
        with self._timed("denoise"), self.reporter.stage("denoise", settings.steps) as advance:

            def after_step(i: int, latents: Tensor) -> None:
                check_values(latents, f"denoising step {i + 1}")
                advance()

            return denoise(
                self._transformer,
                self._contexts,
                noise.to(self.device),
                sampler,
                guidance_scale=settings.guidance_scale,
                after_step=after_step,
            )

    def _ensure_text(self) -> EncodedPair:
        if self._text is None:
            started = time.perf_counter()
            text, loading = encode_prompt(
                self.checkpoint,
                self.settings,
                dtype=self.dtypes.text_encoder,
                device=self.device,
                reporter=self.reporter,
            )
            release_memory(self.device)
            self._add_seconds("load", loading)
            self._add_seconds("text", time.perf_counter() - started - loading)
            check_values(text.positive, "text encoding")
            self._text = text
        return self._text

    def _ensure_transformer(self) -> None:
        if self._transformer is not None:
            return
        text = self._ensure_text()
        with self._timed("load"), self.reporter.stage("load transformer"):
            self._transformer = load_transformer(
                self.checkpoint, dtype=self.dtypes.transformer, device=self.device
            )
        dtype = DTYPES[self.dtypes.transformer]
        branches = [text.positive] if text.negative is None else [text.negative, text.positive]
        with self._timed("text"), torch.inference_mode():
            self._contexts = [
                self._transformer.encode_text(branch.to(self.device, dtype)) for branch in branches
            ]

    def _decoded(self, latents: Tensor) -> Tensor:
        if self._vae is None:
            with self._timed("load"), self.reporter.stage("load decoder"):
                self._vae = load_vae(self.checkpoint, dtype=self.dtypes.vae, device=self.device)
        with self._timed("decode"), self.reporter.stage("decode"):
            decoded = decode(self._vae, latents)
            # Half of one grey level over the whole picture: nothing that anybody drew.
            check_values(decoded, "decoding", flat_below=1 / 255)
            return image_io.resize_and_crop(
                decoded, height=self.settings.height, width=self.settings.width
            )

    def _embedded_settings(self, seed: int) -> dict[str, Any]:
        settings = self.settings
        drawn = f"{settings.drawn_width}x{settings.drawn_height}"
        size = f"{settings.width}x{settings.height}"
        return {
            "prompt": settings.prompt,
            "negative_prompt": settings.negative_prompt,
            "seed": seed,
            "steps": settings.steps,
            "guidance": settings.guidance_scale,
            "scheduler": settings.scheduler,
            "flow_shift": settings.flow_shift,
            "size": size,
            "drawn_size": drawn,
            "enhance": settings.enhance,
            "model": self.checkpoint.name,
            "revision": self.checkpoint.revision or "",
            "precision": self.dtypes.transformer,
            "device": self.device.type,
            "version": __version__,
        }

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._add_seconds(stage, time.perf_counter() - started)

    def _add_seconds(self, stage: str, seconds: float) -> None:
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds


def _no_picture(broken: BrokenValues) -> SanaError:
    return SanaError(
        f"no picture: {broken}, in fp32",
        hint="the weights are probably damaged; download the model again",
        code=ExitCode.CHECKPOINT,
    )


def _named(dtypes: DtypePlan) -> str:
    return "/".join(dict.fromkeys((dtypes.transformer, dtypes.vae, dtypes.text_encoder)))


@contextmanager
def translate_out_of_memory(settings: Settings) -> Iterator[None]:
    """Turn every form of "no memory left" into one SanaError."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory(settings) from error
    except RuntimeError as error:
        # On a CPU, torch reports a failed allocation as a plain RuntimeError.
        if "can't allocate memory" not in str(error) and "not enough memory" not in str(error):
            raise
        raise _out_of_memory(settings) from error


def _out_of_memory(settings: Settings) -> SanaError:
    return SanaError(
        f"out of memory at {settings.drawn_width}x{settings.drawn_height}",
        hint="draw a smaller --size, close other programs, or use a smaller model",
        code=ExitCode.ENVIRONMENT,
    )


def release_memory(device: torch.device) -> None:
    """Give freed weights back now, before the next part is loaded."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_memory_bytes(device: torch.device) -> int:
    """Peak of this process: device memory on CUDA, resident memory elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
