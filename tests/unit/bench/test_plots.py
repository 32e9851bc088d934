"""The plots of docs/performance.md come from the results beside it. Needs the extra `plots`."""

from pathlib import Path

import pytest
from PIL import Image

from benchmarks import plots


def test_they_are_drawn_from_the_results_and_shown(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plots.main(results=plots.RESULTS, images=tmp_path)
    page = (plots.IMAGES.parent / "performance.md").read_text()
    for name in plots.PLOTS:
        assert f"images/{name}.png" in page
        with (
            Image.open(tmp_path / f"{name}.png") as drawn,
            Image.open(plots.IMAGES / f"{name}.png") as shown,
        ):
            assert drawn.size == shown.size
            assert len(drawn.convert("RGB").getcolors(2**24) or []) > 5  # more than empty axes
