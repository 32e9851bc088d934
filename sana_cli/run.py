"""One request on one model, from loading to saved files.

Parts are resident only while they are needed: the text encoder, by far the largest, is gone before
the transformer is read. A stage whose values are broken (NaN, Inf, flat) runs once more with
everything in fp32 before the run gives up, since the usual cause is a 16-bit overflow.
"""

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sana_cli import __version__, image_io
from sana_cli.checkpoint import Checkpoint
from sana_cli.errors import ExitCode, SanaError
from sana_cli.loading import accelerate, load_prompt_encoder, load_transformer, load_vae
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext
from sana_cli.pipeline import (
    BrokenValues,
    EncodedPair,
    check_values,
    decode,
    denoise,
    encode_prompt,
    init_noise,
)
from sana_cli.pixels import resize_and_crop, to_image
from sana_cli.precision import DTYPES, SAFEST, plan_dtypes
from sana_cli.request import Request, Settings, output_paths, resolve, seeds_of
from sana_cli.schedulers import make_scheduler

_ALLOCATION_FAILED = ("can't allocate memory", "cannot allocate memory", "not enough memory")
_LISTED_WORDS = 10
STAGES = ("load", "text", "denoise", "decode", "save")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One finished picture. `seconds` by stage, and in total; `settings` is what the file carries."""

    path: Path
    seed: int
    width: int
    height: int
    seconds: dict[str, float]
    peak_memory_bytes: int
    settings: dict[str, Any]


class Reporter(Protocol):
    """Where progress and notices go; `console.py` draws them, tests collect them."""

    def stage(
        self, title: str, total: int | None = None
    ) -> AbstractContextManager[Callable[[], None]]:
        """Open a stage of `total` steps (None: unknown); the yielded function advances it."""

    def notice(self, message: str) -> None:
        """Something that the user should know, in one line."""


class Run:
    """Draws the pictures of a request. Keeps what they share: texts, transformer, decoder."""

    def __init__(
        self, checkpoint: Checkpoint, request: Request, *, device: torch.device, reporter: Reporter
    ) -> None:
        self.checkpoint = checkpoint
        self.request = request
        self.device = device
        self.reporter = reporter
        self.settings = resolve(request, checkpoint)
        self.dtypes = plan_dtypes(request.precision, checkpoint.trained_precision, device)
        self._transformer: SanaTransformer2D | None = None
        self._contexts: list[TextContext] = []
        self._vae: AutoencoderDC | None = None
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self.kernels: dict[str, str] = {}  # of quantized layers, by kind
        native = checkpoint.defaults.native_size
        if checkpoint.own.vocabulary and (native, native) != (
            self.settings.drawn_width, self.settings.drawn_height,
        ):  # fmt: skip
            reporter.notice(
                f"{checkpoint.name} was trained at {native}x{native}; others draw worse"
            )
        if self.settings.negative_prompt and not self.settings.uses_two_branches:
            reporter.notice("--negative has no effect: guidance is 1 or less, or built in (Sprint)")

    def pictures(self) -> Iterator[Picture]:
        """Draw and save them one by one, so that an interruption keeps those that are done."""
        seeds = seeds_of(self.request)
        paths = output_paths(self.request, seeds)
        for seed, path in zip(seeds, paths, strict=True):
            with translate_out_of_memory(self.settings):
                picture = self._draw(seed, path)
            yield picture

    def _draw(self, seed: int, path: Path) -> Picture:
        started = time.perf_counter()
        self._seconds = dict.fromkeys(STAGES, 0.0)
        latents = self._guarded(lambda: self._latents(seed))
        decoded = self._guarded(lambda: self._decoded(latents))
        settings = self._embedded_settings(seed)
        with self._timed("save"), self.reporter.stage("save"):
            image_io.save_png(
                to_image(decoded),
                path,
                settings=settings,
                overwrite=self.request.overwrite,
            )
        return Picture(
            path=path,
            seed=seed,
            width=self.settings.width,
            height=self.settings.height,
            seconds={**self._seconds, "total": time.perf_counter() - started},
            peak_memory_bytes=peak_memory_bytes(self.device),
            settings=settings,
        )

    def _guarded(self, stage: Callable[[], Tensor]) -> Tensor:
        """Run a stage; if its values are broken, once more with everything in fp32."""
        try:
            return stage()
        except BrokenValues as broken:
            if self.dtypes == SAFEST:
                raise _no_picture(broken) from broken
            self.reporter.notice(f"{broken} in {self.dtypes}; trying once more in fp32")
        self._transformer, self._contexts, self._vae = None, [], None
        release_memory(self.device)
        self.dtypes = SAFEST
        try:
            return stage()
        except BrokenValues as broken:
            raise _no_picture(broken) from broken

    def _latents(self, seed: int) -> Tensor:
        transformer = self._ready_transformer()
        settings = self.settings
        noise, draw = init_noise(seed, self.checkpoint.transformer.in_channels, settings)
        sampler = make_scheduler(
            settings.scheduler,
            settings.steps,
            shift=settings.flow_shift,
            draw_noise=lambda: draw().to(self.device),
        )
        with self._timed("denoise"), self.reporter.stage("denoise", settings.steps) as advance:
            return denoise(
                transformer,
                self._contexts,
                noise.to(self.device),
                sampler,
                guidance_scale=settings.guidance_scale,
                after_step=lambda i, latents: advance(),
            )

    def _ready_transformer(self) -> SanaTransformer2D:
        if self._transformer is None:
            text = self._encode_text()
            with self._timed("load"), self.reporter.stage("load transformer"):
                self._transformer = load_transformer(
                    self.checkpoint, dtype=self.dtypes.transformer, device=self.device
                )
                self._accelerate(self._transformer)
            dtype = DTYPES[self.dtypes.transformer]
            with self._timed("text"), torch.inference_mode():
                self._contexts = [
                    self._transformer.encode_text(embeds.to(self.device, dtype))
                    for embeds in text.branches
                ]
        return self._transformer

    def _encode_text(self) -> EncodedPair:
        with self._timed("load"), self.reporter.stage("load text encoder"):
            encoder = load_prompt_encoder(
                self.checkpoint, dtype=self.dtypes.text_encoder, device=self.device
            )
            self._accelerate(encoder.model)
        with self._timed("text"), self.reporter.stage("text"):
            text = encode_prompt(encoder, self.settings)
            check_values(text.positive.embeds, "text encoding")
        del encoder
        release_memory(self.device)
        if text.positive.truncated_tokens:
            count = text.positive.truncated_tokens
            self.reporter.notice(f"the prompt is too long: its last {count} tokens are not used")
        if text.positive.unknown_words:
            words = text.positive.unknown_words
            listed = ", ".join(words[:_LISTED_WORDS])
            more = f" and {len(words) - _LISTED_WORDS} more" if len(words) > _LISTED_WORDS else ""
            self.reporter.notice(
                f"{self.checkpoint.name} does not know these words: {listed}{more}"
            )
        return text

    def _decoded(self, latents: Tensor) -> Tensor:
        if self._vae is None:
            with self._timed("load"), self.reporter.stage("load decoder"):
                self._vae = load_vae(self.checkpoint, dtype=self.dtypes.vae, device=self.device)
                self._accelerate(self._vae)
        with self._timed("decode"), self.reporter.stage("decode"):
            decoded = decode(self._vae, latents)
            height, width = self.settings.height, self.settings.width
            return resize_and_crop(decoded, height=height, width=width)

    def _accelerate(self, model: torch.nn.Module) -> None:
        backend = self.request.backend
        chosen = accelerate(model, self.device, backend)
        self.kernels |= chosen
        others = [kind for kind, kernel in chosen.items() if not kernel.startswith(backend)]
        if backend in ("torchao", "quanto") and others:
            self.reporter.notice(
                f"{backend} has no kernel for {', '.join(others)}; our own runs there"
            )

    def _embedded_settings(self, seed: int) -> dict[str, Any]:
        settings = self.settings
        return {
            "prompt": settings.prompt,
            "negative_prompt": settings.negative_prompt,
            "seed": seed,
            "steps": settings.steps,
            "guidance": settings.guidance_scale,
            "scheduler": settings.scheduler,
            "flow_shift": settings.flow_shift,
            "size": f"{settings.width}x{settings.height}",
            "drawn_size": f"{settings.drawn_width}x{settings.drawn_height}",
            "enhance": settings.enhance,
            "model": self.checkpoint.name,
            "revision": self.checkpoint.revision or "",
            "precision": str(self.dtypes),
            "device": self.device.type,
            "version": __version__,
        }

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._seconds[stage] += time.perf_counter() - started


def _no_picture(broken: BrokenValues) -> SanaError:
    return SanaError(
        f"no picture: {broken}, in fp32",
        hint="the weights are probably damaged; download the model again",
        code=ExitCode.CHECKPOINT,
    )


@contextmanager
def translate_out_of_memory(settings: Settings) -> Iterator[None]:
    """Turn every form of "no memory left" into one SanaError."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory(settings) from error
    except (RuntimeError, OSError) as error:
        # On a CPU, torch reports a failed allocation or mapping as a plain RuntimeError.
        if not any(words in str(error).lower() for words in _ALLOCATION_FAILED):
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
