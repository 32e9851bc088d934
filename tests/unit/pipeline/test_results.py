"""What is known of a finished picture, in memory and in its file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sana_cli.errors import ExitCode, SanaError
from sana_cli.images.picture_file import read_settings
from sana_cli.pipeline.components import Components
from sana_cli.pipeline.pipeline import SanaPipeline
from sana_cli.pipeline.results import GenerationResult, SavedResult, result_of
from sana_cli.request.params import GenerationParams

PICTURE = Image.linear_gradient("L").resize((40, 24)).convert("RGB")
SETTINGS: dict[str, Any] = {"prompt": "a cat", "seed": 7, "steps": 2, "size": "40x24"}


@pytest.fixture
def components(opened: Callable[..., SanaPipeline]) -> Components:
    return opened(max_memory=2**30).components


def test_before_anything_was_planned(components: Components) -> None:
    result = result_of(PICTURE, components, SETTINGS)
    assert (result.width, result.height, result.seed) == (40, 24, 7)
    assert result.decode == "whole"
    assert result.passes is None, "it was only decoded"
    assert result.settings == SETTINGS
    assert result.settings is not SETTINGS
    assert result.peak_memory_bytes > 0


def test_the_way_to_decode_is_carried_where_it_shows(
    components: Components, params: Callable[..., GenerationParams]
) -> None:
    components.plan_for(params(width=512, height=512))
    before = result_of(PICTURE, components, {**SETTINGS, "decode": "of another time"})
    assert "decode" not in before.settings
    assert components.planning.step_down("decode")
    after = result_of(PICTURE, components, SETTINGS)
    assert after.decode == after.settings["decode"] == "exact-tiles 256"
    assert after.plan.endswith("decode exact-tiles 256")
    assert 0 < after.predicted_peak_bytes < before.predicted_peak_bytes


def test_saving(components: Components, tmp_path: Path) -> None:
    result = result_of(PICTURE, components, SETTINGS)
    saved = result.save(str(tmp_path / "a.png"))
    assert isinstance(saved, SavedResult)
    assert isinstance(saved, GenerationResult)
    assert saved.path == tmp_path / "a.png"
    assert (saved.image, saved.settings, saved.seconds) == (
        result.image, result.settings, result.seconds,
    )  # fmt: skip
    assert read_settings(saved.path) == SETTINGS
    with Image.open(saved.path) as image:
        assert image.tobytes() == PICTURE.tobytes()


def test_saving_replaces_nothing_unasked(components: Components, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"mine")
    result = result_of(PICTURE, components, SETTINGS)
    with pytest.raises(SanaError, match="exists") as caught:
        result.save(path)
    assert (caught.value.code, path.read_bytes()) == (ExitCode.USAGE, b"mine")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"], "nothing half-written"
    assert read_settings(result.save(path, overwrite=True).path) == SETTINGS


@pytest.mark.parametrize("quality", [500, -1, "x", 1.5])
def test_a_quality_that_no_file_has(components: Components, tmp_path: Path, quality: Any) -> None:
    with pytest.raises(SanaError, match="quality"):
        result_of(PICTURE, components, SETTINGS).save(tmp_path / "a.jpg", quality=quality)
    with pytest.raises(SanaError, match="quality"):
        result_of(PICTURE, components, SETTINGS).encoded("JPEG", quality)
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_is_none(components: Components) -> None:
    format: Any = "gif"
    with pytest.raises(SanaError, match="format cannot be 'gif'"):
        result_of(PICTURE, components, SETTINGS).encoded(format)


def test_only_a_path_can_be_saved_to(components: Components) -> None:
    path: Any = 3
    with pytest.raises(SanaError, match="cannot be saved to 3"):
        result_of(PICTURE, components, SETTINGS).save(path)


@pytest.mark.parametrize("where", ["file/a.png", "file/no/a.png"])
def test_saving_where_no_file_can_be(components: Components, tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SanaError):
        result_of(PICTURE, components, SETTINGS).save(tmp_path / where)
    assert [p.name for p in tmp_path.rglob("*")] == ["file"]
