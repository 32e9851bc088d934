"""Named recipes: which layers of Sana are quantized, and how. Data only, no torch.

What stays in floating point, and why, follows the paper (arXiv 2410.10629, section 4) and SVDQuant
(arXiv 2411.05007): norms and linear attention's sums are no layers and stay by themselves; keys and
values of the text are computed once per prompt and sensitive; the first and last layers and the
timestep's are few and carry every value.
"""

from dataclasses import dataclass

from quant.config import QuantConfig, Recipe, Rule
from quant.schemes import SCHEMES, examples_for

# component -> scheme, by the recipe's name
RECIPES: dict[str, dict[str, str]] = {
    "w8a8": {"transformer": "w8a8", "vae": "w8a16", "text_encoder": "w4a16-g64"},
    "f8a8": {"transformer": "f8a8", "vae": "w8a16", "text_encoder": "w4a16-g64"},
    "int4": {"transformer": "w4a16-g64", "vae": "w8a16", "text_encoder": "w4a16-g64"},
    "mixed": {"transformer": "w4a16-g64", "vae": "w8a16", "text_encoder": "w4a16-g64"},
}


# recipe -> scheme of the more sensitive half of the transformer's layers, found by calibration
KEPT_HALF = {"mixed": "w8a8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRule:
    """The rule that keeps sensitive transformer layers in more bits: exactly one of three ways to
    choose them.
    """

    config: QuantConfig | None  # None: floating point
    count: int | None = None
    share: float = 0.0
    budget_db: float | None = None  # as many as it takes for this predicted SQNR of the latents

    @property
    def reason(self) -> str:
        return "among the most sensitive, kept by calibration"


def keep_rule(
    recipe: str, transformer: str, *, count: int | None, budget_db: float | None
) -> KeepRule | None:
    """The rule that a recipe and the options `--keep` and `--budget-db` make, if any.

    Layers of 4-bit weights are kept in 8 bits, those of 8-bit weights in floating point.
    """
    scheme = QuantConfig.parse(transformer)
    half = KEPT_HALF.get(recipe)
    if scheme is None or (count is None and budget_db is None and half is None):
        return None
    kept = QuantConfig.parse(half or "w8a16") if scheme.scheme.coarse else None
    return KeepRule(config=kept, count=count, share=0.5 if half else 0.0, budget_db=budget_db)


_KEPT = {
    "transformer": {
        "*.attn2.to_k": "text keys: once per prompt, sensitive",
        "*.attn2.to_v": "text values: once per prompt, sensitive",
        "patch_embed.*": "first layer",
        "time_embed.*": "timestep: one row a step, carries the modulation",
        "caption_projection.*": "text projection: once per prompt, sensitive",
        "proj_out": "last layer",
    },
    "vae": {
        "*coder.conv_in*": "first layer",
        "*coder.conv_out*": "last layer",
    },
    "text_encoder": {},
}
_KEPT["controlnet"] = {
    **{pattern: why for pattern, why in _KEPT["transformer"].items() if pattern != "proj_out"},
    "input_block": "first layer of the branch: once per picture",
    "controlnet_blocks.*": "a block's last layer: its error is added to the transformer's tokens",
}

_REST = {
    "transformer": "transformer_blocks.*", "controlnet": "transformer_blocks.*", "vae": "*",
    "text_encoder": "layers.*",
}  # fmt: skip


def schemes_for(component: str) -> tuple[str, ...]:
    """Name the schemes that suit a component, with a usual group size."""
    if component == "text_encoder":
        return tuple(scheme.example for scheme in SCHEMES if scheme.weight_only)
    return examples_for("conv" if component == "vae" else "linear")


def component_recipe(component: str, scheme: str) -> Recipe:
    """The rules for one component. ValueError for an unknown scheme or one that does not suit it."""
    config = QuantConfig.parse(scheme)
    if config is None:
        return Recipe((Rule(pattern="*", config=None, reason="scheme none"),))
    if config.smooth or config.static_act:
        raise ValueError("calibration decides about -smooth and -static; write the scheme plainly")
    suiting = schemes_for(component)
    if config.scheme.example not in suiting and component == "vae":
        known = " or ".join(suiting)
        raise ValueError(f"the autoencoder's 3x3 convolutions are stored as {known}, not {scheme}")
    if config.scheme.example not in suiting:
        raise ValueError("the text encoder runs once per prompt: weight-only schemes suit it")
    kept = tuple(
        Rule(pattern=pattern, config=None, reason=reason)
        for pattern, reason in _KEPT[component].items()
    )
    rules = (*kept, Rule(pattern=_REST[component], config=config))
    if component == "text_encoder":
        table = QuantConfig(weight_bits=8, act_bits=16)
        rules = (*rules, Rule(pattern="embed_tokens", config=table))
    return Recipe(rules)
