"""Our ControlNet against diffusers' in its order, and against the order of training written out anew, in fp32."""

# B batch, L text tokens, C latent channels, h w latents, D width

import json
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sana_cli.config.networks import ControlNetConfig, TransformerConfig
from sana_cli.models.block_cache import FirstBlockCache
from sana_cli.models.controlnet import ActiveControl, SanaControlNet
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext

TOLERANCE = 2e-5  # of the spread of the reference
GRIDS = [(4, 4), (3, 5), (1, 1)]
BRANCH = 2  # blocks, beside a base of four
_ONLY_THE_BASE = ("guidance_embeds", "qk_norm")


def adopted(ours: nn.Module, theirs: nn.Module) -> Any:
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    return ours.eval().requires_grad_(False)


class Both:
    """A base and its branch, ours and diffusers', with the same lively weights."""

    def __init__(self, reference: ModuleType) -> None:
        from diffusers import SanaControlNetModel

        config = reference.transformer_config(reference.VARIANTS["plain"]) | {"num_layers": 4}
        self.base = reference.lively_transformer(config, 42)
        branch = {k: v for k, v in config.items() if k not in _ONLY_THE_BASE}
        self.net = reference.enliven(SanaControlNetModel(**branch | {"num_layers": BRANCH}), 7)
        with torch.no_grad():
            self.net.patch_embed.proj.weight *= 4
        self.config = json.loads(json.dumps(dict(self.net.config)))
        self.channels = config["caption_channels"]
        self.ours = adopted(SanaTransformer2D(TransformerConfig.from_dict(config)), self.base)

    def control(self, order: str, latents: Tensor, scale: float = 1.0) -> ActiveControl:
        config = ControlNetConfig.from_dict(self.config | {"control_order": order})
        net = adopted(SanaControlNet(config), self.net)
        return ActiveControl(
            net=net, tokens=net.encode_control(latents), scale=scale, order=config.order
        )

    def contexts(self, control: ActiveControl, *texts: Tensor) -> list[TextContext]:
        return [
            replace(self.ours.encode_text(text), control=control.net.encode_text(text))
            for text in texts
        ]


@pytest.fixture(scope="module")
def both(reference: ModuleType) -> Both:
    return Both(reference)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_agrees(ours: Tensor, theirs: Tensor) -> None:
    error = float((ours - theirs).abs().max() / theirs.std())
    assert error <= TOLERANCE, f"differs by {error:.1e} of the spread"


@pytest.mark.parametrize("scale", [1.0, 0.4])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_order_of_diffusers(both: Both, grid: tuple[int, int], scale: float) -> None:
    """Two branches: one token (an empty negative prompt) and seven."""
    latents, cond = normal(2, 32, *grid, seed=1), normal(1, 32, *grid, seed=2)
    texts = normal(1, 1, both.channels, seed=3), normal(1, 7, both.channels, seed=4)
    timestep = torch.tensor([700.0, 700.0])
    control = both.control("diffusers", cond, scale)
    with torch.inference_mode():
        ours = both.ours(latents, timestep, both.contexts(control, *texts), control=control)

        padded = torch.cat(
            [torch.cat([texts[0], normal(1, 6, both.channels, seed=5)], 1), texts[1]]
        )
        mask = torch.tensor([[1] + [0] * 6, [1] * 7])
        given = {"timestep": timestep.long(), "encoder_attention_mask": mask}
        (samples,) = both.net(
            latents, padded, controlnet_cond=cond.expand(2, -1, -1, -1), conditioning_scale=scale,
            return_dict=False, **given,
        )  # fmt: skip
        theirs = both.base(
            latents, encoder_hidden_states=padded, controlnet_block_samples=tuple(samples), **given
        ).sample
        alone = both.base(latents, encoder_hidden_states=padded, **given).sample
    assert_agrees(ours, theirs)
    assert float((theirs - alone).abs().max() / alone.std()) > 0.1, "the branch does something"


def as_trained(
    both: Both, latents: Tensor, cond: Tensor, timestep: Tensor, text: Tensor, scale: float
) -> Tensor:
    """NVIDIA's `sana_multi_scale_controlnet.py`: base block 0 first, the branch from its tokens, then one beside the other.

    Written with diffusers' blocks, one text without padding.
    """
    base, net = both.base, both.net
    h, w = latents.shape[-2:]

    def projected(model: Any) -> tuple[Tensor, Tensor, Tensor]:
        modulation, e = model.time_embed(timestep.long(), batch_size=1, hidden_dtype=latents.dtype)
        return model.caption_norm(model.caption_projection(text)), modulation, e

    def run(block: Any, x: Tensor, encoded: Tensor, modulation: Tensor) -> Tensor:
        return block(x, None, encoded, None, modulation, h, w)

    encoded, modulation, e = projected(base)
    control_text, control_modulation, _ = projected(net)
    x = run(base.transformer_blocks[0], base.patch_embed(latents), encoded, modulation)
    c = net.patch_embed(cond)
    for i in range(1, len(base.transformer_blocks)):
        if i <= BRANCH:
            c = x + net.input_block(c) if i == 1 else c
            c = run(net.transformer_blocks[i - 1], c, control_text, control_modulation)
            x = x + scale * net.controlnet_blocks[i - 1](c)
        x = run(base.transformer_blocks[i], x, encoded, modulation)
    shift, scale_ = (base.scale_shift_table[None] + e[:, None]).chunk(2, dim=1)
    x = base.proj_out(nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale_) + shift)
    return x.transpose(1, 2).unflatten(-1, (h, w))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_order_of_training(both: Both, grid: tuple[int, int]) -> None:
    latents, cond = normal(1, 32, *grid, seed=1), normal(1, 32, *grid, seed=2)
    text, timestep = normal(1, 5, both.channels, seed=3), torch.tensor([300.0])
    with torch.inference_mode():
        control = both.control("trained", cond, 0.7)
        ours = both.ours(latents, timestep, both.contexts(control, text), control=control)
        theirs = as_trained(both, latents, cond, timestep, text, 0.7)
        other = both.control("diffusers", cond, 0.7)
        differs = both.ours(latents, timestep, both.contexts(other, text), control=other)
    assert_agrees(ours, theirs)
    assert float((ours - differs).abs().max() / ours.std()) > 0.1, "the orders are two networks"


