"""Pictures that others begin with: encoded once, alone in memory; masks as latents and as pixels."""

# C latent channels, h w latent grid

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sana_cli.config.networks import DCAEConfig
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.pipeline.components import Components
from sana_cli.pipeline.init_images import (
    _original_key,
    composite_of,
    encode_image,
    encode_init_images,
    init_latents_of,
)
from sana_cli.pipeline.values import BrokenValues
from sana_cli.request.params import GenerationParams
from sana_cli.system.precision import DtypePlan

Params = Callable[..., GenerationParams]


@pytest.fixture
def original(tmp_path: Path) -> Path:
    path = tmp_path / "o.png"
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(path)
    return path


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """White on the right, from 40 on: in the second of two columns of latents."""
    image = Image.new("L", (64, 64))
    image.paste(255, (40, 0, 64, 64))
    image.save(tmp_path / "m.png")
    return tmp_path / "m.png"


# -- one picture -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae() -> AutoencoderDC:
    torch.manual_seed(0)
    narrow = (16, 32, 32, 32, 64, 64)
    config = DCAEConfig(
        encoder_block_out_channels=narrow, decoder_block_out_channels=narrow,
        encoder_layers_per_block=(1,) * 6, decoder_layers_per_block=(1,) * 6,
    )  # fmt: skip
    return AutoencoderDC(config).eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(32, 32), (96, 160)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_latents_of_a_picture(
    vae: AutoencoderDC, size: tuple[int, int], dtype: torch.dtype
) -> None:
    picture = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    vae.to(dtype)
    try:
        latents = encode_image(vae, picture)
        with torch.inference_mode():
            plain = vae.encode(picture.to(dtype)).float()
    finally:
        vae.to(torch.float32)
    assert latents.shape == (1, 32, size[0] // 32, size[1] // 32)
    assert latents.dtype == torch.float32
    assert torch.equal(latents, plain * vae.config.scaling_factor), "as a sampler finishes them"


def test_one_colour_is_a_picture(vae: AutoencoderDC) -> None:
    assert encode_image(vae, torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_broken_values_name_the_encoder(vae: AutoencoderDC) -> None:
    with pytest.raises(BrokenValues, match="after encoding the picture"):
        encode_image(vae, torch.full((1, 3, 32, 32), torch.nan))


# -- those of several pictures ---------------------------------------------------------------------


def test_each_original_is_encoded_once(
    components: Components, params: Params, told: Any, original: Path
) -> None:
    wanted = [params(seed=seed, image=str(original), width=64, height=64) for seed in range(3)]
    components.plan_for(wanted[0])
    known = encode_init_images(components, [*wanted, params("a dog")], {})
    assert len(known) == 1
    assert told.stages == ["load encoder", "encode"]
    again = encode_init_images(components, wanted, known)
    assert told.stages == ["load encoder", "encode"], "what is known is not loaded for"
    assert all(again[key] is known[key] for key in known)


def test_it_is_alone_in_memory(components: Components, params: Params, original: Path) -> None:
    p = params(image=str(original))
    components.plan_for(p)
    components.transformer()
    encode_init_images(components, [p], {})
    assert not components.evict_transformer(), "the encoder's room was made before it came"


@pytest.mark.parametrize("change", [{"width": 96}, {"height": 32}, {"precision": "bf16"}, {"file": 1}])  # fmt: skip
def test_whatever_changes_latents_has_its_own(
    components: Components, params: Params, original: Path, change: dict[str, Any]
) -> None:
    usual = {"image": str(original), "width": 64, "height": 64}
    before = {_original_key(params(**usual), components.dtypes.vae): torch.zeros(1, 32, 2, 2)}
    if "precision" in change:
        kept = components.dtypes
        components.dtypes = DtypePlan(
            transformer=kept.transformer, vae="bf16", text_encoder=kept.text_encoder
        )
        after = encode_init_images(components, [params(**usual)], before)
    elif "file" in change:
        Image.new("RGB", (64, 64), "red").save(original)
        after = encode_init_images(components, [params(**usual)], before)
    else:
        after = encode_init_images(components, [params(**{**usual, **change})], before)
    assert len(after) == 1, "earlier ones are replaced"
    assert set(after).isdisjoint(before)


def test_pictures_from_noise_need_none(
    components: Components, params: Params, told: Any, original: Path
) -> None:
    """Without a picture, or with a strength that leaves nothing of it."""
    wanted = [params(), params(image=str(original), strength=1.0)]
    assert encode_init_images(components, wanted, {}) == {}
    assert [init_latents_of(components, p, {}) for p in wanted] == [None, None]
    assert told.stages == []


# -- starts and composites -------------------------------------------------------------------------


def test_where_to_start(components: Components, params: Params, original: Path) -> None:
    p = params(image=str(original), strength=0.5, steps=4)
    known = encode_init_images(components, [p], {})
    init = init_latents_of(components, p, known)
    assert init is not None
    assert (init.first, init.redrawn) == (2, None)
    assert init.latents is next(iter(known.values()))
    assert composite_of(p) is None, "the whole picture is redrawn"


def test_a_mask(components: Components, params: Params, original: Path, mask: Path) -> None:
    p = params(image=str(original), mask=str(mask))
    init = init_latents_of(components, p, encode_init_images(components, [p], {}))
    assert init is not None
    assert init.first == 0, "what is masked is drawn from noise"
    assert init.redrawn is not None
    assert init.redrawn.tolist() == [[[[False, True], [False, True]]]]
    composite = composite_of(p)
    assert composite is not None
    assert (composite.original.size, composite.original.mode) == ((64, 64), "RGB")
    assert composite.mask.getbbox() == (40, 0, 64, 64)
    drawn = Image.new("RGB", (64, 64), "red")
    merged = composite.over(drawn)
    assert merged.crop((0, 0, 40, 64)).tobytes() == composite.original.crop((0, 0, 40, 64)).tobytes()  # fmt: skip
    assert merged.getpixel((60, 30)) == (255, 0, 0)


def test_sizes_that_differ(
    components: Components, params: Params, original: Path, mask: Path
) -> None:
    """The mask is cropped as its picture is, and both again as the drawn size asks."""
    p = replace(params(image=str(original), mask=str(mask), width=64, height=32), drawn_height=64)
    init = init_latents_of(components, p, encode_init_images(components, [p], {}))
    assert init is not None
    assert init.latents.shape[-2:] == (2, 2)
    assert init.redrawn is not None
    assert init.redrawn.shape == (1, 1, 2, 2)
    composite = composite_of(p)
    assert composite is not None
    assert composite.original.size == composite.mask.size == (64, 32)
