"""The simulated device for every test in this folder."""

from collections.abc import Iterator

import pytest
import torch

from tests.rehearsal.device import Calls, Device, install


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """A device of 24 GiB and capability 8.9; `indirect` parameters are options of `install`."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    options = getattr(request, "param", {})
    converts = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    found = install(monkeypatch.setattr, **options)
    with Calls():
        yield found
    torch.__future__.set_overwrite_module_params_on_conversion(converts)
