"""What a driver tells of a GPU: laptops, WSL and parts of a GPU refuse some of it."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from sana_cli.bench import machine

_READERS = (
    "nvmlDeviceGetClockInfo", "nvmlDeviceGetPerformanceState",
    "nvmlDeviceGetPowerManagementLimit", "nvmlSystemGetDriverVersion",
)  # fmt: skip


class NVMLError(Exception):
    pass


@pytest.mark.parametrize("refused", _READERS)
@pytest.mark.usefixtures("gpu")
def test_a_refused_value_costs_itself_alone(monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    def refuse(*arguments: Any) -> None:
        raise NVMLError("Not Supported")

    library = SimpleNamespace(
        NVMLError=NVMLError, NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2,
        nvmlInit=lambda: None, nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        **{name: lambda *arguments: 100_000 for name in _READERS} | {refused: refuse},
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", library)
    state = machine._gpu_state()
    assert state is not None
    refusals = [name for name, value in state.items() if value is None]
    assert len(refusals) == (2 if refused == "nvmlDeviceGetClockInfo" else 1)
    assert state["power_limit_w"] in (100, None)
