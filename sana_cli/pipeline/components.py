"""Load parts of a model into memory and evict them; no other module does.

Stages ask for the part that they need and ignore the others. The plan (`planning.py`), chosen before any work, decides
which parts may be in memory together. The text encoder, by far the largest part, is alone in memory unless the plan
keeps it.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch

from quant.backends.dispatch import Backend
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.component_weights import prefetch
from sana_cli.checkpoints.decoder_files import OtherDecoder
from sana_cli.checkpoints.lora_file import Lora
from sana_cli.loading.load import (
    accelerate,
    choose_kernels,
    load_controlnet,
    load_decoder,
    load_prompt_encoder,
    load_transformer,
    load_vae,
)
from sana_cli.memory.plans import Plan
from sana_cli.models.controlnet import SanaControlNet
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.sana_transformer import SanaTransformer2D
from sana_cli.models.text_encoder import PromptEncoder
from sana_cli.models.tiny_decoder import TinyAutoencoder
from sana_cli.pipeline.latent_preview import LatentPreview
from sana_cli.pipeline.planning import Expects, Planning
from sana_cli.pipeline.prompt_cache import PromptCache
from sana_cli.progress import Reporter, Stopwatch
from sana_cli.request.params import GenerationParams
from sana_cli.request.runtime import RuntimeOptions
from sana_cli.system.precision import DtypePlan, plan_dtypes
from sana_cli.system.torch_memory import release_memory

_Module = TypeVar("_Module", bound=torch.nn.Module)
_SPOKEN = {"vae": "decoder", "controlnet": "ControlNet"}  # as stages name them
_log = logging.getLogger("sana.run")


class Components:
    """The parts of one model, as many of them as its plan allows at a time."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        runtime: RuntimeOptions,
        *,
        device: torch.device,
        reporter: Reporter,
        dtypes: DtypePlan | None = None,
        expects: Expects = "one",
        cap_source: str = "",
    ) -> None:
        """`dtypes` overrides the precision of `runtime`; `cap_source` is where the memory cap is set, for messages.

        Loads nothing. SanaError for a precision that breaks the model's pictures.
        """
        self.checkpoint, self.runtime, self.device = checkpoint, runtime, device
        self.reporter, self.stopwatch = reporter, Stopwatch(device)
        self.dtypes = dtypes or plan_dtypes(runtime.precision, checkpoint.trained_precision, device)
        self.planning = Planning(
            checkpoint, runtime, device, expects=expects, cap_source=cap_source
        )
        self.preview = LatentPreview(checkpoint)
        self.params: GenerationParams | None = None  # that was planned for
        self.has_measured = False  # whether kernels were, while there was room
        self._kernels: dict[str, str] = {}
        self._text_encoder: PromptEncoder | None = None
        self._transformer: SanaTransformer2D | None = None
        self._loras: tuple[Lora, ...] = ()  # of the transformer
        self._controlnet: SanaControlNet | None = None  # goes with the transformer
        self._vae: AutoencoderDC | TinyAutoencoder | None = None
        self._decoder: OtherDecoder | None = None  # of `_vae`; None: the model's own
        # Prompts that were kept since the cache was pruned; many, before the first time.
        self.unpruned = 10**9
        self.told: set[str] = set()  # notices that are not repeated

    @property
    def plan(self) -> Plan:
        """The plan: which parts may be in memory at each stage."""
        return self.planning.plan

    def plan_for(self, params: GenerationParams) -> None:
        """Plan for a picture and evict what its plan does not allow. SanaError where no plan fits."""
        before, self.params = self.plan, params
        cache = self.prompt_cache()
        choice = self.planning.choose(
            params, self.dtypes, text_is_cached=lambda: cache is not None and cache.holds(params)
        )
        if choice is None:
            return
        if not choice.is_usual:
            self.tell_once(str(choice))
        _measure_kernels(self)
        if self.plan.streams_blocks != before.streams_blocks:
            self.evict_transformer()
        if not self.plan.keeps_text:
            self._text_encoder = None

    # -- parts --

    @property
    def is_loaded(self) -> bool:
        """Check whether any part is in memory."""
        parts = (self._text_encoder, self._transformer, self._controlnet, self._vae)
        return any(part is not None for part in parts)

    def text_encoder(self) -> PromptEncoder:
        """The text encoder; streamed if the plan says so. Other parts are evicted first unless the plan keeps it."""
        if not self.plan.keeps_text:
            self.evict_transformer()
            self._vae = None
        if self._text_encoder is None:
            with self.stopwatch.timed("load"), self.reporter.stage("load text encoder"):
                encoder = load_prompt_encoder(
                    self.checkpoint, dtype=self.dtypes.text_encoder, device=self.device,
                    stream=self._accelerate if self.plan.streams_text else None,
                )  # fmt: skip
                self._accelerate(encoder.model, _calls_of(self, "text_encoder"))
                self._text_encoder = encoder  # whole, or not at all after an interruption
            prefetch(self.checkpoint, "transformer")
        return self._text_encoder

    def done_with_text(self) -> None:
        """Evict the text encoder unless the plan keeps it."""
        if not self.plan.keeps_text:
            self._text_encoder = None
        release_memory(self.device)

    def transformer(self, loras: tuple[Lora, ...] = ()) -> SanaTransformer2D:
        """The transformer with these LoRAs; its blocks streamed if the plan says so."""
        if loras != self._loras:
            self.evict_transformer()
        if self._transformer is None:
            if not self.planning.keeps_parts:
                self._vae = None
            stream = self._accelerate if self.plan.streams_blocks else None
            load = partial(load_transformer, dtype=self.dtypes.transformer, stream=stream)
            self._transformer, self._loras = self._loaded("transformer", load, loras=loras), loras
            other = self.params.decoder if self.params else None
            prefetch(replace(self.checkpoint, decoder=other), "vae")
        return self._transformer

    def controlnet(self) -> SanaControlNet:
        """The ControlNet of a model that has one; its blocks streamed if the plan says so. Goes with the transformer."""
        if self._controlnet is None:
            stream = self._accelerate if self.plan.streams_blocks else None
            load = partial(load_controlnet, dtype=self.dtypes.transformer, stream=stream)
            self._controlnet = self._loaded("controlnet", load)
        return self._controlnet

    def done_with_transformer(self) -> None:
        """Evict the transformer unless the plan keeps it for the next picture."""
        if not self.planning.keeps_parts:
            self.evict_transformer()

    def vae(self, decoder: OtherDecoder | None = None) -> AutoencoderDC | TinyAutoencoder:
        """The autoencoder with the weights of its decoder, or of another one."""
        if decoder != self._decoder:
            self._vae = None
            release_memory(self.device)
        if self._vae is None:
            load = partial(load_decoder, dtype=self.dtypes.vae)
            self._vae, self._decoder = self._loaded("vae", load, decoder=decoder), decoder
        return self._vae

    @contextmanager
    def vae_encoder(self) -> Iterator[AutoencoderDC]:
        """The autoencoder with the weights of its encoder, within the block; alone in memory unless the plan says otherwise."""
        if not self.planning.encodes_beside_parts:
            self.evict()
        with self.stopwatch.timed("load"), self.reporter.stage("load encoder"):
            vae = load_vae(
                self.checkpoint, dtype=self.dtypes.vae, device=self.device, halves=("encoder",)
            )
            self._accelerate(vae.encoder, _calls_of(self, "vae"))
        try:
            yield vae
        finally:
            del vae
        release_memory(self.device)

    def evict(self) -> None:
        """Free all parts until they are needed again."""
        self._text_encoder = self._transformer = self._controlnet = self._vae = None
        release_memory(self.device)

    def evict_transformer(self) -> bool:
        """Free the transformer and its ControlNet. Returns whether one was loaded."""
        if self._transformer is None and self._controlnet is None:
            return False
        self._transformer = self._controlnet = None
        release_memory(self.device)
        return True

    def make_room_for_decoder(self) -> bool:
        """Evict all but the decoder, now and after the next pictures. Returns whether a transformer was loaded."""
        self.planning.keep_nothing()
        self._text_encoder = None
        return self.evict_transformer()

    # -- what goes with them --

    @property
    def kernels(self) -> dict[str, str]:
        """The kernels of quantized layers, by kind of part; for a transformer run by an engine, that engine."""
        engine = self._transformer.engine if self._transformer is not None else None
        if engine is not None:
            self._kernels["transformer"] = engine.summary
        return dict(self._kernels)

    def prompt_cache(self) -> PromptCache | None:
        """Encoded prompts on disk, in the precision of now; None if they are not wanted."""
        return PromptCache.wanted(
            self.checkpoint,
            self.runtime,
            precision=self.dtypes.text_encoder,
            device=self.device.type,
        )

    def tell_once(self, message: str) -> None:
        """Give a notice unless it was given before."""
        if message not in self.told:
            self.told.add(message)
            self.reporter.notice(message)

    def _loaded(self, component: str, load: Callable[..., _Module], **changed: Any) -> _Module:
        """Load a part of the checkpoint with fields `changed`, and give it its kernels: whole, or not at all."""
        stage = f"load {_SPOKEN.get(component, component)}"
        with self.stopwatch.timed("load"), self.reporter.stage(stage):
            module = load(replace(self.checkpoint, **changed), device=self.device)
            self._accelerate(module, _calls_of(self, component))
        return module

    def _accelerate(self, model: torch.nn.Module, calls: int | None = 1) -> None:
        chosen = accelerate_with_notice(
            model, self.device, self.runtime.backend, self.reporter, calls=calls
        )
        self._kernels |= chosen


