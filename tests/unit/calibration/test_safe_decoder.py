"""The guard of the decoder's 8-bit inputs: outliers, and the pictures that all layers decode together."""

import math
import os
import platform
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from calibration.convolutions import calibrate_convolutions
from calibration.observe import Call
from calibration.safe_decoder import (
    FALLBACK,
    LEAST_LAYER_DB,
    LEAST_PICTURE_DB,
    SafeDecoder,
    choose_safe,
    pays,
    with_float_inputs,
    worst_psnr,
)
from quant.config import QuantConfig
from quant.convert import LayerReport, Quantized, quantized_layer
from sana_cli.quantize_checkpoint import ComponentPlan

EIGHT = QuantConfig(weight_bits=8, act_bits=8)
CPU = torch.device("cpu")


class Decoder(nn.Module):
    """Three 3x3 convolutions in a row; `first` may have outliers among its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.third(torch.relu(self.second(torch.relu(self.first(x)))))
        return out * (0.5 / out.abs().amax())


def guarded(
    decoder: Decoder, inputs: list[Tensor]
) -> tuple[SafeDecoder, dict[str, float], dict[str, Quantized]]:
    calls = [Call(lambda one=one: decoder(one)) for one in inputs]  # type: ignore[misc]
    paths = ["first", "second", "third"]
    found, sqnr = calibrate_convolutions(decoder, paths, EIGHT, calls, seed=0)
    fallback = {p: quantized_layer(decoder.get_submodule(p), FALLBACK) for p in paths}  # type: ignore[arg-type]
    layers = [decoder.first, decoder.second, decoder.third]
    safe = choose_safe(decoder, found, fallback, sqnr, calls)
    assert layers == [decoder.first, decoder.second, decoder.third], "the float decoder is back"
    return safe, sqnr, dict(found)


def test_a_quiet_decoder_keeps_its_8_bits() -> None:
    safe, sqnr, _ = guarded(Decoder(), [torch.randn(1, 8, 16, 16) for _ in range(3)])
    assert min(sqnr.values()) > LEAST_LAYER_DB
    assert safe.float_inputs == {}
    assert safe.psnr_db >= LEAST_PICTURE_DB


def test_a_layer_whose_inputs_have_outliers_keeps_float_inputs() -> None:
    """One value of 50,000 times the others takes all of int8's steps."""
    decoder = Decoder()
    spiked = [torch.randn(1, 8, 16, 16) for _ in range(3)]
    for one in spiked:
        one[:, 0, 0, 0] = 50_000.0
    with torch.no_grad():
        decoder.first.weight[:, 0] = 0.0  # the layer itself hardly needs the outliers
    safe, sqnr, _ = guarded(decoder, spiked)
    assert sqnr["first"] < LEAST_LAYER_DB
    assert "outliers" in safe.float_inputs["first"]
    assert safe.psnr_db >= LEAST_PICTURE_DB


class Shifted(nn.Module):
    """A layer whose error is known: it adds `error` to every value."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        return x + self.error


@pytest.mark.parametrize(
    ("errors", "spared"),
    [
        ([0.005, 0.001, 0.01], []),  # 41.9 dB together
        ([0.005, 0.001, 0.03], ["2"]),  # 35 dB together, 50.5 without the last
        ([0.03, 0.001, 0.04, 0.002, 0.05], ["4", "2", "0"]),  # 36.5 dB with one of the large ones
        ([0.03, 0.03, 0.03], ["0", "1", "2"]),  # none may stay
    ],
)
def test_pictures_decide_how_many_layers_need_float_inputs(
    errors: list[float], spared: list[str]
) -> None:
    decoder = nn.Sequential(*(nn.Identity() for _ in errors))
    found = {str(i): Shifted(error) for i, error in enumerate(errors)}
    fallback = {path: nn.Identity() for path in found}
    sqnr = {path: 60 - 500 * layer.error for path, layer in found.items()}
    calls = [Call(lambda: decoder(torch.zeros(1, 3, 4, 4)))] * 3
    safe = choose_safe(decoder, found, fallback, sqnr, calls)  # type: ignore[arg-type]
    assert list(safe.float_inputs) == spared
    assert all("40 dB" in reason for reason in safe.float_inputs.values())
    assert safe.psnr_db >= LEAST_PICTURE_DB


def test_the_plan_says_which_layers_and_why() -> None:
    linear = nn.Linear(8, 8)
    layers = [
        LayerReport(path="decoder.good", kind="linear", config=EIGHT),
        LayerReport(path="decoder.bad", kind="linear", config=EIGHT),
        LayerReport(path="encoder.unseen", kind="linear", config=EIGHT),
        LayerReport(path="decoder.conv_in", kind="conv 3x3", config=None, reason="first layer"),
    ]
    finished = {p: quantized_layer(linear, EIGHT) for p in ("decoder.good", "decoder.bad")}
    plan = ComponentPlan(layers=layers, finished=finished, sqnr=dict.fromkeys(finished, 30.0))
    safe = SafeDecoder(float_inputs={"decoder.bad": "outliers"}, psnr_db=41.234)
    after = with_float_inputs(plan, safe)
    assert list(after.finished) == list(after.sqnr) == ["decoder.good"]
    assert {layer.path: layer.config for layer in after.layers} == {
        "decoder.good": EIGHT,
        "decoder.bad": FALLBACK,
        "encoder.unseen": FALLBACK,
        "decoder.conv_in": None,
    }
    reasons = {layer.path: layer.reason for layer in after.layers}
    assert reasons["decoder.bad"] == "outliers"
    assert "only decodes" in reasons["encoder.unseen"]
    assert safe.facts() == {"worst_psnr_db": 41.23, "float_inputs": {"decoder.bad": "outliers"}}
    assert replace(safe, psnr_db=math.inf).facts()["worst_psnr_db"] is None


def test_psnr_is_that_of_files() -> None:
    """A tenth of the range of 2 is 20 dB; what lies beyond white is white in a file."""
    flat = torch.zeros(1, 3, 4, 4)
    assert worst_psnr([flat, flat], [flat + 0.2, flat]) == pytest.approx(20.0, abs=1e-4)
    assert worst_psnr([flat + 1], [flat + 9]) == math.inf


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [("cpu", "bf16", False), ("cuda", "fp32", False), ("mps", "fp32", False)],
)
def test_where_it_does_not_pay(device: str, dtype: str, expected: bool) -> None:
    assert pays(torch.device(device), dtype) is expected


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="instructions of x86")
def test_it_does_not_pay_with_avx2_alone() -> None:
    """8-bit products saturate there, so that weights have 7 bits, and fp32 has the faster algorithm."""
    program = "import torch; from calibration.safe_decoder import pays; assert not pays(torch.device('cpu'), 'fp32')"
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}  # fmt: skip
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **limits}, check=True)
