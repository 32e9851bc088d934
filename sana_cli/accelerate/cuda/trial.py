"""Compare each fused kernel with its definition, on the device at hand, before it draws anything."""

# M rows (tokens), D width, E head width

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quant.backends.attempt import Failure, attempt
from quant.backends.verdicts import Passing, remembered
from quant.kernels.depthwise3x3_glu import repack
from quant.primitives import FLOAT8, quantize_per_channel, quantize_per_token
from sana_cli.accelerate.cuda.kernels import NAMES, REFERENCE, TRITON, Kernels

_VERSION = 4  # of the trials; counts up when kernels change
_SIDE = 12  # pixels of the map that they run on
_CHANNELS = 32  # of the maps of convolutions
# Of the reference's norm: rounding to the type, and sums in another order. A wrong row would be above 0.05.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}
_QUANTIZING = (
    "layer_norm_modulate_quantize", "quantize_per_token", "linear_w8a8_on_load", "cross_attention_w8a8",
    "quantize_map",
)  # fmt: skip
# Where a kernel quantizes, an fp32 rounding moves a few of 100,000 values to the next integer, 4e-5 of the norm each.
_QUANTIZED = 2e-3
_AT_LEAST = dict.fromkeys(_QUANTIZING, _QUANTIZED) | {
    "linear_f8a8": 1e-2
}  # its product writes bf16

Notice = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Widths:
    """Channels of a model that a kernel's program holds or walks over."""

    inner: int
    hidden: int  # of the feed-forward, after its gate
    head: int
    text_head: int  # of cross-attention


def trusted_kernels(
    widths: Widths,
    dtype: torch.dtype,
    device: torch.device,
    *,
    verdicts: Path | None,
    notice: Notice,
    candidates: Kernels = TRITON,
    definitions: Kernels = REFERENCE,
    names: Sequence[str] = NAMES,
) -> Kernels:
    """The candidates of these names that agree with their definitions on this device, and the definitions of the others."""
    trusted = definitions
    for name in names:
        kind = f"engine {_VERSION} {name} {dtype} {widths}"

        def decide(name: str = name) -> str:
            return trial(name, candidates, widths, dtype, device, definitions)

        found = remembered(kind, device, decide, verdicts=verdicts)
        if found == "right":
            trusted = replace(trusted, **{name: getattr(candidates, name)})
        else:
            notice(f"the kernel {name} {found} on this device; plain PyTorch runs instead")
    return trusted


def trial(
    name: str,
    candidates: Kernels,
    widths: Widths,
    dtype: torch.dtype,
    device: torch.device,
    definitions: Kernels = REFERENCE,
) -> str:
    """Try a kernel; return what is wrong with it, or "right"."""
    with exact_convolutions():
        expected = _results(getattr(definitions, name), _arguments(name, widths, dtype, device))

    def error() -> float:
        results = _results(getattr(candidates, name), _arguments(name, widths, dtype, device))
        return max(map(relative_error, results, expected))

    tolerance = max(TOLERANCE[dtype], _AT_LEAST.get(name, 0.0))
    return verdict(attempt(error), tolerance)


def verdict(error: float | Failure, tolerance: float) -> str:
    """Return "right", or what is wrong. A failure is not kept: a compiler may be there tomorrow."""
    if isinstance(error, Failure):
        return Passing(f"fails ({error.reason})")
    return "right" if error <= tolerance else f"is wrong by {error:.2g}"


