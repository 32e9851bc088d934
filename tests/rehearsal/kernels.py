"""Every kernel of `quant.kernels` as its definition, one launch on the simulated device. The functions around them stay."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch

from quant.kernels import reference as of
from tests.rehearsal.device import Device


def install(device: Device, patch: Callable[..., Any], *, interpreted: bool = False) -> None:
    """Replace the launches of kernels by their definitions, or by their own code under Triton's interpreter."""
    launch = device.launch

    def linear(
        q: Any, scale: Any, weight: Any, weight_scale: Any, bias: Any, gate: Any, residual: Any, out: Any,
        largest: Any, smooth: Any, activation: Any, tile: Any,
    ) -> None:  # fmt: skip
        def run(q, scale, weight, weight_scale, bias, gate, residual, out, largest, smooth):  # type: ignore[no-untyped-def]
            define = of.linear_w8a8 if q.dtype == torch.int8 else of.linear_w8a8_on_load
            define(
                q, scale, weight, weight_scale, bias=bias, gate=gate, residual=residual, out=out,
                activation=activation, out_largest=largest, out_smooth=smooth,
            )  # fmt: skip

        tensors = [q, scale, weight, weight_scale, bias, gate, residual, out, largest, smooth]
        launch("linear_w8a8", run, tensors, (7, 8))

    def quantize(x: Any, branch: Any, gate: Any, smooth: Any, q: Any, scale: Any) -> None:
        def run(x, branch, gate, smooth, q, scale):  # type: ignore[no-untyped-def]
            found = of.quantize_per_token(
                x, smooth=smooth, branch=branch, gate=gate, q_dtype=q.dtype
            )
            for mine, value in zip((q, scale), found, strict=True):
                mine.copy_(value)

        written = (4, 5) if branch is None else (0, 4, 5)
        launch("quantize_per_token", run, [x, branch, gate, smooth, q, scale], written)

    def norm(
        x: Any, shift: Any, scale: Any, eps: float, branch: Any, branch_first: int, gate: Any, addend: Any,
        smooth: Any, out: Any, token_scale: Any,
    ) -> None:  # fmt: skip
        def run(x, shift, scale, branch, gate, addend, smooth, out, token_scale):  # type: ignore[no-untyped-def]
            found = of.layer_norm_modulate(
                x,
                shift,
                scale,
                eps=eps,
                branch=branch,
                branch_first=branch_first,
                gate=gate,
                addend=addend,
            )
            if token_scale is None:
                out.copy_(found)
                return
            for mine, value in zip(
                (out, token_scale),
                of.quantize_per_token(found, smooth=smooth, q_dtype=out.dtype),
                strict=True,
            ):
                mine.copy_(value)

        tensors = [x, shift, scale, branch, gate, addend, smooth, out, token_scale]
        launch("layer_norm_modulate", run, tensors, (0, 7, 8))

    def attention(q: Any, k: Any, v: Any, out: Any, eps: float) -> None:
        def run(q, k, v, out):  # type: ignore[no-untyped-def]
            out.copy_(of.relu_linear_attention(q, k, v, eps=eps))

        launch("relu_linear_attention", run, [q, k, v, out], (3,))

    def depthwise(x: Any, weight: Any, bias: Any, out: Any, activation: Any, rows: Any) -> None:
        def run(x, weight, bias, out):  # type: ignore[no-untyped-def]
            out.copy_(of.depthwise3x3_glu(x, weight, bias, activation=activation))

        launch("depthwise3x3_glu", run, [x, weight, bias, out], (3,))

    def rms(
        x: Any,
        weight: Any,
        bias: Any,
        residual: Any,
        out: Any,
        largest: Any,
        eps: float,
        activation: Any,
    ) -> None:
        def run(x, weight, bias, residual, out, largest):  # type: ignore[no-untyped-def]
            of.rms_norm(
                x, weight, eps=eps, bias=bias, activation=activation, residual=residual, out=out,
                out_largest=largest,
            )  # fmt: skip

        launch("rms_norm", run, [x, weight, bias, residual, out, largest], (4, 5))

    def cross(
        x: Any, largest: Any, weight: Any, weight_scale: Any, bias: Any, smooth: Any, keys: Any, values: Any,
        mask: Any, out: Any, out_largest: Any,
    ) -> None:  # fmt: skip
        def run(
            x: Any, largest: Any, weight: Any, weight_scale: Any, bias: Any, smooth: Any, keys: Any,
            values: Any, mask: Any, out: Any, out_largest: Any,
        ) -> None:  # fmt: skip
            rest = {"mask": mask, "out_largest": out_largest}
            if weight is None:
                out.copy_(of.cross_attention(x, keys, values, **rest))
                return
            out.copy_(
                of.cross_attention_w8a8(
                    x, largest, weight, weight_scale, keys, values, bias=bias, smooth=smooth, **rest
                )
            )

        tensors = [
            x, largest, weight, weight_scale, bias, smooth, keys, values, mask, out, out_largest,
        ]  # fmt: skip
        launch("cross_attention", run, tensors, (9, 10))

    def convolution(
        q: Any, act_scale: Any, weight: Any, weight_scale: Any, bias: Any, residual: Any, shortcut: Any,
        out: Any, largest: Any, activation: Any, tile: Any,
    ) -> None:  # fmt: skip
        def run(q, act_scale, weight, weight_scale, bias, residual, shortcut, out, largest):  # type: ignore[no-untyped-def]
            out.copy_(
                of.conv3x3_w8a8(
                    q, act_scale, weight, weight_scale, bias=bias, activation=activation,
                    residual=residual, upsampled=q.shape[1] != out.shape[1], shortcut=shortcut,
                    out_largest=largest, out_dtype=out.dtype,
                )
            )  # fmt: skip

        tensors = [q, act_scale, weight, weight_scale, bias, residual, shortcut, out, largest]
        launch("conv3x3_w8a8", run, tensors, (7, 8))

    def quantize_picture(x: Any, scale: Any, largest: Any, q: Any, scales: Any) -> None:
        def run(x, scale, largest, q, scales):  # type: ignore[no-untyped-def]
            found = of.quantize_map(x, scale=scale, largest=largest)
            q.copy_(found[0])
            scales.copy_(found[1])

        launch(
            "quantize_map",
            run,
            [x, scale, largest, q, scales],
            (3,) if scale is not None else (3, 4),
        )

    def bias_and_activation(x: Any, bias: Any, activation: Any) -> None:
        def run(x, bias):  # type: ignore[no-untyped-def]
            of.bias_activation(x, bias, activation=activation)

        launch("bias_activation", run, [x, bias], (0,))

    def joined(phases: Any, bias: Any, shortcut: Any, out: Any) -> None:
        def run(a, b, c, d, bias, shortcut, out):  # type: ignore[no-untyped-def]
            out.copy_(of.join_phases([a, b, c, d], bias, shortcut=shortcut))

        launch("join_phases", run, [*phases, bias, shortcut, out], (6,))

    def four_bits(x: Any, weight: Any, bias: Any, out: Any, tile: Any) -> None:
        def run(x, packed, scale, bias, out):  # type: ignore[no-untyped-def]
            wide = torch.cat([packed & 15, packed >> 4], dim=-1).float() - 8  # (G, N, group)
            dense = (wide * scale.float()[:, :, None]).permute(1, 0, 2).flatten(1)
            found = x.float() @ dense[:, : weight.in_features].T
            out.copy_(found if bias is None else found + bias.float())

        launch("linear_w4a16", run, [x, weight.packed, weight.scale, bias, out], (4,))

    def softcapped(
        q: Any, k: Any, v: Any, past_k: Any, past_v: Any, cos: Any, sin: Any, out: Any, scale: float, cap: Any,
        window: Any,
    ) -> None:  # fmt: skip
        def run(q, k, v, past_k, past_v, cos, sin, out):  # type: ignore[no-untyped-def]
            out.copy_(
                of.softcap_attention(
                    q, k, v, past_k, past_v, cos, sin, scale=scale, cap=cap, window=window
                )
            )

        launch("softcap_attention", run, [q, k, v, past_k, past_v, cos, sin, out], (7,))

    definitions: Mapping[str, Callable[..., None]] = {
        "linear_w8a8": linear, "quantize_per_token": quantize, "layer_norm_modulate": norm,
        "relu_linear_attention": attention, "depthwise3x3_glu": depthwise, "rms_norm": rms,
        "cross_attention": cross, "conv3x3_w8a8": convolution, "linear_w4a16": four_bits,
        "quantize_map": quantize_picture, "bias_activation": bias_and_activation, "join_phases": joined,
        "softcap_attention": softcapped,
    }  # fmt: skip
    for name, definition in definitions.items():
        module = import_module(f"quant.kernels.{name}.kernel")
        patch(module, "launch", _interpreter(device, name, module) if interpreted else definition)


