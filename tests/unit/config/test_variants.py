"""The table of published models against the figures of docs/sana-spec.md, section 1."""

import subprocess
import sys
from dataclasses import asdict

import pytest

from sana_cli.config.networks import TransformerConfig
from sana_cli.config.variants import VARIANTS, Variant, find_variant, match_structure, suggest

PARAMETERS = {
    "sana-0.6b": 591_747_872,
    "sana-1.6b": 1_604_462_752,
    "sana-1.5-1.6b": 1_604_641_952,
    "sana-1.5-4.8b": 4_721_825_952,
    "sprint-0.6b": 593_501_216,
    "sprint-1.6b": 1_610_237_472,
}
OWNER = "Efficient-Large-Model"


def count_parameters(config: TransformerConfig) -> int:
    D, H, text = config.inner_dim, config.ff_dim, config.caption_channels
    norm = 2 * D if config.qk_norm else 0
    attn1 = 4 * D * D + D + norm
    attn2 = 4 * (D * D + D) + norm
    ff = 2 * H * D + 2 * H + 2 * H * 9 + 2 * H + H * D
    sinusoid_mlp = 256 * D + D + D * D + D
    time = sinusoid_mlp * (2 if config.guidance_embeds else 1) + 6 * D * D + 6 * D
    caption = text * D + D + D * D + D + D
    ends = 32 * D + D + 2 * D + 32 * D + 32
    return config.num_layers * (6 * D + attn1 + attn2 + ff) + time + caption + ends


@pytest.mark.parametrize("alias", PARAMETERS)
def test_structures_have_the_published_parameter_counts(alias: str) -> None:
    variant = VARIANTS[alias]
    config = TransformerConfig.from_dict(asdict(variant.structure))
    assert config.inner_dim == variant.structure.inner_dim
    assert count_parameters(config) == PARAMETERS[alias]
    assert variant.transformer_bytes == pytest.approx(2 * PARAMETERS[alias], rel=1e-3)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_agrees_with_itself(variant: Variant) -> None:
    name = variant.repo.split("/")[1]
    assert name.endswith("_diffusers")
    assert ("BF16" in name) == (variant.weight_variant == "bf16")
    assert variant.weight_variant in (None, variant.precision)
    pixels = {"512px": 512, "1024px": 1024, "2Kpx": 2048, "4Kpx": 4096}
    assert [size for text, size in pixels.items() if f"_{text}" in name] == [variant.native_size]
    assert variant.structure.sample_size * 32 == variant.native_size
    assert (variant.structure.interpolation_scale is not None) == (variant.native_size > 1024)
    assert variant.sprint == variant.alias.startswith("sprint") == (variant.scheduler == "scm")
    assert (variant.flow_shift is None) == variant.sprint
    assert set(variant.download_bytes) == {"transformer", "vae", "text_encoder", "tokenizer"}


def test_defaults_that_differ() -> None:
    assert VARIANTS["sana-1.6b-4k"].flow_shift == 6.0
    assert VARIANTS["sana-1.6b-2k"].flow_shift == 3.0
    assert VARIANTS["sprint-1.6b"].steps == 2
    assert VARIANTS["sana-0.6b"].precision == "fp16"


@pytest.mark.parametrize(
    ("name", "alias", "repo"),
    [
        ("sana-0.6b", "sana-0.6b", "Sana_600M_1024px_diffusers"),
        (" SANA-1.6B ", "sana-1.6b", "Sana_1600M_1024px_BF16_diffusers"),
        (f"{OWNER}/sana_600m_512px_DIFFUSERS", "sana-0.6b-512", "Sana_600M_512px_diffusers"),
        (f"{OWNER}/SANA1.5_4.8B_1024px", "sana-1.5-4.8b", "SANA1.5_4.8B_1024px_diffusers"),
        (f"{OWNER}/Sana_1600M_1024px_diffusers", "sana-1.6b-fp16", "Sana_1600M_1024px_diffusers"),
        (f"{OWNER}/Sana_1600M_512px", "sana-1.6b-512", "Sana_1600M_512px_diffusers"),
    ],
)
def test_find_variant(name: str, alias: str, repo: str) -> None:
    variant = find_variant(name)
    assert variant is not None
    assert (variant.alias, variant.repo) == (alias, f"{OWNER}/{repo}")


@pytest.mark.parametrize("name", ["", "sana", "nv/other", "Sana_600M_1024px_diffusers"])
def test_unknown_names(name: str) -> None:
    assert find_variant(name) is None


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("sana-06b", "sana-0.6b"),
        ("Sana_1.6b", "sana-1.6b"),
        ("sana-1.6b-4096", "sana-1.6b-4k"),
        ("sprint-1.6", "sprint-1.6b"),
        (f"{OWNER}/Sana_600M_1024px-diffusers", f"{OWNER}/Sana_600M_1024px_diffusers"),
        ("stable-diffusion-xl", None),
        ("", None),
    ],
)
def test_suggest(name: str, meant: str | None) -> None:
    assert suggest(name) == meant


def test_a_pth_file_is_recognised_by_its_structure() -> None:
    for variant in VARIANTS.values():
        found = match_structure(
            inner_dim=variant.structure.inner_dim,
            num_layers=variant.structure.num_layers,
            qk_norm=variant.structure.qk_norm is not None,
            guidance_embeds=variant.sprint,
            sample_size=variant.structure.sample_size,
        )
        # The first guess has this very structure; sana-1.6b and its fp16 sister share one.
        assert found[0].structure == variant.structure
        assert variant.alias in [v.alias for v in found]


def test_a_pruned_fine_tune_finds_the_model_it_came_from() -> None:
    found = match_structure(inner_dim=2240, num_layers=12, qk_norm=True, guidance_embeds=False)
    assert found[0].alias == "sana-1.5-1.6b"


def test_the_table_loads_without_anything_heavy() -> None:
    code = "import sys, sana_cli.config.variants, sana_cli.checkpoints.file_selection; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "huggingface_hub", "safetensors"} & set(run.stdout.split())
