"""Inputs of the transformer other than noise: texts, their keys and values, and latents of original pictures.

The next picture reuses inputs that it shares; others are replaced.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from sana_cli.loading.assign import DTYPES
from sana_cli.models.controlnet import ActiveControl, SanaControlNet
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext
from sana_cli.pipeline.components import Components
from sana_cli.pipeline.denoise import InitLatents
from sana_cli.pipeline.init_images import (
    EncodedImages,
    control_latents_of,
    encode_init_images,
    init_latents_of,
)
from sana_cli.pipeline.recovery import retrying
from sana_cli.pipeline.text import EncodedPair, Texts, encode_texts, text_key
from sana_cli.request.params import GenerationParams


class Inputs:
    """Encoded inputs of the pictures that are drawn now."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._texts: Texts = {}
        self._texts_in = ""  # precision
        self._images: EncodedImages = {}
        self._contexts: list[TextContext] = []
        self._contexts_of: object = None
        # Latents of a control picture, the net, and what it makes of them.
        self._control_tokens: tuple[Tensor, SanaControlNet, Tensor] | None = None

    def encode(self, wanted: Sequence[GenerationParams]) -> None:
        """Encode texts and originals of several pictures, all with one encoder. Raises BrokenValues."""
        first = [params.passes[0] for params in wanted]
        self.encode_originals(first)
        self._encode_texts(first)

    def encode_originals(self, wanted: Sequence[GenerationParams]) -> None:
        """Encode originals before any other part is loaded: their encoder is alone in memory. Raises BrokenValues."""
        self._images = encode_init_images(self._components, wanted, self._images)

    def text(self, params: GenerationParams) -> EncodedPair:
        """Encode the texts of one picture, or reuse them. Raises BrokenValues."""
        key = text_key(params)
        if key not in self._texts or self._texts_in != self._components.dtypes.text_encoder:
            self._encode_texts([params])
        return self._texts[key]

    def _encode_texts(self, wanted: Sequence[GenerationParams]) -> None:
        self._texts = encode_texts(self._components, wanted)
        self._texts_in = self._components.dtypes.text_encoder

    def init_latents(self, params: GenerationParams) -> InitLatents | None:
        """Find the latents to start from; None to start from noise. The original must be encoded already."""
        return init_latents_of(self._components, params, self._images)

    def transformer(self, params: GenerationParams) -> "Ready":
        """The transformer with everything that stays the same over the steps of a picture.

        Loads what is not there, under smaller and smaller plans. Raises BrokenValues.
        """
        return retrying(
            self._components,
            "denoise",
            lambda: self._ready(params),
            doing="loading the transformer",
        )

    def _ready(self, params: GenerationParams) -> "Ready":
        components = self._components
        dtype = components.dtypes.transformer
        key = text_key(params), params.loras, params.control is not None, dtype
        text = None
        if self._contexts_of != key:
            self._contexts, self._contexts_of = [], None
            text = self.text(params)  # before the transformer: the two largest parts never meet
        transformer = components.transformer(params.loras)
        controlnet = components.controlnet() if params.control is not None else None
        if text is not None:
            with components.stopwatch.timed("text"), torch.inference_mode():
                self._contexts = [
                    _context(embeds.to(components.device, DTYPES[dtype]), transformer, controlnet)
                    for embeds in text.branches
                ]
            self._contexts_of = key
        return Ready(transformer, self._contexts, self._control(controlnet, params))

    def _control(
        self, net: SanaControlNet | None, params: GenerationParams
    ) -> ActiveControl | None:
        """The ControlNet with the latents of its picture, which are projected once."""
        if net is None or params.control is None:
            return None
        latents = control_latents_of(self._components, params, self._images)
        known = self._control_tokens
        if known is None or known[0] is not latents or known[1] is not net:
            with torch.inference_mode():
                self._control_tokens = latents, net, net.encode_control(latents)
        assert self._control_tokens is not None
        tokens, control = self._control_tokens[2], params.control
        return ActiveControl(net=net, tokens=tokens, scale=control.scale, order=control.order)


class Ready(NamedTuple):
    """The parts and inputs of a step: in memory, and the same for all steps of a picture."""

    transformer: SanaTransformer2D
    contexts: list[TextContext]  # keys and values of its cross-attention, one a branch
    control: ActiveControl | None


def _context(
    embeds: Tensor, transformer: SanaTransformer2D, controlnet: SanaControlNet | None
) -> TextContext:
    context = transformer.encode_text(embeds)
    if controlnet is None:
        return context
    return replace(context, control=controlnet.encode_text(embeds))
