"""The stages of one picture after another with one model: planned, denoised, decoded, described. Not for several threads."""

# C latent channels, h w latent grid

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from sana_cli import __version__
from sana_cli.checkpoints.digest import model_digest, weights_hash
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
from sana_cli.pipeline.transformer_steps import OnStep, denoise_picture
from sana_cli.pipeline.watching import Watching
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
        """Finished latents (1, C, h, w) fp32."""
        components = self.components
        components.stopwatch.start()
        latents, self._passes = in_fp32_if_broken(
            components,
            lambda: denoise_picture(
                components, self._inputs, params, on_step=on_step, watching=watching
            ),
        )
        components.done_with_transformer()
        give_back()  # of denoising; the decoder's maps have other sizes
        return latents

    def decode(self, latents: Tensor, params: GenerationParams) -> GenerationResult:
        """The picture of finished latents (1, C, h, w) fp32."""
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
            image = composite.over(image) if composite else image
        return result_of(image, components, self.settings_of(params), passes=self._passes)

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
