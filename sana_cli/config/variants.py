"""The published Sana text-to-image models: where they live and the settings they were made for.

Data only. Precision is a property of the weights, not a wish: fp16 models turn to garbage in bf16
and bf16 models overflow in fp16. fp32 suits all of them.
"""

from dataclasses import dataclass, replace
from typing import Literal

from sana_cli.text import closest

_OWNER = "Efficient-Large-Model"
_LICENSE = "NVIDIA License (NSCL v2-custom) and the Gemma Terms of Use"
# Sizes on the hub (bytes): bf16 Gemma-2-2b without its head, fp32 DC-AE, tokenizer.json and friends.
_SHARED_BYTES = {"vae": 1_249_000_000, "text_encoder": 5_229_000_000, "tokenizer": 34_000_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """The transformer's shape, under the field names of `transformer/config.json`.

    It completes the config that the tensors of a `.pth` file alone do not show.
    """

    num_attention_heads: int
    attention_head_dim: int = 32
    num_layers: int
    num_cross_attention_heads: int
    cross_attention_head_dim: int
    cross_attention_dim: int
    qk_norm: str | None = None
    guidance_embeds: bool = False
    sample_size: int  # native side in latent positions of 32 pixels
    interpolation_scale: float | None = None

    @property
    def inner_dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A published model with its recommended settings."""

    alias: str
    repo: str  # in the diffusers layout
    weight_variant: Literal["fp16", "bf16"] | None  # of the transformer; None: the plain file
    precision: Literal["fp16", "bf16"]  # what the transformer was trained for
    native_size: int  # pixels, square
    steps: int = 20
    guidance: float = 4.5
    scheduler: Literal["flow-dpm", "scm"] = "flow-dpm"
    flow_shift: float | None = 3.0
    structure: Structure
    transformer_bytes: int  # on disk, in the file we prefer
    license: str = _LICENSE

    @property
    def sprint(self) -> bool:
        """Guidance is an input of the network; there is no unconditional branch."""
        return self.structure.guidance_embeds

    @property
    def license_url(self) -> str:
        return f"https://huggingface.co/{self.repo}"

    @property
    def download_bytes(self) -> dict[str, int]:
        """Approximate bytes by component, for a first download."""
        return {"transformer": self.transformer_bytes, **_SHARED_BYTES}


_QK_NORM = "rms_norm_across_heads"
_SMALL = Structure(
    num_attention_heads=36, num_layers=28, num_cross_attention_heads=16,
    cross_attention_head_dim=72, cross_attention_dim=1152, sample_size=32,
)  # fmt: skip
_LARGE = Structure(
    num_attention_heads=70, num_layers=20, num_cross_attention_heads=20,
    cross_attention_head_dim=112, cross_attention_dim=2240, sample_size=32,
)  # fmt: skip
# Parameters times two bytes.
_SMALL_BYTES, _LARGE_BYTES = 1_183_500_000, 3_208_900_000

_SANA_600M = Variant(
    alias="sana-0.6b", repo=f"{_OWNER}/Sana_600M_1024px_diffusers", weight_variant="fp16",
    precision="fp16", native_size=1024, structure=_SMALL, transformer_bytes=_SMALL_BYTES,
)  # fmt: skip
_SANA_1600M = Variant(
    alias="sana-1.6b", repo=f"{_OWNER}/Sana_1600M_1024px_BF16_diffusers", weight_variant="bf16",
    precision="bf16", native_size=1024, structure=_LARGE, transformer_bytes=_LARGE_BYTES,
)  # fmt: skip
_SANA_1600M_FP16 = replace(
    _SANA_1600M, alias="sana-1.6b-fp16", repo=f"{_OWNER}/Sana_1600M_1024px_MultiLing_diffusers",
    weight_variant="fp16", precision="fp16",
)  # fmt: skip
_SANA_15_1600M = replace(
    _SANA_1600M, alias="sana-1.5-1.6b", repo=f"{_OWNER}/SANA1.5_1.6B_1024px_diffusers",
    weight_variant=None, structure=replace(_LARGE, qk_norm=_QK_NORM), transformer_bytes=3_209_300_000,
)  # fmt: skip
_SPRINT_600M = Variant(
    alias="sprint-0.6b", repo=f"{_OWNER}/Sana_Sprint_0.6B_1024px_diffusers", weight_variant=None,
    precision="bf16", native_size=1024, steps=2, scheduler="scm", flow_shift=None,
    structure=replace(_SMALL, qk_norm=_QK_NORM, guidance_embeds=True), transformer_bytes=1_187_000_000,
)  # fmt: skip

_ALL = (
    _SANA_600M,
    replace(
        _SANA_600M, alias="sana-0.6b-512", repo=f"{_OWNER}/Sana_600M_512px_diffusers",
        native_size=512, structure=replace(_SMALL, sample_size=16),
    ),
    _SANA_1600M,
    _SANA_1600M_FP16,  # for GPUs that have fp16 and no bf16
    replace(
        _SANA_1600M_FP16, alias="sana-1.6b-512", repo=f"{_OWNER}/Sana_1600M_512px_MultiLing_diffusers",
        native_size=512, structure=replace(_LARGE, sample_size=16),
    ),
    replace(
        _SANA_1600M, alias="sana-1.6b-2k", repo=f"{_OWNER}/Sana_1600M_2Kpx_BF16_diffusers",
        native_size=2048, structure=replace(_LARGE, sample_size=64, interpolation_scale=1.0),
    ),
    replace(
        _SANA_1600M, alias="sana-1.6b-4k", repo=f"{_OWNER}/Sana_1600M_4Kpx_BF16_diffusers",
        native_size=4096, flow_shift=6.0,
        structure=replace(_LARGE, sample_size=128, interpolation_scale=2.0),
    ),
    _SANA_15_1600M,
    replace(
        _SANA_15_1600M, alias="sana-1.5-4.8b", repo=f"{_OWNER}/SANA1.5_4.8B_1024px_diffusers",
        structure=replace(_LARGE, num_layers=60, qk_norm=_QK_NORM), transformer_bytes=9_443_700_000,
    ),
    _SPRINT_600M,
    replace(
        _SPRINT_600M, alias="sprint-1.6b", repo=f"{_OWNER}/Sana_Sprint_1.6B_1024px_diffusers",
        structure=replace(_LARGE, qk_norm=_QK_NORM, guidance_embeds=True),
        transformer_bytes=3_220_500_000,
    ),
)  # fmt: skip

VARIANTS: dict[str, Variant] = {variant.alias: variant for variant in _ALL}

# English-only sisters: other weights, the same settings.
_SISTERS = {
    f"{_OWNER}/Sana_1600M_512px_diffusers": "sana-1.6b-512",
    f"{_OWNER}/Sana_1600M_1024px_diffusers": "sana-1.6b-fp16",
}


def find_variant(name: str) -> Variant | None:
    """By alias or repo id, whatever the case. A `.pth` repo's id finds its diffusers twin."""
    wanted = name.strip().lower()
    sisters = [replace(VARIANTS[alias], repo=repo) for repo, alias in _SISTERS.items()]
    for variant in (*VARIANTS.values(), *sisters):
        repo = variant.repo.lower()
        if wanted in (repo, repo.removesuffix("_diffusers")):
            return variant
    return VARIANTS.get(wanted)


def match_structure(
    *,
    inner_dim: int,
    num_layers: int,
    qk_norm: bool,
    guidance_embeds: bool,
    sample_size: int | None = None,
) -> list[Variant]:
    """The variants that a `.pth` file can be, best guess first.

    `sample_size` is the side of the stored `pos_embed`; without it several native sizes match. Depth
    only ranks: a fine-tune with fewer blocks still uses the parts of the model it came from.
    """
    matches = [
        variant
        for variant in VARIANTS.values()
        if variant.structure.inner_dim == inner_dim
        and (variant.structure.qk_norm is not None) == qk_norm
        and variant.structure.guidance_embeds == guidance_embeds
        and sample_size in (None, variant.structure.sample_size)
    ]
    return sorted(matches, key=lambda variant: abs(variant.structure.num_layers - num_layers))


def suggest(name: str) -> str | None:
    """The alias or repo id that a mistyped name probably meant."""
    spellings = {alias: alias for alias in VARIANTS}
    spellings |= {variant.repo.lower(): variant.repo for variant in VARIANTS.values()}
    meant = closest(name.strip().lower(), spellings)
    return spellings[meant] if meant else None
