"""Frozen descriptions of the networks, as plain values that go to JSON unchanged.

Field names are those of the published `config.json` files. Files on the hub may omit the newer
fields; a missing field means its default here. No torch: the command line reads these.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from quant.dtypes import PRECISIONS
from sana_cli.config.choices import MOST_LAYERS, ControlOrder, SchedulerName, is_drawable

LATENT_CHANNELS = 32
LATENT_PX = 32  # pixels along each side of a latent position
_LARGEST = 10**6  # of any number in a configuration; larger ones are damage or mischief


def _known_fields(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the fields that `cls` declares, lists as tuples; others do not affect inference.

    ValueError for a value of another type, and for numbers that no model has.
    """
    hints = get_type_hints(cls)
    known = {k: _freeze(v) for k, v in values.items() if k in hints and v is not None}
    for name, value in known.items():
        if not _fits(value, hints[name]):
            raise ValueError(f"{name} cannot be {str(values[name])[:80]!r}")
    return known


class _FromDict:
    """A description whose fields are those of a `config.json`."""

    __slots__ = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the fields that are known; the others do not affect inference. ValueError as for `_known_fields`."""
        return cls(**_known_fields(cls, values))


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _freeze(item) for key, item in value.items()}
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a JSON value is of the annotated kind, and a number of a sane size."""
    if isinstance(hint, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, dict) and all(_fits(item, arguments[1]) for item in value.values())
    if hint is int:
        return type(value) is int and 0 <= value <= _LARGEST
    if hint is float:
        return type(value) in (int, float) and isfinite(value) and abs(value) <= _LARGEST
    return type(value) is hint


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig(_FromDict):
    """Sana's Linear-DiT (arXiv 2410.10629, section 2.3); the defaults are those of Sana-1.6B."""

    in_channels: int = LATENT_CHANNELS
    out_channels: int = LATENT_CHANNELS
    num_attention_heads: int = 70
    attention_head_dim: int = 32
    num_layers: int = 20
    num_cross_attention_heads: int = 20
    cross_attention_head_dim: int = 112
    cross_attention_dim: int = 2240
    caption_channels: int = 2304
    mlp_ratio: float = 2.5
    attention_bias: bool = False
    sample_size: int = 32  # native height in latent positions of 32 pixels
    patch_size: int = 1
    norm_eps: float = 1e-6
    interpolation_scale: float | None = None  # set: fixed 2-D sin-cos positions (2K and 4K)
    guidance_embeds: bool = False  # Sprint: guidance is an input instead of a second branch
    guidance_embeds_scale: float = 0.1
    qk_norm: str | None = None
    timestep_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.qk_norm not in (None, "rms_norm_across_heads"):
            raise ValueError(f"qk_norm {self.qk_norm!r} is not one that Sana uses")
        if self.patch_size != 1:
            raise ValueError(f"patch_size {self.patch_size}: every Sana model uses 1")
        cross = self.num_cross_attention_heads * self.cross_attention_head_dim
        if cross != self.inner_dim or self.cross_attention_dim != self.inner_dim:
            raise ValueError(
                f"cross-attention width {cross} (context {self.cross_attention_dim}) "
                f"differs from the model's width {self.inner_dim}"
            )
        sizes = (
            self.num_layers, self.in_channels, self.out_channels, self.sample_size,
            self.caption_channels, self.inner_dim, self.ff_dim,
        )  # fmt: skip
        if min(sizes) < 1 or self.norm_eps <= 0 or self.num_layers > MOST_LAYERS:
            raise ValueError("sizes must be positive and sane")
        if self.interpolation_scale is not None and self.interpolation_scale <= 0:
            raise ValueError(f"interpolation_scale {self.interpolation_scale} must be positive")

    @property
    def inner_dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def ff_dim(self) -> int:
        """Width of the gated half of the Mix-FFN; its first convolution makes twice that."""
        return int(self.mlp_ratio * self.inner_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlNetConfig:
    """A ControlNet's branch (`models/controlnet.py`), as diffusers' `SanaControlNetModel` describes it."""

    blocks: TransformerConfig  # of the copied blocks; `num_layers` of them
    order: ControlOrder = (
        ControlOrder.DIFFUSERS
    )  # where the branch begins, and where its residuals are added

    def __post_init__(self) -> None:
        b = self.blocks
        if b.guidance_embeds:
            raise ValueError("guidance_embeds: no ControlNet of Sana has them")
        if b.interpolation_scale is not None and self.order is ControlOrder.DIFFUSERS:
            raise ValueError("interpolation_scale: no ControlNet of diffusers' order has positions")

    def require_base(self, base: TransformerConfig) -> None:
        """ValueError unless the branch fits this transformer."""
        for name in ("in_channels", "inner_dim", "caption_channels"):
            ours, theirs = getattr(self.blocks, name), getattr(base, name)
            if ours != theirs:
                raise ValueError(f"{name} is {ours}, the transformer's {theirs}")
        if self.blocks.num_layers >= base.num_layers:
            raise ValueError(
                f"{self.blocks.num_layers} blocks for a transformer of {base.num_layers}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        blocks = TransformerConfig.from_dict({"num_layers": 7, **values})
        order = values.get("control_order", ControlOrder.DIFFUSERS.value)
        if order not in list(ControlOrder):
            raise ValueError(f"control_order {order!r} is neither trained nor diffusers")
        return cls(blocks=blocks, order=ControlOrder(order))


HED_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions
ACTIVATIONS = ("silu", "relu", "relu6", "gelu")  # that a DC-AE file may name


@dataclass(frozen=True, slots=True, kw_only=True)
class DCAEConfig(_FromDict):
    """Deep-compression autoencoder (arXiv 2410.10733); the defaults are those of f32c32 for Sana."""

    in_channels: int = 3
    latent_channels: int = LATENT_CHANNELS
    attention_head_dim: int = 32
    encoder_block_types: str | tuple[str, ...] = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    decoder_block_types: str | tuple[str, ...] = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    encoder_block_out_channels: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    decoder_block_out_channels: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    encoder_layers_per_block: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    decoder_layers_per_block: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    encoder_qkv_multiscales: tuple[tuple[int, ...], ...] = ((), (), (), (5,), (5,), (5,))
    decoder_qkv_multiscales: tuple[tuple[int, ...], ...] = ((), (), (), (5,), (5,), (5,))
    downsample_block_type: str = "Conv"
    upsample_block_type: str = "interpolate"
    decoder_norm_types: str | tuple[str, ...] = "rms_norm"
    decoder_act_fns: str | tuple[str, ...] = "silu"
    encoder_out_shortcut: bool = True
    decoder_in_shortcut: bool = True
    decoder_conv_act_fn: str = "relu"
    scaling_factor: float = 0.41407

    def __post_init__(self) -> None:
        stages = len(self.encoder_block_out_channels)
        per_stage = (
            self.decoder_block_out_channels, self.encoder_layers_per_block,
            self.decoder_layers_per_block, self.encoder_qkv_multiscales,
            self.decoder_qkv_multiscales, self.encoder_stage_types, self.decoder_stage_types,
        )  # fmt: skip
        if any(len(values) != stages for values in per_stage):
            raise ValueError(f"per-stage settings must have {stages} entries each")
        unknown = {*self.encoder_stage_types, *self.decoder_stage_types} - {
            "ResBlock",
            "EfficientViTBlock",
        }
        if unknown:
            raise ValueError(f"unknown DC-AE block type {sorted(unknown)[0]!r}")
        self._require_known(self._per_stage(self.decoder_norm_types), {"rms_norm"})
        self._require_known((*self.decoder_stage_acts, self.decoder_conv_act_fn), ACTIVATIONS)
        self._require_known((self.downsample_block_type,), {"Conv", "conv", "pixel_unshuffle"})
        self._require_known((self.upsample_block_type,), {"interpolate", "pixel_shuffle"})
        if self.scaling_factor <= 0 or self.attention_head_dim < 1:
            raise ValueError("scaling_factor and attention_head_dim must be positive")
        if max(*self.encoder_layers_per_block, *self.decoder_layers_per_block) > MOST_LAYERS:
            raise ValueError("no autoencoder has that many layers")
        for channels in (self.encoder_block_out_channels, self.decoder_block_out_channels):
            self._require_channels(channels)

    def _require_known(self, values: tuple[str, ...], known: Collection[str]) -> None:
        for value in values:
            if value not in known:
                raise ValueError(f"{value!r} is none of {', '.join(sorted(known))}")

    def _require_channels(self, channels: tuple[int, ...]) -> None:
        """Shortcuts repeat or average whole channels, so widths must divide each other."""
        if min(*channels, self.latent_channels) < 1 or channels[-1] % self.latent_channels:
            raise ValueError(f"widths {channels} do not fit {self.latent_channels} latent channels")
        for wide, narrow in zip(channels[1:], channels, strict=False):
            if 4 * narrow % wide:
                raise ValueError(f"width {wide} is not a divisor of 4 x {narrow}")

    def _per_stage(self, value: str | tuple[str, ...]) -> tuple[str, ...]:
        return (value,) * len(self.encoder_block_out_channels) if isinstance(value, str) else value

    @property
    def encoder_stage_types(self) -> tuple[str, ...]:
        return self._per_stage(self.encoder_block_types)

    @property
    def decoder_stage_types(self) -> tuple[str, ...]:
        return self._per_stage(self.decoder_block_types)

    @property
    def decoder_stage_acts(self) -> tuple[str, ...]:
        return self._per_stage(self.decoder_act_fns)

    @property
    def downscale(self) -> int:
        """Pixels per latent position along one axis: 32 for f32c32."""
        return int(2 ** (len(self.encoder_block_out_channels) - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyDecoderConfig(_FromDict):
    """A decoder of convolutions alone; the defaults are those of TAESANA (madebyollin/taesd).

    TAESANA reads latents as the transformer makes them, of unit variance, not divided by the scaling factor: the
    latents of its published encoder have a standard deviation of 0.94 to 1.04 on photographs (DC-AE's 2.4).
    """

    latent_channels: int = LATENT_CHANNELS
    widths: tuple[int, ...] = (256, 128, 64, 64, 64, 64)  # from 1/32 of the resolution upwards
    blocks: tuple[int, ...] = (3, 3, 3, 3, 3, 1)
    patch_size: int = 1  # pixels along each side that a position of the last stage makes
    input_scale: float = 1.0  # what latents of unit variance are multiplied by
    scaling_factor: float = 0.41407  # of the autoencoder whose latents it decodes

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.blocks):
            raise ValueError(f"{len(self.widths)} widths and {len(self.blocks)} block counts")
        if 2 ** (len(self.widths) - 1) * self.patch_size != LATENT_PX:
            raise ValueError(f"it does not make {LATENT_PX} pixels of a latent position")
        if min(*self.widths, self.latent_channels) < 1 or max(self.blocks) > MOST_LAYERS:
            raise ValueError("sizes must be positive and sane")
        if self.input_scale <= 0 or self.scaling_factor <= 0:
            raise ValueError("input_scale and scaling_factor must be positive")

    @property
    def downscale(self) -> int:
        """Pixels per latent position, along each axis."""
        return LATENT_PX


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSettings(_FromDict):
    """`sana.json`, an optional file of a model folder: what the layout has no place for."""

    steps: int | None = None
    guidance: float | None = None
    native_size: int | None = None  # pixels
    enhance: bool = True  # put the published instruction before the prompt
    precision: str | None = None  # what the transformer was trained in, if not as it is stored
    description: str = ""  # what the model can draw, one line
    vocabulary: Mapping[str, tuple[str, ...]] | None = None  # by group, where it is closed
    colours: str = ""  # the group of the words for colours, if only some things take them
    uncoloured: tuple[str, ...] = ()  # groups of those that do not

    def __post_init__(self) -> None:
        if self.steps is not None and not 1 <= self.steps <= 1000:
            raise ValueError(f"steps cannot be {self.steps}")
        if self.guidance is not None and not 0 <= self.guidance <= 100:
            raise ValueError(f"guidance cannot be {self.guidance}")
        size = self.native_size
        if size is not None and not is_drawable(size):
            raise ValueError(f"native_size cannot be {size}")
        words = [word for group in (self.vocabulary or {}).values() for word in group]
        if self.vocabulary is not None and not all(word.strip() for word in words or [""]):
            raise ValueError("a vocabulary has words, and none of them is empty")
        if not {*self.uncoloured, self.colours} <= {*(self.vocabulary or {}), ""}:
            raise ValueError("colours and uncoloured name groups of the vocabulary")
        if self.precision not in (None, *PRECISIONS):
            raise ValueError(f"precision must be fp32, bf16 or fp16, not {self.precision!r}")

    def knows_any_thing(self, prompt: str) -> bool:
        """Return whether a prompt names a thing of the vocabulary, not only colours and sizes; true
        without one.
        """
        groups = self.vocabulary or {}
        things = {
            word
            for group in groups
            if group in (*self.uncoloured, "shapes")
            for word in groups[group]
        }
        words = re.findall(r"\w+", prompt.lower())
        return not things or any({word, word.removesuffix("s")} & things for word in words)

    def colours_in_vain(self, prompt: str) -> list[tuple[str, str]]:
        """List the colours that a prompt gives to things drawn in one colour only: [("blue", "apple")]."""
        groups = self.vocabulary or {}
        things = {word for group in self.uncoloured for word in groups[group]}
        return [
            (colour, thing)
            for colour, thing in pairwise(re.findall(r"\w+", prompt.lower()))
            if colour in groups.get(self.colours, ()) and {thing, thing.removesuffix("s")} & things
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDefaults:
    """Settings of a run that names none, as the model was published with."""

    steps: int
    guidance_scale: float
    scheduler: SchedulerName
    flow_shift: float
    native_size: int  # pixels
    enhance: bool  # put the published instruction before the prompt

    def __post_init__(self) -> None:
        if not 0.01 <= self.flow_shift <= 1000:
            raise ValueError(f"flow shift cannot be {self.flow_shift}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemma2Config:
    """Gemma-2's trunk (arXiv 2408.00118); the defaults are those of Gemma-2-2b."""

    vocab_size: int = 256000
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    query_pre_attn_scalar: float = 256
    attn_logit_softcapping: float | None = 50.0
    attention_bias: bool = False
    hidden_activation: str = "gelu_pytorch_tanh"
    layer_types: tuple[str, ...] = ()  # empty: sliding and full attention take turns
    sliding_window: int = 4096  # tokens
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        sizes = (
            self.vocab_size, self.hidden_size, self.intermediate_size, self.num_hidden_layers,
            self.num_attention_heads, self.num_key_value_heads, self.head_dim, self.sliding_window,
        )  # fmt: skip
        positive = (self.query_pre_attn_scalar, self.rms_norm_eps, self.rope_theta)
        if min(sizes) < 1 or min(positive) <= 0 or self.num_hidden_layers > MOST_LAYERS:
            raise ValueError("sizes must be positive and sane")
        if self.attn_logit_softcapping is not None and self.attn_logit_softcapping <= 0:
            raise ValueError("attn_logit_softcapping must be positive")
        if self.num_attention_heads % self.num_key_value_heads or self.head_dim % 2:
            raise ValueError(
                f"{self.num_attention_heads} heads of width {self.head_dim} "
                f"do not share {self.num_key_value_heads} key-value heads"
            )
        if self.hidden_activation != "gelu_pytorch_tanh":
            raise ValueError(f"hidden_activation {self.hidden_activation!r} is not Gemma-2's")
        if len(self.attention) != self.num_hidden_layers:
            raise ValueError(f"layer_types must have {self.num_hidden_layers} entries")
        unknown = {*self.attention} - {"sliding_attention", "full_attention"}
        if unknown:
            raise ValueError(f"unknown layer type {sorted(unknown)[0]!r}")

    @property
    def attention(self) -> tuple[str, ...]:
        """The kind of every layer's attention."""
        pair = ("sliding_attention", "full_attention")
        return self.layer_types or tuple(pair[i % 2] for i in range(self.num_hidden_layers))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        if values.get("model_type") != "gemma2":
            raise ValueError(f"text encoder of type {values.get('model_type')!r}; Sana's is gemma2")
        # Newer files keep rotary settings apart; none of Gemma-2 stretches its positions.
        rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
        if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
            raise ValueError(f"rotary positions of another kind: {str(rope)[:80]}")
        known = _known_fields(cls, {**values, **rope})
        if values.get("attn_logit_softcapping", 0) is None:  # said, so it is not the default
            known["attn_logit_softcapping"] = None
        return cls(**known)
