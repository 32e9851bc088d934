"""The functions that the engine is written in: each of `quant.kernels`, or what defines it in plain PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from quant.kernels import reference
from quant.kernels.bias_activation import bias_activation
from quant.kernels.conv3x3_w8a8 import conv3x3_w8a8
from quant.kernels.cross_attention import cross_attention, cross_attention_w8a8
from quant.kernels.depthwise3x3_glu import depthwise3x3_glu
from quant.kernels.join_phases import join_phases
from quant.kernels.layer_norm_modulate import layer_norm_modulate, layer_norm_modulate_quantize
from quant.kernels.linear_f8a8 import linear_f8a8
from quant.kernels.linear_w8a8 import linear_w8a8, linear_w8a8_on_load
from quant.kernels.quantize_map import quantize_map
from quant.kernels.quantize_per_token import quantize_per_token
from quant.kernels.relu_linear_attention import relu_linear_attention
from quant.kernels.rms_norm import rms_norm
from quant.kernels.softcap_attention import softcap_attention


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """Functions of the same names and signatures; one launch each on a device, or two where they say so."""

    layer_norm_modulate: Callable[..., Any] = layer_norm_modulate
    layer_norm_modulate_quantize: Callable[..., Any] = layer_norm_modulate_quantize
    relu_linear_attention: Callable[..., Any] = relu_linear_attention
    depthwise3x3_glu: Callable[..., Any] = depthwise3x3_glu
    rms_norm: Callable[..., Any] = rms_norm
    quantize_per_token: Callable[..., Any] = quantize_per_token
    linear_w8a8: Callable[..., Any] = linear_w8a8
    linear_w8a8_on_load: Callable[..., Any] = linear_w8a8_on_load
    linear_f8a8: Callable[..., Any] = linear_f8a8
    cross_attention: Callable[..., Any] = cross_attention
    cross_attention_w8a8: Callable[..., Any] = cross_attention_w8a8
    conv3x3_w8a8: Callable[..., Any] = conv3x3_w8a8
    quantize_map: Callable[..., Any] = quantize_map
    bias_activation: Callable[..., Any] = bias_activation
    join_phases: Callable[..., Any] = join_phases
    softcap_attention: Callable[..., Any] = softcap_attention


NAMES = tuple(field.name for field in fields(Kernels))
_MAPS = ("conv3x3_w8a8", "quantize_map", "bias_activation", "join_phases")
_TOKENS = (
    "layer_norm_modulate",
    "layer_norm_modulate_quantize",
    "cross_attention",
    "cross_attention_w8a8",
)
OF_FLOAT8 = ("linear_f8a8",)  # of models that hold such weights
_OF_GEMMA = ("softcap_attention",)
OF_TEXT_ENCODER = ("rms_norm", *_OF_GEMMA)
OF_TRANSFORMER = tuple(name for name in NAMES if name not in (*_MAPS, *OF_FLOAT8, *_OF_GEMMA))
OF_DECODER = tuple(name for name in NAMES if name not in (*_TOKENS, *OF_FLOAT8, *_OF_GEMMA))
TRITON = Kernels()
REFERENCE = Kernels(**{name: getattr(reference, name) for name in NAMES})
