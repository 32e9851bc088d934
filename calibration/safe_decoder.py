"""Give the decoder 8-bit inputs only where its pictures stay what they were.

With VNNI and without bf16 instructions a decoder with 8-bit inputs is 1.3 times as fast as the float one. With AVX2 alone
Winograd's algorithm in fp32 is faster than 8-bit products, which have 7-bit weights there
(`benchmarks/results/decoder-schemes*.json`). The layers are guarded twice: by the error of each layer's output on real
inputs, which outliers spoil, and by the pictures that all of them decode together.
"""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from calibration.observe import Call
from calibration.sensitivity import outputs_of, swapped
from quant.backends.cpu import int_mm_is_exact
from quant.config import QuantConfig
from quant.convert import LayerReport, Quantized, quantized_layer
from sana_cli.loading.load import TOKEN_CONVS
from sana_cli.quantize_checkpoint import ComponentPlan

FALLBACK = QuantConfig(weight_bits=8, act_bits=16)
LEAST_PICTURE_DB = 40.0  # PSNR of the worst picture to the float decoder's
LEAST_LAYER_DB = 20.0  # SQNR of a layer's output: a scale that outliers widen leaves less
PICTURES = 8  # that are decoded again for every choice

_UNSEEN = "the encoder's inputs are unknown: calibration only decodes"
_OUTLIERS = f"outliers: below {LEAST_LAYER_DB:g} dB on real inputs"
_PICTURES = f"pictures would differ by less than {LEAST_PICTURE_DB:g} dB PSNR"


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeDecoder:
    """The decoder's layers that keep float inputs, each with its reason, and what is left of the pictures."""

    float_inputs: Mapping[str, str]
    psnr_db: float  # of the worst picture to the float decoder's; infinite for equal ones

    def facts(self) -> dict[str, object]:
        """Return it as JSON."""
        psnr = None if math.isinf(self.psnr_db) else round(self.psnr_db, 2)
        return {"worst_psnr_db": psnr, "float_inputs": dict(self.float_inputs)}


def pays(device: torch.device, dtype: str) -> bool:
    """Return whether 8-bit inputs make a decoder faster than its float `dtype` ("fp32", "bf16") does here.

    Measured on x86 processors only.
    """
    is_x86 = device.type == "cpu" and platform.machine() in ("x86_64", "AMD64")
    return is_x86 and dtype == "fp32" and int_mm_is_exact()


def guarded(
    plan: ComponentPlan, decoder: nn.Module, calls: Sequence[Call]
) -> tuple[ComponentPlan, SafeDecoder]:
    """Return the plan with float inputs for the layers that need them, and what decided it.

    `decoder` is the float autoencoder; `calls` decode the calibration pictures with it.
    """
    fallback = {
        path: quantized_layer(decoder.get_submodule(path), FALLBACK, TOKEN_CONVS)  # type: ignore[arg-type]
        for path in plan.finished
    }
    safe = choose_safe(decoder, plan.finished, fallback, plan.sqnr, calls)
    return with_float_inputs(plan, safe), safe


def choose_safe(
    decoder: nn.Module,
    found: Mapping[str, Quantized],
    fallback: Mapping[str, Quantized],
    sqnr: Mapping[str, float],
    calls: Sequence[Call],
) -> SafeDecoder:
    """Return the fewest layers to keep in `fallback` for pictures of `LEAST_PICTURE_DB`, those of least `sqnr` first.

    `decoder` is the float one, and is left as it was. `found` and `fallback` hold the same layers by path, with 8-bit
    and with float inputs; `calls` decode pictures (B, 3, H, W), nominally -1..1.
    """
    some = list(calls[:: max(1, len(calls) // PICTURES)])[:PICTURES]
    expected = outputs_of(some)
    order = sorted(found, key=lambda path: sqnr[path])
    outliers = [path for path in order if sqnr[path] < LEAST_LAYER_DB]

    def psnr(count: int) -> float:
        mixed = {**found, **{path: fallback[path] for path in order[:count]}}
        with swapped(decoder, mixed):
            return worst_psnr(expected, outputs_of(some))

    least, most = len(outliers), len(order)
    value = psnr(least)
    if value < LEAST_PICTURE_DB:
        best, least = psnr(most), least + 1
        while least < most:
            middle = (least + most) // 2
            if (one := psnr(middle)) >= LEAST_PICTURE_DB:
                best, most = one, middle
            else:
                least = middle + 1
        value, least = best, most
    reasons = dict.fromkeys(order[:least], _PICTURES) | dict.fromkeys(outliers, _OUTLIERS)
    return SafeDecoder(float_inputs=reasons, psnr_db=value)


def with_float_inputs(plan: ComponentPlan, safe: SafeDecoder) -> ComponentPlan:
    """Return the plan with float inputs where they are needed, and in all of the encoder."""

    def decided(layer: LayerReport) -> LayerReport:
        if layer.config is None or layer.config.scheme.weight_only:
            return layer
        if layer.path in safe.float_inputs:
            return replace(layer, config=FALLBACK, reason=safe.float_inputs[layer.path])
        if layer.path in plan.finished:
            return layer
        return replace(layer, config=FALLBACK, reason=_UNSEEN)

    layers = [decided(layer) for layer in plan.layers]
    chosen = {layer.path for layer in layers if layer.config != FALLBACK}
    finished = {path: layer for path, layer in plan.finished.items() if path in chosen}
    sqnr = {path: value for path, value in plan.sqnr.items() if path in chosen}
    return replace(plan, layers=layers, finished=finished, sqnr=sqnr)


def worst_psnr(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The least PSNR in dB of pictures in -1..1, values beyond it cut off as a picture's file does."""
    errors = [
        float((a.float().clamp(-1, 1) - b.float().clamp(-1, 1)).square().mean())
        for a, b in zip(expected, found, strict=True)
    ]
    return min(math.inf if error == 0 else 10 * math.log10(4 / error) for error in errors)