@pytest.mark.parametrize("order", ["trained", "diffusers"])
def test_scale_zero_is_the_base(both: Both, order: str) -> None:
    latents, text = normal(1, 32, 3, 4, seed=1), normal(1, 5, both.channels, seed=3)
    timestep = torch.tensor([300.0])
    with torch.inference_mode():
        control = both.control(order, normal(1, 32, 3, 4, seed=2), 0.0)
        ours = both.ours(latents, timestep, both.contexts(control, text), control=control)
        assert torch.equal(ours, both.ours(latents, timestep, [both.ours.encode_text(text)]))


@pytest.mark.parametrize("order", ["trained", "diffusers"])
def test_first_block_cache_keeps_the_branch(both: Both, order: str) -> None:
    """At threshold 0 every step is computed as without the cache; a reused step holds the branch's residuals, too."""
    latents, cond = normal(2, 32, 3, 4, seed=1), normal(1, 32, 3, 4, seed=2)
    texts = normal(1, 5, both.channels, seed=3), normal(1, 7, both.channels, seed=4)
    timestep = torch.tensor([300.0, 300.0])
    with torch.inference_mode():
        control = both.control(order, cond)
        contexts = both.contexts(control, *texts)
        plain = both.ours(latents, timestep, contexts, control=control)
        caches = [FirstBlockCache(0.0), FirstBlockCache(1e-3)]
        for _ in range(2):
            again = both.ours(latents, timestep, contexts, caches=caches, control=control)
            assert_agrees(again, plain)
        assert [cache.reused for cache in caches] == [0, 1]


@pytest.mark.parametrize("order", ["trained", "diffusers"])
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_perturbed_rows_take_the_same_residuals(both: Both, order: str, layer: int) -> None:
    """With perturbed attention in a block, the first rows stay, and the others follow the picture, too."""
    latents, cond = normal(1, 32, 3, 4, seed=1), normal(1, 32, 3, 4, seed=2)
    text, timestep = normal(1, 5, both.channels, seed=3), torch.tensor([300.0])
    with torch.inference_mode():
        control = both.control(order, cond)
        contexts = both.contexts(control, text)
        plain = both.ours(latents, timestep, contexts, control=control)
        rows = both.ours(latents, timestep, contexts, perturbed_layer=layer, control=control)
        free = both.ours(latents, timestep, contexts, perturbed_layer=layer)
    assert len(rows) == 2
    assert_agrees(rows[:1], plain)
    assert float((rows[1:] - plain).abs().max() / plain.std()) > 0.01
    assert float((rows[1:] - free[1:]).abs().max() / plain.std()) > 0.1


def test_a_text_that_was_not_encoded_for_the_branch(both: Both) -> None:
    control = both.control("trained", normal(1, 32, 2, 2, seed=2))
    context = both.ours.encode_text(normal(1, 5, both.channels, seed=3))
    with pytest.raises(ValueError, match="not encoded for the ControlNet"):
        both.ours(normal(1, 32, 2, 2, seed=1), torch.tensor([3.0]), [context], control=control)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"guidance_embeds": True}, "guidance_embeds"),
        ({"control_order": "upside down"}, "upside down"),
        ({"control_order": []}, "control_order"),
    ],
    ids=["guidance", "order", "list"],
)
def test_configurations_that_no_controlnet_has(
    both: Both, said: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ControlNetConfig.from_dict(both.config | said)


@pytest.mark.parametrize(("layers", "width"), [(2, 1), (4, 2)], ids=["as deep", "other width"])
def test_a_branch_beside_another_base(both: Both, layers: int, width: int) -> None:
    config = ControlNetConfig.from_dict(both.config)
    base = config.blocks
    heads = base.num_attention_heads * width
    other = replace(
        base, num_layers=layers, num_attention_heads=heads, cross_attention_dim=32 * heads,
        num_cross_attention_heads=base.num_cross_attention_heads * width,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"inner_dim|blocks for"):
        config.require_base(other)