_WRITES = {
    "linear_w8a8": ("out", "largest"),
    "quantize_per_token": ("x", "q", "scale"),
    "layer_norm_modulate": ("x", "out", "token_scale"),
    "cross_attention": ("out", "out_largest"),
    "conv3x3_w8a8": ("out", "largest"),
    "quantize_map": ("q", "scales"),
    "bias_activation": ("x",),
}


def _interpreter(device: Device, name: str, module: Any) -> Callable[..., None]:
    """A kernel's own launch, on the memory of its tensors. Its module must have been imported under the interpreter."""
    original = module.launch
    signature = inspect.signature(original)

    def launch(*arguments: Any) -> None:
        given = dict(signature.bind(*arguments).arguments)
        packed = given.get("weight") if name == "linear_w4a16" else None
        if packed is not None:
            given |= {"weight": packed.packed, "weight_scale": packed.scale}
        names = [key for key, value in given.items() if isinstance(value, torch.Tensor)]

        def run(*tensors: torch.Tensor) -> None:
            now = given | dict(zip(names, tensors, strict=True))
            if packed is not None:
                now["weight"] = replace(packed, packed=now["weight"], scale=now.pop("weight_scale"))
            original(**now)

        writes = tuple(names.index(key) for key in _WRITES.get(name, ("out",)) if key in names)
        device.launch(name, run, [given[key] for key in names], writes)

    return launch