def exact_convolutions() -> AbstractContextManager[None]:
    """fp32 convolutions of fp32 numbers: torch lets cuDNN round them to tf32, 11 bits, which kernels here do not."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def relative_error(out: Tensor, expected: Tensor) -> float:
    """Return the error relative to the norm of `expected`; infinite if it is not a number."""
    error = float((out.float() - expected.float()).norm() / expected.float().norm())
    return error if error == error else float("inf")


def _results(kernel: Callable[..., Any], arguments: dict[str, Any]) -> list[Tensor]:
    """List all outputs of a kernel; int8 rows or pictures with their scales as the floats they represent."""
    out = kernel(**arguments)
    if not isinstance(out, Tensor):
        q, scale = out
        out = q.float() * scale.view(-1, *[1] * (q.ndim - 1))
    results = [out]
    return results + [arguments[name] for name in arguments if name == "out_largest"]


def _arguments(
    name: str, widths: Widths, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """Return inputs to try a kernel on: a small picture in the model's widths, the same for every call."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    M, D, hidden = _SIDE * _SIDE, widths.inner, widths.hidden
    x = random(M, D).to(dtype)
    q, scale = quantize_per_token(x)
    weight, weight_scale = quantize_per_channel(random(D, D))
    taps, taps_scale = quantize_per_channel(random(_CHANNELS, 9 * _CHANNELS))
    heads = random(1, M, 3 * D).to(dtype).unflatten(-1, (-1, widths.head))
    rows = {"shift": random(1, D), "scale": random(1, D), "eps": 1e-6}
    gate, bias, addend = random(1, D), random(D), random(1, D)
    largest, zeros = x.float().abs().amax(dim=1), torch.zeros(M, device=device)
    text = (1, D // widths.text_head, 40, widths.text_head)  # keys and values (B, H, L, E)
    attention = {
        "keys": random(*text).to(dtype), "values": random(*text).to(dtype), "out_largest": zeros,
    }  # fmt: skip
    int8_weight = {"weight": weight, "weight_scale": weight_scale, "bias": bias}
    arguments: dict[str, dict[str, Any]] = {
        "layer_norm_modulate": {"x": x, "branch": x.clone(), "gate": gate} | rows,
        "layer_norm_modulate_quantize": {
            "x": x, "branch": x[M // 2 :].clone(), "branch_first": M // 2, "addend": addend,
        } | rows,
        "relu_linear_attention": dict(zip("qkv", heads.chunk(3, dim=2), strict=True)),
        "depthwise3x3_glu": {
            "x": random(1, _SIDE, _SIDE, 2 * hidden).to(dtype),
            "weight": repack(random(2 * hidden, 1, 3, 3)),
            "bias": random(2 * hidden),
            "activation": "silu",
        },
        "rms_norm": {"x": x[:, None], "weight": random(1, D), "eps": 1e-5},
        "quantize_per_token": {"x": x, "branch": x.clone(), "gate": gate},
        "linear_w8a8": {
            "q": q, "scale": scale, "gate": gate, "residual": x, "out": x, "out_largest": zeros,
        } | int8_weight,
        "linear_f8a8": {
            "q": x.to(FLOAT8), "scale": scale, "weight": random(D, D).to(FLOAT8),
            "weight_scale": weight_scale, "bias": bias, "out_dtype": dtype,
        },
        "linear_w8a8_on_load": {"x": x, "largest": largest, "out_dtype": dtype} | int8_weight,
        "conv3x3_w8a8": {
            "q": q[:, :_CHANNELS].contiguous().view(1, _SIDE, _SIDE, _CHANNELS),
            "act_scale": scale[:1], "weight": taps.view(-1, 3, 3, _CHANNELS),
            "weight_scale": taps_scale, "activation": "silu", "out_dtype": dtype,
            "out_largest": zeros[:1].clone(),
        },
        "quantize_map": {"x": x.view(1, _SIDE, _SIDE, D)},
        "bias_activation": {"x": x, "bias": bias, "activation": "silu"},
        "join_phases": {
            "phases": random(4, 1, _SIDE + 1, _SIDE + 1, _CHANNELS).to(dtype).unbind(),
            "bias": random(_CHANNELS), "shortcut": random(1, _SIDE, _SIDE, 2 * _CHANNELS).to(dtype),
        },
        "softcap_attention": _softcapped(random, widths.text_head, dtype),
        "cross_attention": {"q": x} | attention,
        "cross_attention_w8a8": {"x": x, "largest": largest} | int8_weight | attention,
    }  # fmt: skip
    return arguments[name]


def _softcapped(random: Callable[..., Tensor], E: int, dtype: torch.dtype) -> dict[str, Any]:
    """Two heads that share keys and values, fewer new tokens than cached ones, some beyond the window."""
    shapes = {
        "q": (20, 2 * E),
        "k": (20, E),
        "v": (20, E),
        "past_k": (1, 40, E),
        "past_v": (1, 40, E),
    }
    turns = {"cos": (20, E), "sin": (20, E)}
    tensors = {name: random(*shape).to(dtype) for name, shape in (shapes | turns).items()}
    return tensors | {"scale": E**-0.5, "cap": 5.0, "window": 30}
