"""One request on one model, from loading to saved files.

Parts are resident only while they are needed: the text encoder, by far the largest, is gone before
the transformer is read. A stage whose values are broken (NaN, Inf, flat) runs once more with
everything in fp32 before the run gives up, since the usual cause is a 16-bit overflow.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sana_cli import __version__, finishing
from sana_cli.checkpoint import Checkpoint
from sana_cli.finishing import Finisher, Picture, accelerate_with_notice, guarded, keeping
from sana_cli.latents_file import HowToFinish, KeptLatents
from sana_cli.loading import load_prompt_encoder, load_transformer
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext
from sana_cli.pipeline import (
    EncodedPair,
    check_values,
    denoise,
    encode_prompt,
    init_noise,
)
from sana_cli.precision import DTYPES, SAFEST, plan_dtypes
from sana_cli.request import (
    Request,
    Settings,
    output_paths,
    picture_settings,
    resolve,
    seeds_of,
)
from sana_cli.schedulers import make_scheduler
from sana_cli.stages import Reporter as Reporter  # others know them from here
from sana_cli.stages import Stopwatch
from sana_cli.stages import release_memory as release_memory

_LISTED_WORDS = 10
_log = logging.getLogger("sana.run")
TextKey = tuple[str, str, bool, bool]


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
        self._texts: dict[TextKey, EncodedPair] = {}
        self._told: set[str] = set()
        self._stopwatch = Stopwatch(device)
        self._finisher = Finisher(
            checkpoint,
            device=device,
            precision=self.dtypes.vae,
            backend=request.backend,
            mode=request.decode,
            tile=request.tile,
            reporter=reporter,
            stopwatch=self._stopwatch,
        )
        self._kernels: dict[str, str] = {}
        _log.info("%s on %s in %s: %s", checkpoint.name, device, self.dtypes, self.settings)
        self._tell_about_settings()

    def encode(self, requests: Iterable[Request]) -> None:
        """Encode the texts of requests to come, all with one text encoder, in place of earlier ones."""
        self._transformer = None  # the two largest parts never meet
        wanted = {_text_key(s): s for s in (resolve(r, self.checkpoint) for r in requests)}
        self._texts = self._encode_texts(list(wanted.values()))

    def turn_to(self, request: Request) -> None:
        """Go on with another request for the same model, precision and device; its parts stay loaded."""
        before, self.request = _text_key(self.settings), request
        self.settings = resolve(request, self.checkpoint)
        if _text_key(self.settings) != before:
            self._contexts = []
        self._tell_about_settings()

    def pictures(self) -> Iterator[Picture]:
        """Draw and save them one by one, so that an interruption keeps those that are done."""
        seeds = seeds_of(self.request)
        paths = output_paths(self.request, seeds)
        for seed, path in zip(seeds, paths, strict=True):
            with translate_out_of_memory(self.settings):
                picture = self._draw(seed, path)
            yield picture

    @property
    def kernels(self) -> dict[str, str]:
        """Of quantized layers, by kind; of the transformer, the engine in its place."""
        if self._transformer is not None and self._transformer.engine is not None:
            self._kernels["transformer"] = self._transformer.engine.summary
        return self._kernels | self._finisher.kernels

    def _draw(self, seed: int, path: Path) -> Picture:
        self._stopwatch.start()
        latents = self._guarded(lambda: self._latents(seed))
        kept = self._to_keep(latents, seed)
        with keeping(path, kept, self.reporter), translate_out_of_memory(self.settings):
            decoded = self._guarded(
                lambda: self._finisher.decode(
                    latents, width=self.settings.width, height=self.settings.height
                )
            )
            return self._finisher.save(
                decoded,
                path,
                settings=self._embedded_settings(seed),
                overwrite=self.request.overwrite,
            )

    def _to_keep(self, latents: Tensor, seed: int) -> KeptLatents:
        how = HowToFinish(
            model=finishing.model_reference(self.checkpoint),
            vae_precision=self.dtypes.vae,
            device=self.device.type,
            backend=self.request.backend,
            decode=self.request.decode,
            tile=self.request.tile,
        )
        return KeptLatents(latents=latents, settings=self._embedded_settings(seed), how=how)

    def _guarded(self, stage: Callable[[], Tensor]) -> Tensor:
        """Run a stage; if its values are broken, once more with everything in fp32."""
        return guarded(stage, safest=self.dtypes == SAFEST, fall_back=self._fall_back)

    def _fall_back(self, reason: str) -> None:
        self.reporter.notice(f"{reason} in {self.dtypes}; trying once more in fp32")
        self._transformer, self._contexts, self._texts = None, [], {}
        self.dtypes = SAFEST
        self._finisher.use_precision(SAFEST.vae)
        release_memory(self.device)

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
        with (
            self._stopwatch.timed("denoise"),
            self.reporter.stage("denoise", settings.steps) as advance,
        ):
            return denoise(
                transformer,
                self._contexts,
                noise.to(self.device),
                sampler,
                guidance_scale=settings.guidance_scale,
                after_step=lambda i, latents: advance(),
            )

    def _ready_transformer(self) -> SanaTransformer2D:
        key = _text_key(self.settings)
        if not self._contexts and key not in self._texts:
            self._transformer = None  # the two largest parts never meet
            self._texts = self._encode_texts([self.settings])
        if self._transformer is None:
            with self._stopwatch.timed("load"), self.reporter.stage("load transformer"):
                self._transformer = load_transformer(
                    self.checkpoint, dtype=self.dtypes.transformer, device=self.device
                )
                self._accelerate(self._transformer)
        if not self._contexts:
            dtype = DTYPES[self.dtypes.transformer]
            with self._stopwatch.timed("text"), torch.inference_mode():
                self._contexts = [
                    self._transformer.encode_text(embeds.to(self.device, dtype))
                    for embeds in self._texts[key].branches
                ]
        return self._transformer

    def _encode_texts(self, wanted: list[Settings]) -> "dict[TextKey, EncodedPair]":
        with self._stopwatch.timed("load"), self.reporter.stage("load text encoder"):
            encoder = load_prompt_encoder(
                self.checkpoint, dtype=self.dtypes.text_encoder, device=self.device
            )
            self._accelerate(encoder.model)
        texts = {}
        total = len(wanted) if len(wanted) > 1 else None
        with self._stopwatch.timed("text"), self.reporter.stage("text", total) as advance:
            for settings in wanted:
                text = texts[_text_key(settings)] = encode_prompt(encoder, settings)
                check_values(text.positive.embeds, "text encoding")
                self._tell_about_text(text)
                if total:
                    advance()
        del encoder
        release_memory(self.device)
        return texts

    def _tell_about_text(self, text: EncodedPair) -> None:
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

    def _tell_about_settings(self) -> None:
        settings, native = self.settings, self.checkpoint.defaults.native_size
        drawn = (settings.drawn_width, settings.drawn_height)
        if self.checkpoint.own.vocabulary and (native, native) != drawn:
            self._tell_once(
                f"{self.checkpoint.name} was trained at {native}x{native}; others draw worse"
            )
        if settings.negative_prompt and not settings.uses_two_branches:
            self._tell_once("--negative has no effect: guidance is 1 or less, or built in (Sprint)")

    def _tell_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self.reporter.notice(message)

    def _accelerate(self, model: torch.nn.Module) -> None:
        chosen = accelerate_with_notice(model, self.device, self.request.backend, self.reporter)
        for kind, kernel in chosen.items():
            _log.info("%s: %s", kind, kernel)
        self._kernels |= chosen

    def _embedded_settings(self, seed: int) -> dict[str, Any]:
        return {
            **picture_settings(self.settings, self.checkpoint, seed),
            "precision": str(self.dtypes),
            "device": self.device.type,
            "version": __version__,
        }


def _text_key(settings: Settings) -> TextKey:
    """What decides the embeddings of both branches."""
    s = settings
    return s.prompt, s.negative_prompt, s.enhance, s.uses_two_branches


def translate_out_of_memory(settings: Settings) -> AbstractContextManager[None]:
    """Turn every form of "no memory left" into one SanaError."""
    return finishing.translate_out_of_memory(settings.drawn_width, settings.drawn_height)
