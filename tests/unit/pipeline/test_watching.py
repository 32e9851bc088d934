"""When a preview is shown."""

import pytest

from sana_cli.pipeline.watching import Watching


@pytest.mark.parametrize(
    ("every", "steps", "shown"),
    [
        (None, 20, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]),
        (None, 3, [1, 2, 3]),
        (3, 8, [3, 6, 8]),
        (50, 8, [8]),
    ],
)
def test_the_last_step_is_always_shown(every: int | None, steps: int, shown: list[int]) -> None:
    watching = Watching(show=lambda *seen: None, every=every)
    assert [step for step in range(1, steps + 1) if watching.wants(step, steps)] == shown
