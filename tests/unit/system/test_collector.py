"""The collector of a process of our own: rare while modules are imported, as before afterwards."""

import gc
from collections.abc import Iterator

import pytest

from sana_cli.system.collector import collect_nothing, collect_rarely, freeze_imports


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def test_importing_collects_rarely_and_drawing_as_usual() -> None:
    before = gc.get_threshold()
    collect_rarely()
    collect_rarely()  # asked for twice, the settings of before are still known
    assert gc.get_threshold()[0] > 10 * before[0]
    freeze_imports()
    assert gc.get_threshold() == before


def test_torch_is_imported_without_a_collection() -> None:
    before = gc.get_threshold()
    collect_rarely()
    collect_nothing()
    assert gc.get_threshold()[0] == 0
    freeze_imports()
    assert gc.get_threshold() == before


def test_what_is_imported_is_not_looked_through_again() -> None:
    gc.unfreeze()
    freeze_imports()
    assert gc.get_freeze_count() > 10_000
