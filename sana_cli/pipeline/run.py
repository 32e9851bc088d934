"""One request on one model, from loading to saved files.

What is in memory when is the plan's to say, which was chosen before any work; running out of memory all the same
takes the next smaller one. The text encoder, by far the largest part, is always gone before the transformer is read.
A stage whose values are broken (NaN, Inf, flat) runs once more with everything in fp32 before the run gives up, since
the usual cause is a 16-bit overflow.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from sana_cli import __version__
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.component_weights import prefetch
from sana_cli.checkpoints.digest import model_digest
from sana_cli.files import require_another
from sana_cli.loading.assign import DTYPES
from sana_cli.loading.load import check_loras, choose_kernels, load_transformer
from sana_cli.memory.forecast import peak, predict
from sana_cli.memory.planner import Choice, choose_for
from sana_cli.memory.plans import Plan
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext
from sana_cli.pipeline import finishing
from sana_cli.pipeline.finishing import Finisher, Picture, accelerate_with_notice, guarded, keeping
from sana_cli.pipeline.guidance import Passes, without_effect
from sana_cli.pipeline.init_images import SourceStage, paste_of
from sana_cli.pipeline.latent_preview import Watching
from sana_cli.pipeline.latents_file import HowToFinish, KeptLatents
from sana_cli.pipeline.text import Texts, TextStage, text_key
from sana_cli.pipeline.verbs import denoise, init_noise
from sana_cli.progress import Reporter, Stopwatch
from sana_cli.request.init_image import notices
from sana_cli.request.output_paths import output_paths
from sana_cli.request.params import Request, Settings, resolve, seeds_of
from sana_cli.request.picture_settings import picture_settings
from sana_cli.schedulers import make_scheduler
from sana_cli.system import cpu
from sana_cli.system.precision import SAFEST, plan_dtypes
from sana_cli.system.resident import give_back
from sana_cli.system.torch_memory import freeze_imports, is_out_of_memory, release_memory
from sana_cli.text import with_article

_log = logging.getLogger("sana.run")
_T = TypeVar("_T")


class Run:
    """Draws the pictures of a request. Keeps what they share: texts, transformer, decoder."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        request: Request,
        *,
        device: torch.device,
        reporter: Reporter,
        warm: bool = False,
        watching: Watching | None = None,
    ) -> None:
        """`warm` keeps all parts that fit, the text encoder included, for requests with other texts; `watching` is
        shown previews of pictures while they are drawn."""
        self.checkpoint = checkpoint
        self.request = request
        self.device = device
        self.reporter = reporter
        self.watching = watching
        freeze_imports()
        self.settings = resolve(request, checkpoint)
        self.dtypes = plan_dtypes(request.precision, checkpoint.trained_precision, device)
        self._transformer: SanaTransformer2D | None = None
        self._contexts: list[TextContext] = []
        self._texts: Texts = {}
        self._told: set[str] = set()
        self._digest = model_digest(checkpoint)
        self._passes = Passes(self.settings)  # of the picture that is drawn
        self._stopwatch = Stopwatch(device)
        self._warm = warm
        self._several = warm or request.count > 1  # whether parts are worth keeping
        self._text_stage = TextStage(
            checkpoint,
            device=device,
            precision=self.dtypes.text_encoder,
            backend=request.backend,
            use_cache=request.prompt_cache,
            reporter=reporter,
            stopwatch=self._stopwatch,
            accelerate=self._accelerate,
        )
        choice = self._choose_plan()
        self.plan, self._job = choice.plan, choice.job
        self.spare = choice.spare  # bytes for what is not the run's own; None: nobody counts them
        self._held = finishing.hold_to(choice.cap, device)
        if choice.cap.asked:
            choose_kernels(checkpoint, device, request.backend, notice=reporter.notice)
        self._finisher = Finisher(
            checkpoint,
            device=device,
            precision=self.dtypes.vae,
            backend=request.backend,
            plan=self.plan.decode,
            reporter=reporter,
            stopwatch=self._stopwatch,
            make_room=self._make_room,
        )
        self._originals = SourceStage(
            checkpoint,
            device=device,
            backend=request.backend,
            reporter=reporter,
            stopwatch=self._stopwatch,
        )
        self._kernels: dict[str, str] = {}
        check_loras(checkpoint, self.settings.loras)  # before any work
        _log.info("%s on %s in %s: %s", checkpoint.name, device, self.dtypes, self.settings)
        if device.type == "cpu" and (crowded := cpu.crowded()):
            _log.info("%s; %s", crowded, cpu.remedy())
        self._tell_about_settings()

    def encode(self, requests: Iterable[Request]) -> None:
        """Encode the texts and originals of requests to come, all with one encoder, in place of earlier ones."""
        settings = [resolve(request, self.checkpoint) for request in requests]
        for loras in {s.loras for s in settings}:
            check_loras(self.checkpoint, loras)
        self._several = True
        self._plan_again()
        wanted = {text_key(s): s for s in settings}

        def encode() -> None:
            self._encode_originals(settings)
            self._texts = self._encoded_texts(list(wanted.values()))

        with self._no_memory():
            self._guarded(encode)

    def turn_to(self, request: Request) -> None:
        """Go on with another request for the same model, precision and device; its parts stay loaded."""
        before, self.request = self.settings, request
        self.settings = resolve(request, self.checkpoint)
        if text_key(self.settings) != text_key(before):
            self._contexts = []
        now, job = self.settings, self._job
        if now.loras != before.loras:  # keys and values of the text are theirs, too
            self._contexts = []
            self._drop_transformer()
        alike = (now.source, now.loras) == (before.source, before.loras)
        if not alike or (job.width, job.height, job.branches) != (
            now.drawn_width,
            now.drawn_height,
            1 + now.uses_two_branches,
        ):
            self._plan_again()
        self._tell_about_settings()

    def pictures(self) -> Iterator[Picture]:
        """Draw and save them one by one, so that an interruption keeps those that are done."""
        seeds = seeds_of(self.request)
        paths = output_paths(self.request, seeds)
        for seed, path in zip(seeds, paths, strict=True):
            with self._no_memory():
                picture = self._draw(seed, path)
            yield picture

    @property
    def rounding(self) -> dict[str, str]:
        """What of the plan shows in a picture's last bits, as pictures tell it."""
        decode = self.plan.decode
        return self._branches | ({} if decode.mode == "whole" else {"decode": str(decode)})

    @property
    def _branches(self) -> dict[str, str]:
        apart = self.settings.uses_two_branches and self.plan.branches_apart
        return {"branches": "apart"} if apart else {}

    @property
    def kernels(self) -> dict[str, str]:
        """Of quantized layers, by kind; of the transformer, the engine in its place."""
        if self._transformer is not None and self._transformer.engine is not None:
            self._kernels["transformer"] = self._transformer.engine.summary
        return self._kernels | self._finisher.kernels

    def _choose_plan(self) -> Choice:
        choice = choose_for(
            self.checkpoint,
            self.request,
            self.settings,
            self.dtypes,
            self.device,
            several=self._several,
            warm=self._warm,
            text_is_cached=self._text_stage.is_cached(self.settings),
        )
        if choice.is_usual:
            _log.info("%s", choice)
        else:
            self._tell_once(str(choice))
        return choice

    def _plan_again(self) -> None:
        """For another size, precision or number of pictures. What is loaded otherwise goes."""
        choice = self._choose_plan()
        if choice.plan.streams_blocks != self.plan.streams_blocks:
            self._drop_transformer()
        if not choice.plan.keeps_text:
            self._text_stage.release()
        self.plan, self._job, self.spare = choice.plan, choice.job, choice.spare
        self._finisher.plan = self.plan.decode

    def _draw(self, seed: int, path: Path) -> Picture:
        if self.watching is not None and self.watching.file is not None:
            require_another(self.watching.file, path)  # its name may not be known before
        self._stopwatch.start()
        latents = self._guarded(lambda: self._latents(seed))
        if not self._keeps_parts:
            self._drop_transformer()
        give_back()  # of denoising; the decoder's maps have other sizes
        kept = self._to_keep(latents, seed)
        with keeping(path, kept, self.reporter), self._no_memory():
            decoded = self._guarded(
                lambda: self._finisher.decode(
                    latents, width=self.settings.width, height=self.settings.height
                )
            )
            picture = self._finisher.save(
                decoded,
                path,
                settings=self._embedded_settings(seed),
                overwrite=self.request.overwrite,
                predicted_peak=self._predicted_peak(),
                plan=str(self.plan),
                paste=kept.paste,
            )
            return replace(picture, passes=self._passes.count)

    @property
    def _keeps_parts(self) -> bool:
        return self.plan.together and self._several

    def _predicted_peak(self) -> int:
        """Of the plan that the run has come to."""
        self.plan = replace(self.plan, decode=self._finisher.plan)
        return peak(predict(self._job, self.plan)).total

    def _drop_transformer(self) -> bool:
        """Free it until it is needed again; False when it is not there."""
        if self._transformer is None:
            return False
        self._transformer = None
        release_memory(self.device)
        return True

    def _make_room(self) -> bool:
        """For the decoder, in this picture and the next ones."""
        self.plan, self.spare = replace(self.plan, together=False, keeps_text=False), 0
        self._text_stage.release()
        return self._drop_transformer()

    def _with_less(
        self, work: Callable[[], _T], stage: str, smaller: Callable[[], Plan | None]
    ) -> _T:
        """Do it; out of memory, do it again under the next smaller plan."""
        while True:
            try:
                return work()
            except (MemoryError, RuntimeError, OSError) as error:
                plan = smaller() if is_out_of_memory(error) else None
                if plan is None:
                    raise
            # Outside of the handler, where the error no longer holds what the stage had allocated.
            self.reporter.notice(f"out of memory: {stage}; trying {plan}")
            self.plan, self.spare = plan, 0
            self._finisher.release()
            self._text_stage.release()
            self._drop_transformer()
            release_memory(self.device)

    def _no_memory(self) -> AbstractContextManager[None]:
        """Within the block, running out of memory is a SanaError."""
        width, height = self.settings.drawn_width, self.settings.drawn_height
        return finishing.translate_out_of_memory(width, height, held=self._held)

    def _to_keep(self, latents: Tensor, seed: int) -> KeptLatents:
        how = HowToFinish(
            model=finishing.model_reference(self.checkpoint),
            vae_precision=self.dtypes.vae,
            device=self.device.type,
            backend=self.request.backend,
            decode=self.request.decode,
            tile=self.request.tile,
        )
        return KeptLatents(
            latents=latents,
            settings=self._embedded_settings(seed),
            how=how,
            paste=paste_of(self.settings),
        )

    def _guarded(self, stage: Callable[[], _T]) -> _T:
        """Run a stage; if its values are broken, once more with everything in fp32."""
        return guarded(stage, safest=self.dtypes == SAFEST, fall_back=self._fall_back)

    def _fall_back(self, reason: str) -> None:
        self.reporter.notice(f"{reason} in {self.dtypes}; trying once more in fp32")
        self._transformer, self._contexts, self._texts = None, [], {}
        self.dtypes = SAFEST
        self._text_stage.release()
        self._text_stage.precision = SAFEST.text_encoder
        self._originals.forget()
        self._plan_again()
        self._finisher.use_precision(SAFEST.vae)
        release_memory(self.device)

    def _latents(self, seed: int) -> Tensor:
        settings = self.settings
        self._passes = Passes(settings)
        self._encode_originals([settings])
        self._with_less(self._ready_transformer, "loading the transformer", self._smaller_denoise)
        noise, draw = init_noise(seed, self.checkpoint.transformer.in_channels, settings)
        sampler = make_scheduler(
            settings.scheduler,
            settings.steps,
            shift=settings.flow_shift,
            draw_noise=lambda: draw().to(self.device),
        )
        with (
            self._stopwatch.timed("denoise"),
            self.reporter.stage("denoise", settings.steps_to_run) as advance,
        ):
            return denoise(
                self._velocity,
                noise.to(self.device),
                sampler,
                begin=self._originals.start(settings),
                after_step=lambda i, latents: advance(),
                preview=self._show_preview if self._can_preview() else None,
            )

    def _encode_originals(self, wanted: list[Settings]) -> None:
        """Before any other part is read: the encoder is alone in memory."""
        if any(map(self._originals.lacks, wanted)):
            self._text_stage.release()
            self._drop_transformer()
            self._finisher.release()
            self._originals.encode(wanted, self.dtypes.vae)

    def _can_preview(self) -> bool:
        """Whether somebody watches, and the decoder is known well enough."""
        if self.watching is None:
            return False
        if not self._finisher.preview.is_ready:
            self._tell_once("no preview yet: it is learnt from the first picture that is decoded")
            return False
        return True

    def _show_preview(self, i: int, estimate: Tensor) -> None:
        step, steps = i + 1, self.settings.steps
        if self.watching is not None and self.watching.wants(step, steps):
            self.watching.show(self._finisher.preview.picture(estimate), step, steps)

    def _velocity(self, x: Tensor, timestep: float) -> Tensor:
        """One step; a smaller plan goes on from the same step."""
        return self._with_less(
            lambda: self._passes.velocity(
                self._ready_transformer(),
                self._contexts,
                x,
                timestep,
                branches_apart=self.plan.branches_apart,
            ),
            "denoise",
            self._smaller_denoise,
        )

    def _smaller_denoise(self) -> Plan | None:
        return self.plan.smaller_denoise(two_branches=self.settings.uses_two_branches)

    def _ready_transformer(self) -> SanaTransformer2D:
        key = text_key(self.settings)
        if not self._contexts and key not in self._texts:
            self._texts = self._encoded_texts([self.settings])
        if self._transformer is None:
            if not self._keeps_parts:
                self._finisher.release()
            with self._stopwatch.timed("load"), self.reporter.stage("load transformer"):
                transformer = load_transformer(
                    replace(self.checkpoint, loras=self.settings.loras),
                    dtype=self.dtypes.transformer,
                    device=self.device,
                    stream=self._accelerate if self.plan.streams_blocks else None,
                )
                self._accelerate(transformer)
                self._transformer = transformer  # whole, or not at all after an interruption
            prefetch(self.checkpoint, "vae")
        if self.settings.cache and self._transformer.engine is not None:
            self._tell_once(
                "--cache runs plain PyTorch: the CUDA engine replays whole steps and may be faster without it"
            )
        if not self._contexts:
            dtype = DTYPES[self.dtypes.transformer]
            with self._stopwatch.timed("text"), torch.inference_mode():
                self._contexts = [
                    self._transformer.encode_text(embeds.to(self.device, dtype))
                    for embeds in self._texts[key].branches
                ]
        return self._transformer

    def _encoded_texts(self, wanted: list[Settings]) -> Texts:
        """The texts of several requests, from the cache where they are in it."""
        stage = self._text_stage
        texts = stage.cached(wanted)
        missing = [settings for settings in wanted if text_key(settings) not in texts]
        if missing:
            texts |= self._with_less(
                lambda: self._encode(missing), "text", lambda: self.plan.smaller_text()
            )
        stage.tell_about(texts.values())
        return texts

    def _encode(self, wanted: list[Settings]) -> Texts:
        if not self.plan.keeps_text:
            self._drop_transformer()  # the two largest parts never meet
        return self._text_stage.encode(
            wanted, streamed=self.plan.streams_text, stays=self.plan.keeps_text
        )

    def _tell_about_settings(self) -> None:
        settings, native = self.settings, self.checkpoint.defaults.native_size
        drawn = (settings.drawn_width, settings.drawn_height)
        if self.checkpoint.own.vocabulary and (native, native) != drawn:
            self._tell_once(
                f"{self.checkpoint.name} was trained at {native}x{native}; others draw worse"
            )
        if not self.checkpoint.own.knows_any_thing(settings.prompt):
            self._tell_once(
                f'{self.checkpoint.name} knows none of the things in this prompt: try "a cat" (`sana info builtin` '
                "lists what it knows), or a real model: --model sana-0.6b"
            )
        if in_vain := self.checkpoint.own.colours_in_vain(settings.prompt):
            better = ", ".join(f'"{with_article(thing)}"' for _, thing in in_vain)
            self._tell_once(
                f"{self.checkpoint.name} draws things without a colour word best: try {better}"
            )
        if settings.source is not None:
            for line in notices(settings.source, settings.width, settings.height):
                self._tell_once(line)
        if settings.negative_prompt and not settings.uses_two_branches:
            self._tell_once("--negative has no effect: guidance is 1 or less, or built in (Sprint)")
        for line in without_effect(settings, blocks=self.checkpoint.transformer.num_layers):
            self._tell_once(line)

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
        decisive = picture_settings(self.settings, self.checkpoint, seed)
        return {
            **{key: value for key, value in decisive.items() if value is not None},
            **self._branches,
            "model_digest": self._digest,
            "precision": str(self.dtypes),
            "device": self.device.type,
            "backend": self.request.backend,
            "version": __version__,
        }
