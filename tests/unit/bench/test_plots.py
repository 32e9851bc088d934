"""The plot of docs/performance.md comes from the results beside it. Needs the extra `plots`."""

from pathlib import Path

import pytest
from PIL import Image

from benchmarks import plots


def test_it_is_drawn_from_the_results_and_shown(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plots.main(results=plots.RESULTS, images=tmp_path)
    page = (plots.IMAGES.parent / "performance.md").read_text()
    assert "images/fewer-passes.png" in page
    with (
        Image.open(tmp_path / "fewer-passes.png") as drawn,
        Image.open(plots.IMAGES / "fewer-passes.png") as shown,
    ):
        assert drawn.size == shown.size
        assert len(drawn.convert("RGB").getcolors(2**24) or []) > 5  # more than empty axes