def plan_decode(
    components: Components,
    *,
    height: int,
    width: int,
    size: tuple[int, int],
    decoder: OtherDecoder | None = None,
) -> None:
    """Plan for latents of `height` x `width` pixels, for a finished picture of `size`, with nothing else to do.

    `decoder`: another one than the model's own. SanaError where no plan fits.
    """
    if notice := components.planning.choose_decode(
        components.dtypes.vae, height=height, width=width, size=size, decoder=decoder
    ):
        components.reporter.notice(notice)
    _measure_kernels(components, ("vae",))


def _calls_of(components: Components, component: str) -> int | None:
    """Return how often the layers of a part run until it is evicted; None: many times, or nobody knows."""
    planning, params = components.planning, components.params
    is_text, is_vae = component == "text_encoder", component == "vae"
    if planning.plan.streams_text if is_text else planning.plan.streams_blocks and not is_vae:
        return 1
    if planning.expects != "one" or params is None:
        return None
    return 1 if is_text or is_vae else params.steps_to_run


def _measure_kernels(components: Components, parts: tuple[str, ...] | None = None) -> None:
    """Under a cap, measure kernels before any part is there: layers that are measured take memory, too."""
    if components.planning.cap.asked and not components.has_measured:
        some = {} if parts is None else {"components": parts}
        choose_kernels(
            components.checkpoint, components.device, components.runtime.backend,
            notice=components.reporter.notice, **some,
        )  # fmt: skip
    components.has_measured = True


def accelerate_with_notice(
    model: torch.nn.Module,
    device: torch.device,
    backend: Backend,
    reporter: Reporter,
    *,
    calls: int | None = None,
) -> dict[str, str]:
    """Give quantized layers their kernels; reports layers for which the requested backend has none.

    `calls` is how often each layer will run, None: many times.
    """
    chosen = accelerate(model, device, backend, calls=calls, notice=reporter.notice)
    others = [kind for kind, kernel in chosen.items() if not kernel.startswith(backend)]
    if backend in ("torchao", "quanto") and others:
        reporter.notice(f"{backend} has no kernel for {', '.join(others)}; our own runs there")
    for kind, kernel in chosen.items():
        _log.info("%s: %s", kind, kernel)
    return chosen
