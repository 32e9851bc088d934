"""Planted faults are caught, each as what it is, and a sound engine shows none. `make rehearse-gpu` prints the table."""

from collections.abc import Callable

import pytest

from sana_cli.config.choices import ControlOrder
from tests.rehearsal.device import Device
from tests.rehearsal.faults import FAULTS, Fault, costs, further, pictures, steps, texts, velocities


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if fault.is_quick else pytest.mark.slow)
        for name, fault in FAULTS.items()
    ],
)
def test_a_planted_fault_is_caught(
    gpu: Device, caught: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fault: Fault = FAULTS[name]
    fault.plant(monkeypatch)
    evidence = fault.look(gpu)
    caught(name, evidence)
    assert evidence.startswith(fault.shows), evidence or "nothing was noticed"


LOOKS: dict[str, Callable[[Device], str]] = {
    "steps": steps,
    "steps in w8a8": lambda gpu: steps(gpu, "w8a8"),
    "steps with positions": lambda gpu: steps(gpu, interpolation_scale=2.0),
    "further branches": lambda gpu: further(gpu, order=ControlOrder.TRAINED, perturbed_layer=1),
    "costs": costs,
    "velocities": velocities,
    "texts": texts,
    "pictures": pictures,
    "pictures under a cap": lambda gpu: pictures(gpu, max_memory="400MiB"),
    "pictures, streamed": lambda gpu: pictures(gpu, plan="streamed"),
}


@pytest.mark.slow
@pytest.mark.parametrize("look", list(LOOKS))
def test_without_a_fault_nothing_is_noticed(gpu: Device, look: str) -> None:
    assert LOOKS[look](gpu) == ""


def test_there_are_enough_of_them() -> None:
    assert len(FAULTS) >= 16
    assert {fault.shows for fault in FAULTS.values()} >= {"notice", "race", "values", "counts"}
