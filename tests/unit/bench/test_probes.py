"""What a device can do at most, where oneDNN has fewer instructions than the processor."""

import pytest
import torch
from torch import Tensor

from sana_cli.bench import probes


def test_without_bf16_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU with AVX2 alone, oneDNN refuses bf16, and torch multiplies it by other means."""

    def refuses(a: Tensor, b: Tensor) -> Tensor:
        if a.dtype == torch.bfloat16:
            raise RuntimeError("could not create a primitive descriptor")
        return torch.nn.functional.linear(a, b)

    monkeypatch.setattr(probes, "_onednn", refuses)
    monkeypatch.setattr(probes, "_SHAPE", (32, 64, 64))
    monkeypatch.setattr(probes, "_SECONDS", 0.0)
    monkeypatch.setattr(probes, "_COPY_BYTES", 2**10)
    found = probes.ceilings(torch.device("cpu"))
    assert set(found) == {"fp32", "bf16", "int8", "copy"}
    assert all(value > 0 for value in found.values())
