"""Our networks against diffusers', with the same lively random weights, in fp32 on the CPU."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from sana_cli.config.networks import DCAEConfig, TransformerConfig
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.sana_transformer import SanaTransformer2D

# B batch, L text tokens, C channels of the text encoder, h w latents

# Sums in another order: about ten times what fp32 needs here, a thousandth of what an error makes.
TOLERANCE = 2e-5
FULL_TOLERANCE = 1e-4  # at the published sizes

FAMILIES = ["plain", "qk_norm", "pos_embed_1", "pos_embed_2", "sprint"]
GRIDS = [(4, 4), (3, 4), (5, 2), (1, 1), (8, 6)]  # with 4 x 4 the native one


def assert_agrees(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """The largest difference, relative to the spread of the reference."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    error = float((ours - theirs).abs().max() / theirs.std())
    print(f"largest difference / spread = {error:.2e}")  # noqa: T201 -- shown with -s
    assert error <= tolerance, f"differs by {error:.2e} of the spread, allowed {tolerance:.0e}"


def plain_config(module: Any) -> dict[str, Any]:
    """The model's config.json, as it comes back from disk: tuples are lists there."""
    return json.loads(json.dumps(dict(module.config)))


def adopt(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Share their weights; keys and shapes must be equal."""
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    ours.eval().requires_grad_(False)


@pytest.fixture
def all_cores() -> Iterator[None]:
    """The other tests run on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


# --- the transformer ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pair:
    """A transformer of ours and the diffusers one that it shares its weights with."""

    ours: SanaTransformer2D
    theirs: Any

    @property
    def sprint(self) -> bool:
        return self.ours.config.guidance_embeds


def make_pair(theirs: Any) -> Pair:
    with torch.device("meta"):
        ours = SanaTransformer2D(TransformerConfig.from_dict(plain_config(theirs)))
    adopt(ours, theirs)
    return Pair(ours, theirs)


@pytest.fixture(params=FAMILIES, scope="module")
def pair(request: pytest.FixtureRequest, reference: ModuleType) -> Pair:
    variant = reference.VARIANTS[request.param]
    return make_pair(reference.lively_transformer(reference.transformer_config(variant), 42))


def inputs(pair: Pair, batch: int, grid: tuple[int, int]) -> dict[str, Tensor]:
    """Latents, timesteps and guidance of a batch; every row has its own."""
    generator = torch.Generator().manual_seed(batch * 100 + grid[0] * 10 + grid[1])
    latents = torch.randn(batch, 32, *grid, generator=generator)
    if pair.sprint:
        timestep = torch.linspace(1.0, 0.3, batch)
        guidance = torch.linspace(0.45, 0.2, batch)
        return {"latents": latents, "timestep": timestep, "guidance": guidance}
    timestep = torch.linspace(999, 136, batch).floor()
    return {"latents": latents, "timestep": timestep}


def text(batch: int, length: int, channels: int) -> Tensor:
    return torch.randn(batch, length, channels, generator=torch.Generator().manual_seed(length))


@torch.no_grad()
def diffusers_forward(pair: Pair, given: dict[str, Tensor], embeds: Tensor, mask: Tensor) -> Tensor:
    timestep = given["timestep"]
    return pair.theirs(
        given["latents"],
        encoder_hidden_states=embeds,
        timestep=timestep if pair.sprint else timestep.long(),
        guidance=given.get("guidance"),
        encoder_attention_mask=mask,
    ).sample


@torch.no_grad()
def our_forward(pair: Pair, given: dict[str, Tensor], contexts: list[Any]) -> Tensor:
    return pair.ours(given["latents"], given["timestep"], contexts, given.get("guidance"))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_transformer_with_padded_text(pair: Pair, grid: tuple[int, int]) -> None:
    """One context for the whole batch, rows of different lengths under a mask."""
    given = inputs(pair, 3, grid)
    embeds = text(3, 9, pair.ours.config.caption_channels)
    mask = torch.arange(9)[None] < torch.tensor([[9], [4], [1]])
    with torch.no_grad():
        context = pair.ours.encode_text(embeds, mask)
    theirs = diffusers_forward(pair, given, embeds, mask.long())
    assert_agrees(our_forward(pair, given, [context]), theirs, TOLERANCE)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("length", [2, 7, 300])
def test_transformer_with_one_context_a_branch(
    pair: Pair, length: int, grid: tuple[int, int]
) -> None:
    """Unconditional (one token, a constant per block) and conditional rows, neither padded."""
    given = inputs(pair, 2, grid)
    C = pair.ours.config.caption_channels
    unconditional, conditional = text(1, 1, C), text(1, length, C)
    with torch.no_grad():
        contexts = [pair.ours.encode_text(unconditional), pair.ours.encode_text(conditional)]
    assert contexts[0].constants, "a text of one token is a constant"
    assert not contexts[1].constants

    padded = torch.cat([torch.cat([unconditional, 5 * text(1, length - 1, C)], dim=1), conditional])
    mask = torch.ones(2, length, dtype=torch.long)
    mask[0, 1:] = 0
    theirs = diffusers_forward(pair, given, padded, mask)
    assert_agrees(our_forward(pair, given, contexts), theirs, TOLERANCE)


def test_transformer_with_contexts_of_several_rows(pair: Pair) -> None:
    given = inputs(pair, 5, (3, 4))
    C = pair.ours.config.caption_channels
    first, second = text(2, 6, C), text(3, 4, C)
    with torch.no_grad():
        contexts = [pair.ours.encode_text(first), pair.ours.encode_text(second)]
    padded = torch.cat([first, torch.cat([second, text(3, 2, C)], dim=1)])
    mask = torch.tensor([[1] * 6] * 2 + [[1] * 4 + [0] * 2] * 3)
    theirs = diffusers_forward(pair, given, padded, mask)
    assert_agrees(our_forward(pair, given, contexts), theirs, TOLERANCE)


def test_text_is_encoded_once(pair: Pair) -> None:
    """A context serves any number of steps."""
    C = pair.ours.config.caption_channels
    embeds = text(1, 5, C)
    with torch.no_grad():
        context = pair.ours.encode_text(embeds)
    for batch_seed in ((2, 3), (4, 2)):
        given = inputs(pair, 1, batch_seed)
        theirs = diffusers_forward(pair, given, embeds, torch.ones(1, 5, dtype=torch.long))
        assert_agrees(our_forward(pair, given, [context]), theirs, TOLERANCE)


# --- published sizes ----------------------------------------------------------------------------------------------

NAMES = [
    "sana-0.6b", "sana-1.6b", "sana-1.6b-2k", "sana-1.6b-4k", "sana-1.5-1.6b", "sana-1.5-4.8b",
    "sprint-0.6b", "sprint-1.6b",
]  # fmt: skip


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("name", NAMES)
def test_published_transformer_keys_and_shapes(reference: ModuleType, name: str) -> None:
    config, parameters = reference.PUBLISHED[name]
    # The position table is a buffer that no file holds; diffusers cannot make it on the meta device.
    without_table = {**config, "interpolation_scale": None}
    with torch.device("meta"):
        theirs = reference.SanaTransformer2DModel(**without_table)
        ours = SanaTransformer2D(TransformerConfig.from_dict(config))
    assert shapes(ours) == shapes(theirs)
    assert sum(parameter.numel() for parameter in ours.parameters()) == parameters


def test_published_vae_keys_and_shapes(reference: ModuleType) -> None:
    config = reference.VAE_PUBLISHED
    with torch.device("meta"):
        theirs = reference.AutoencoderDC(**config)
        ours = AutoencoderDC(DCAEConfig.from_dict(json.loads(json.dumps(config))))
    assert shapes(ours) == shapes(theirs)
    for part, module in (("all", ours), ("decoder", ours.decoder), ("encoder", ours.encoder)):
        count = sum(parameter.numel() for parameter in module.parameters())
        assert count == reference.VAE_PARAMETERS[part], part


def test_missing_fields_mean_the_published_defaults(reference: ModuleType) -> None:
    """Older config files lack qk_norm, guidance_embeds and timestep_scale."""
    config = {
        key: value
        for key, value in reference.transformer_config(reference.VARIANTS["plain"]).items()
        if key not in ("qk_norm", "guidance_embeds", "timestep_scale", "interpolation_scale")
    }
    parsed = TransformerConfig.from_dict(config)
    assert parsed.qk_norm is None
    assert parsed.guidance_embeds is False
    assert parsed.timestep_scale == 1.0
    assert parsed.interpolation_scale is None


@pytest.mark.slow
@pytest.mark.parametrize("grid", [(16, 16), (6, 8)], ids=str)
def test_full_600m_forward(all_cores: None, reference: ModuleType, grid: tuple[int, int]) -> None:
    config, _ = reference.PUBLISHED["sana-0.6b"]
    full = make_pair(reference.lively_transformer(config, 1))
    given = inputs(full, 2, grid)
    unconditional, conditional = text(1, 1, 2304), text(1, 40, 2304)
    with torch.no_grad():
        contexts = [full.ours.encode_text(unconditional), full.ours.encode_text(conditional)]
    ours = our_forward(full, given, contexts)
    padded = torch.cat([torch.cat([unconditional, text(1, 39, 2304)], dim=1), conditional])
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[0, 1:] = 0
    assert_agrees(ours, diffusers_forward(full, given, padded, mask), FULL_TOLERANCE)


# --- the autoencoder ----------------------------------------------------------------------------------------------


def make_vaes(
    reference: ModuleType, config: dict[str, Any], seed: int
) -> tuple[AutoencoderDC, Any]:
    theirs = reference.lively_vae(config, seed)
    with torch.device("meta"):
        ours = AutoencoderDC(DCAEConfig.from_dict(plain_config(theirs)))
    adopt(ours, theirs)
    return ours, theirs


# 32 positions divide the quadratic from the linear form of attention, in each of the last three stages.
LATENT_GRIDS = [(1, 1), (2, 3), (4, 8), (3, 11), (5, 7)]


@pytest.mark.parametrize("kind", ["tiny", "lite"])
@pytest.mark.parametrize("grid", LATENT_GRIDS, ids=str)
def test_decoder(reference: ModuleType, kind: str, grid: tuple[int, int]) -> None:
    config = {"tiny": reference.VAE_TINY, "lite": reference.VAE_LITE}[kind]
    ours, theirs = make_vaes(reference, config, 3)
    z = 2 * torch.randn(2, 32, *grid, generator=torch.Generator().manual_seed(grid[1]))
    with torch.no_grad():
        image = ours.decode(z)
        assert image.shape == (2, 3, 32 * grid[0], 32 * grid[1])
        assert_agrees(image, theirs.decode(z).sample, TOLERANCE)


@pytest.mark.parametrize("kind", ["tiny", "lite"])
@pytest.mark.parametrize("grid", LATENT_GRIDS, ids=str)
def test_encoder(reference: ModuleType, kind: str, grid: tuple[int, int]) -> None:
    config = {"tiny": reference.VAE_TINY, "lite": reference.VAE_LITE}[kind]
    ours, theirs = make_vaes(reference, config, 4)
    generator = torch.Generator().manual_seed(grid[1])
    image = torch.rand(2, 3, 32 * grid[0], 32 * grid[1], generator=generator) * 2 - 1
    with torch.no_grad():
        z = ours.encode(image)
        assert z.shape == (2, 32, *grid)
        assert_agrees(z, theirs.encode(image).latent, TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("grid", [(8, 8), (3, 5)], ids=str)
def test_full_decoder(all_cores: None, reference: ModuleType, grid: tuple[int, int]) -> None:
    ours, theirs = make_vaes(reference, reference.VAE_PUBLISHED, 5)
    z = 2 * torch.randn(1, 32, *grid, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert_agrees(ours.decode(z), theirs.decode(z).sample, FULL_TOLERANCE)
