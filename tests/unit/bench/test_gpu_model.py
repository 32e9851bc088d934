"""The model of GPU times: it lists what the engine launches, and its kept figures are those that it computes."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_launches, gpu_model
from benchmarks.gpu_launches import Launch
from benchmarks.gpu_times import HIDDEN_S, RATES, seconds, total, with_tile_of
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


DOCS = Path(__file__).parents[3] / "docs"
DEVICES = {
    "RTX 3060": "rtx-3060", "RTX 4090 Laptop": "rtx-4090-laptop", "RTX 4090": "rtx-4090",
    "RTX 5090": "rtx-5090", "H100": "h100", "H200": "h200",
}  # fmt: skip
DECODERS = {"bf16": "bf16", "w8a8": "w8a8", "f8a8": "w8a8"}


def test_the_tables_of_the_docs_are_the_document() -> None:
    now = json.loads((RESULTS / "gpu-model.json").read_text(encoding="utf-8"))["now"]

    def kept(device: str, scheme: str) -> dict[str, float]:
        ms: dict[str, float] = now[DEVICES[device]][f"{scheme} + {DECODERS[scheme]}"]
        return ms

    table = (DOCS / "performance.md").read_text(encoding="utf-8")
    row = r"^\| ([\w ]+), (\w+)(?: \(.*\))? \|.*\| (\d+) \+ (\d+) \+ (\d+) = \*\*(\d+)\*\* \|$"
    found = re.findall(row, table, re.MULTILINE)
    assert len(found) == 8
    for device, scheme, *figures in found:
        ms = kept(device, scheme)
        parts = ms["text"], ms["denoise"] + ms["host"], ms["decode"], ms["total"]
        assert [*map(int, figures)] == [*map(round, parts)], (device, scheme)
    row = r"^\| ([\w ]+), (\w+) \| (\d+) \| \d+ \| \d+ \| [\d.]+ h \|$"
    found = re.findall(row, (DOCS / "scale.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) == 5
    for device, scheme, ms in found:
        assert int(ms) == round(kept(device, scheme)["total"]), (device, scheme)


def test_dependent_launches_hide_a_part_of_the_gaps_of_our_kernels() -> None:
    ours = replace(PRODUCT, count=10)
    other = Launch(name="linear_f8a8", kind="pass", shape=(1,), bytes=1e6, count=10)
    for device, saved in (("h100", 10 * HIDDEN_S), ("rtx-5090", 10 * HIDDEN_S), ("rtx-4090", 0)):
        usual = total([ours, other], device)
        assert total([ours, other], device, dependent=True) == pytest.approx(usual - saved)


def test_a_wide_tile_is_taken_where_the_kernel_takes_it() -> None:
    conv = replace(PRODUCT, name="conv3x3_w8a8", shape=(1 << 20, 9 * 128, 128))
    assert with_tile_of(conv, "h100").tile[:2] == (256, 128)
    assert with_tile_of(conv, "rtx-4090").tile[:2] == (128, 128)
    upsampled = replace(conv, name="conv3x3_w8a8 upsampled")
    assert with_tile_of(upsampled, "h100") == upsampled


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
