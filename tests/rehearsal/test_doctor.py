"""`sana doctor` on the simulated device."""

from collections.abc import Callable
from typing import Any

from tests.rehearsal.device import Device


def test_nothing_is_wrong(
    gpu: Device, examined: Callable[..., Any], program: Callable[..., None]
) -> None:
    """What has no kernel of ours by design is no problem, and a first run is not a slow one."""
    from quant.backends.measurement import Probe
    from sana_cli import doctor

    program("nvidia-smi", "echo 550.54")
    probe = Probe(out_features=128, rows=64, side=8)
    result = examined("gpu", json=True, kernels=lambda: doctor._kernels(probe))
    assert [f for f in result.document["findings"] if f["state"] == "problem"] == []
    assert result.code == 0
    assert any("linear w8a8 on cuda: " in f["text"] for f in result.document["findings"])
