"""Latents of the pictures that others begin with or follow. The encoder is in memory only while it encodes."""

# C latent channels, h w latent grid, H W pixels

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from sana_cli.decoding.exact_encoding import encode_exact
from sana_cli.decoding.exact_tiles import count_tiles
from sana_cli.images.tensors import to_tensor
from sana_cli.memory.plans import WHOLE, DecodePlan, encode_plan
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.pipeline.components import Components
from sana_cli.pipeline.control_image import control_image
from sana_cli.pipeline.denoise import InitLatents
from sana_cli.pipeline.recovery import retrying
from sana_cli.pipeline.values import check_values
from sana_cli.request.init_image import (
    Composite,
    InitImage,
    as_drawn,
    fitted,
    read_image,
    read_mask,
    touched_positions,
)
from sana_cli.request.params import GenerationParams

_Key = tuple[object, ...]  # all values that change the latents
EncodedImages = dict[_Key, Tensor]  # (1, C, h, w) fp32 of each original and control picture


@torch.inference_mode()
def encode_image(
    vae: AutoencoderDC,
    image: Tensor,
    *,
    plan: DecodePlan = WHOLE,
    advance: Callable[[], None] = lambda: None,
) -> Tensor:
    """A picture (1, 3, H, W) fp32 in -1..1 -> its latents (1, C, H/32, W/32) fp32, as a sampler would finish them.

    `plan`: whole, or in exact tiles; `advance` is called after each tile. Raises BrokenValues.
    """
    dtype = vae.encoder.conv_out.weight.dtype
    if plan.mode == "exact-tiles":
        encoded = encode_exact(
            vae.encoder, image, tile=plan.tile, strip=plan.strip, dtype=dtype, advance=advance
        )
    else:
        encoded = vae.encode(image.to(dtype))
    latents = encoded.float() * vae.config.scaling_factor
    # One colour all over is a picture, too.
    check_values(latents, "encoding the picture", flat_below=-1)
    return latents


def encode_init_images(
    components: Components, wanted: Iterable[GenerationParams], known: EncodedImages
) -> EncodedImages:
    """Latents that these pictures begin with or follow, those that are not `known` by the encoder. Raises BrokenValues."""
    distinct = {
        key: drawn for params in wanted for key, drawn in _encoded(params, components.dtypes.vae)
    }
    latents = {key: known[key] for key in distinct if key in known}
    missing = {key: drawn for key, drawn in distinct.items() if key not in known}
    if not missing:
        return latents
    with components.vae_encoder() as vae:
        with components.stopwatch.timed("encode"):
            latents |= _encoded_by(vae, components, missing)
        del vae
    return latents


def _encoded_by(
    vae: AutoencoderDC, components: Components, missing: dict[_Key, Callable[[], Image.Image]]
) -> EncodedImages:
    """Encode pictures, each under smaller and smaller plans. The stage counts pictures, or the tiles of a single one."""
    latents: EncodedImages = {}
    plan, several = components.plan.decode, len(missing) > 1
    total = len(missing) if several else None
    if not several and plan.mode != "whole":
        ((key, drawn),) = missing.items()
        only = drawn()
        total = count_tiles(only.height, only.width, plan.tile)
        missing = {key: lambda: only}
    with components.reporter.stage("encode", total) as advance:
        for key, drawn in missing.items():

            def once(drawn: Callable[[], Image.Image] = drawn) -> Tensor:
                image = to_tensor(drawn()).to(components.device)
                how = encode_plan(components.plan.decode, *image.shape[-2:])
                each = (lambda: None) if several or total is None else advance
                return encode_image(vae, image, plan=how, advance=each)

            latents[key] = retrying(components, "encode", once)
            if several:
                advance()
    return latents


def init_latents_of(
    components: Components, params: GenerationParams, known: EncodedImages
) -> InitLatents | None:
    """Find the latents to start from; None to start from noise. The original must be in `known`."""
    init = params.init_image
    if init is None or not init.is_encoded:
        return None
    redrawn = None
    if init.mask is not None:
        mask = as_drawn(_mask(init, params), params.drawn_width, params.drawn_height)
        touched = torch.from_numpy(touched_positions(mask, components.checkpoint.vae.downscale))
        redrawn = touched[None, None].to(components.device)
    return InitLatents(known[_original_key(params, components.dtypes.vae)], init.first, redrawn)


def control_latents_of(
    components: Components, params: GenerationParams, known: EncodedImages
) -> Tensor:
    """Find the latents (1, C, h, w) of the control picture, which must be in `known`."""
    return known[_control_key(params, components.dtypes.vae)]


def composite_of(params: GenerationParams) -> Composite | None:
    """Read the original and the mask to paste it back with; None if the whole picture is redrawn."""
    init = params.init_image
    if init is None or init.mask is None:
        return None
    return Composite(original=_original(params), mask=_mask(init, params))


def _original(params: GenerationParams) -> Image.Image:
    """Read the original and fit it to the finished picture's size."""
    assert params.init_image is not None
    return fitted(read_image(params.init_image.image), params.width, params.height)


def _mask(init: InitImage, params: GenerationParams) -> Image.Image:
    """Read the mask and fit it to the finished picture's size, cropped as the original is."""
    assert init.mask is not None
    size = init.image.width, init.image.height
    mask = read_mask(init.mask).resize(size, Image.Resampling.NEAREST)
    return fitted(mask, params.width, params.height)


def _encoded(
    params: GenerationParams, precision: str
) -> Iterator[tuple[_Key, Callable[[], Image.Image]]]:
    """Yield the pictures that one picture needs encoded: keys, and functions that read and fit them."""
    p = params
    if p.init_image is not None and p.init_image.is_encoded:
        fit = partial(as_drawn, width=p.drawn_width, height=p.drawn_height)
        yield _original_key(p, precision), lambda: fit(_original(p))
    if p.control is not None:
        yield (
            _control_key(p, precision),
            partial(control_image, p.control, p.drawn_width, p.drawn_height),
        )


def _original_key(params: GenerationParams, precision: str) -> _Key:
    p, init = params, params.init_image
    assert init is not None
    return init.image.digest, p.width, p.height, p.drawn_width, p.drawn_height, precision


def _control_key(params: GenerationParams, precision: str) -> _Key:
    p, control = params, params.control
    assert control is not None
    hed = control.hed.digest if control.hed else ""
    return (
        "control", control.image.digest, control.kind, hed, p.drawn_width, p.drawn_height, precision,
    )  # fmt: skip
