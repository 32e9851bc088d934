"""The table of planted faults at the end of a rehearsal."""

from collections.abc import Callable

import pytest

_CAUGHT = pytest.StashKey[dict[str, str]]()


@pytest.fixture
def caught(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Note a planted fault and what caught it, "" for nothing."""
    table = request.config.stash.setdefault(_CAUGHT, {})
    return table.__setitem__


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what was planted and what caught it."""
    table = config.stash.get(_CAUGHT, {})
    if not table:
        return
    missed = sum(not evidence for evidence in table.values())
    terminalreporter.section(f"planted faults: {len(table) - missed} caught, {missed} missed")
    width = max(map(len, table))
    for name, evidence in table.items():
        terminalreporter.line(f"{name:<{width}}  {evidence[:100] or 'NOT CAUGHT'}")
