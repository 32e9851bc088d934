"""The model of GPU times: it lists what the engine launches, and its kept figures are those that it computes."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import gpu_launches, gpu_model
from benchmarks.gpu_launches import Launch
from benchmarks.gpu_times import RATES, seconds
from benchmarks.record import RESULTS
from quant.kernels.linear_w8a8 import linear_w8a8

PRODUCT = Launch(
    name="linear_w8a8", kind="tiles", shape=(2048, 1152, 3456), arithmetic="int8", ops=16.3e9,
    bytes=20e6, tile=(128, 128, 64, 8, 4), programs=432, rounds=18,
)  # fmt: skip


def test_the_figures_before_are_those_of_their_launches() -> None:
    before = json.loads((RESULTS / "gpu-model-before.json").read_text(encoding="utf-8"))
    kept = json.loads((RESULTS / "gpu-model.json").read_text(encoding="utf-8"))
    parts = gpu_model.read_parts(before["launches"])
    columns = (("bf16", "bf16"), ("w8a8", "bf16"))
    assert gpu_model.pictures(parts, columns) == kept["before"]


def test_launches_survive_a_document() -> None:
    kept = json.loads(json.dumps({"step": gpu_model.compact([PRODUCT])}))
    assert gpu_model.read_parts(kept) == {"step": [PRODUCT]}


@pytest.mark.parametrize("device", RATES)
def test_more_work_takes_longer(device: str) -> None:
    one = seconds(PRODUCT, device)
    assert 1e-6 < one < 1e-2
    assert seconds(replace(PRODUCT, programs=864), device) > 1.5 * (one - 4e-6)
    copy = Launch(name="copy", kind="pass", shape=(1,), bytes=1e9)
    assert seconds(replace(copy, bytes=2e9), device) == pytest.approx(
        2 * seconds(copy, device), rel=0.05
    )


def test_a_kernel_is_one_launch_with_its_work() -> None:
    log = gpu_launches.LaunchLog()
    kernels = log.kernels()
    assert kernels.linear_w8a8 is not linear_w8a8
    q = torch.empty(2048, 1152, dtype=torch.int8, device="meta")
    weight = torch.empty(3456, 1152, dtype=torch.int8, device="meta")
    scale, weight_scale = (torch.empty(n, device="meta") for n in (2048, 3456))
    with log:
        kernels.linear_w8a8(q, scale, weight, weight_scale, out_dtype=torch.bfloat16)
        torch.empty(2048, 8, device="meta").relu().view(-1)
    [product, relu] = log.launches
    assert product.ops == 2 * 2048 * 1152 * 3456
    assert product.shape == (2048, 1152, 3456)
    assert product.programs == -(-2048 // product.tile[0]) * -(-3456 // product.tile[1])
    assert (relu.name, relu.bytes) == ("relu", 2 * 2048 * 8 * 4)
