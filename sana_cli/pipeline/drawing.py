"""The stages of one picture after another with one model: planned, denoised, decoded, described. Not for several threads."""

# C latent channels, h w latent grid

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from PIL import Image
from torch import Tensor

from sana_cli import __version__
from sana_cli.checkpoints.digest import hash_while_drawing, model_digest, weights_hash
from sana_cli.images.tensors import to_image
from sana_cli.loading.load import check_loras
from sana_cli.pipeline.components import Components
from sana_cli.pipeline.decode import decode_latents
from sana_cli.pipeline.init_images import composite_of
from sana_cli.pipeline.inputs import Inputs
from sana_cli.pipeline.notices import notices_for
from sana_cli.pipeline.pass_count import PassCount
from sana_cli.pipeline.recovery import in_fp32_if_broken
from sana_cli.pipeline.results import GenerationResult, result_of
from sana_cli.pipeline.text import EncodedPair
from sana_cli.pipeline.transformer_steps import OnStep, StepCount, denoise_picture
from sana_cli.pipeline.watching import Watching
from sana_cli.request.init_image import examine
from sana_cli.request.params import GenerationParams
from sana_cli.request.picture_settings import picture_settings
from sana_cli.system.resident import give_back

_log = logging.getLogger("sana.run")


class Drawing:
    """The work of one picture, which `SanaPipeline` starts when no other picture is being drawn."""

    def __init__(self, components: Components) -> None:
        self.components = components
        self.checkpoint = components.checkpoint
        self._inputs = Inputs(components)
        self._digest = model_digest(components.checkpoint)
        self._is_hashing = False
        self._passes: PassCount | None = None  # of the picture that was denoised last

    def prepare(self, params: GenerationParams) -> None:
        """Plan for a picture, check its LoRAs and report notices; loads nothing."""
        components = self.components
        if params.loras:
            check_loras(self.checkpoint, params.loras)
        components.plan_for(params)
        _log.info(
            "%s on %s in %s: %s",
            self.checkpoint.name, components.device, components.dtypes, params,
        )  # fmt: skip
        for line in notices_for(params, self.checkpoint):
            components.tell_once(line)

    def encode(self, wanted: Sequence[GenerationParams]) -> None:
        """Encode texts and originals of several pictures; they replace earlier ones."""
        in_fp32_if_broken(self.components, lambda: self._inputs.encode(wanted))

    def text(self, params: GenerationParams) -> EncodedPair:
        """Encode both branches of a picture."""
        return in_fp32_if_broken(self.components, lambda: self._inputs.text(params))

    def denoise(
        self, params: GenerationParams, on_step: OnStep | None, watching: Watching | None
    ) -> Tensor:
        """Finished latents (1, C, h, w) fp32; with upscale those of the second drawing, which redraws the enlarged first."""
        self.components.stopwatch.start()
        *earlier, last = params.passes
        before, passes = 0, None
        for first in earlier:
            counted = StepCount(before, params.steps_to_run)
            latents, passes = self._drawn(first, on_step, watching, counted)
            before += first.steps_to_run
            last = last.begun_with(examine(self._picture(latents, first)))
        counted = StepCount(before, params.steps_to_run)
        latents, own = self._drawn(last, on_step, watching, counted)
        self._passes = own if passes is None else passes + own
        return latents

    def _drawn(
        self,
        params: GenerationParams,
        on_step: OnStep | None,
        watching: Watching | None,
        counted: StepCount,
    ) -> tuple[Tensor, PassCount]:
        """Finished latents (1, C, h, w) fp32 of one drawing, and the passes that they took."""
        components = self.components
        self._hash_once()
        drawn = in_fp32_if_broken(
            components,
            lambda: denoise_picture(
                components, self._inputs, params,
                on_step=on_step, watching=watching, counted=counted,
            ),
        )  # fmt: skip
        components.done_with_transformer()
        give_back()  # of denoising; the decoder's maps have other sizes
        return drawn

    def decode(self, latents: Tensor, params: GenerationParams) -> GenerationResult:
        """The picture of finished latents (1, C, h, w) fp32."""
        image = self._picture(latents, params)
        return result_of(image, self.components, self.settings_of(params), passes=self._passes)

    def _picture(self, latents: Tensor, params: GenerationParams) -> Image.Image:
        components = self.components
        decoded = in_fp32_if_broken(
            components,
            lambda: decode_latents(
                components,
                latents,
                width=params.width,
                height=params.height,
                decoder=params.decoder,
            ),
        )
        with components.stopwatch.timed("save"):
            image = to_image(decoded)
            composite = composite_of(params)
            return composite.over(image) if composite else image

    def settings_of(self, params: GenerationParams) -> dict[str, Any]:
        """Collect the settings that the picture's file will carry, except how it was decoded."""
        decisive = picture_settings(params, self.checkpoint)
        return {
            **{key: value for key, value in decisive.items() if value is not None},
            **self._branches,
            "model_digest": self._digest,
            **({"model_hash": self._weights_hash} if self._weights_hash else {}),
            "precision": str(self.components.dtypes),
            "device": self.components.device.type,
            "backend": self.components.runtime.backend,
            "version": __version__,
        }

    def _hash_once(self) -> None:
        """Begin to hash the weights' file, if it is a large one, next to the first drawing."""
        if not self._is_hashing:
            self._is_hashing = True
            hash_while_drawing(self.checkpoint)

    @cached_property
    def _weights_hash(self) -> str:
        return weights_hash(self.checkpoint)

    @property
    def rounding(self) -> dict[str, str]:
        """Plan choices that change a picture's last bits; pictures carry them."""
        decode = self.components.plan.decode
        return self._branches | ({} if decode.mode == "whole" else {"decode": str(decode)})

    @property
    def _branches(self) -> dict[str, str]:
        return {"branches": "apart"} if self.components.planning.runs_branches_apart else {}

    def clear(self) -> None:
        """Free everything that is in memory."""
        self._inputs.clear()
        self.components.evict()
