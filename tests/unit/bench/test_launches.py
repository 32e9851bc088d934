"""How many operations a block issues: a number that only goes down."""

import pytest
import torch

from benchmarks import launches
from sana_cli.bench.flops import ENGINE_BLOCK

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch without oneDNN"
)


def test_a_block_on_every_path() -> None:
    """At most 12 kernels on the CUDA engine, in 16 bits and in w8a8."""
    found = {name: row["block"] for name, row in launches.measure().items()}
    assert found["sana, CUDA engine, 16 bits"] <= 12
    assert found["sana, CUDA engine, w8a8"] == len(ENGINE_BLOCK) <= 12
    assert found["sana, plain (any device)"] <= 36
    assert found["sana, CPU engine"] <= 33
    assert found["sana, w8a8 CPU engine"] <= 120
    assert found["sana, CPU engine"] < found["sana, plain (any device)"] < found["diffusers"]


def test_views_and_allocations_launch_nothing() -> None:
    x = torch.randn(4, 6)
    with launches.counting() as counts:
        y = torch.empty(4, 6)
        y.view(2, 12).transpose(0, 1)[1:].unsqueeze(0)
        torch.mul(x, 2, out=y)
    assert dict(counts) == {"mul": 1}
