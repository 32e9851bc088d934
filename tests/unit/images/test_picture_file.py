"""Every format carries every setting, exactly, and other people's readers read it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sana_cli.errors import ExitCode, SanaError
from sana_cli.images.picture_file import (
    load_picture,
    read_settings,
    save_picture,
    settings_without_pixels,
)

SETTINGS = {
    "prompt": 'a fox, 狐\n"two" lines', "negative_prompt": "blurry", "seed": 2**63, "steps": 20, "guidance": 4.5,
    "scheduler": "flow-dpm", "size": "64x32", "model": "builtin", "model_hash": "0123456789", "version": "1",
}  # fmt: skip
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8))
NAMES = ["a.png", "a.jpg", "a.jpeg", "a.webp", "a.WEBP"]


@pytest.mark.parametrize("name", NAMES)
def test_settings_come_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert save_picture(NOISE, path, settings=SETTINGS) == SETTINGS
    assert read_settings(path) == SETTINGS
    with Image.open(path) as image:
        assert "trainedAlgorithmicMedia" in str(image.info["xmp"])
    assert settings_without_pixels(path) == (SETTINGS if name == "a.png" else None)


@pytest.mark.parametrize(
    ("name", "quality", "is_exact"),
    [
        ("a.png", 50, True),
        ("a.webp", None, True),
        ("a.webp", 100, True),
        ("a.webp", 90, False),
        ("a.jpg", 100, False),
    ],
)
def test_quality(tmp_path: Path, name: str, quality: int | None, is_exact: bool) -> None:
    """Files without loss hold the pixels that were drawn, and do not carry a quality."""
    settings = SETTINGS | ({"quality": quality} if quality else {})
    carried = save_picture(NOISE, tmp_path / name, settings=settings)
    assert carried == read_settings(tmp_path / name) == (SETTINGS if is_exact else settings)
    assert (load_picture(tmp_path / name).tobytes() == NOISE.tobytes()) == is_exact


def test_lower_quality_is_smaller(tmp_path: Path) -> None:
    for suffix in ("jpg", "webp"):
        sizes = []
        for quality in (95, 40):
            path = tmp_path / f"{quality}.{suffix}"
            save_picture(NOISE, path, settings=SETTINGS | {"quality": quality})
            sizes.append(path.stat().st_size)
        assert sizes[1] < 0.7 * sizes[0]


def test_settings_that_have_no_room(tmp_path: Path) -> None:
    settings = SETTINGS | {"prompt": "x" * 70_000}
    with pytest.raises(SanaError, match="no room in a JPEG") as caught:
        save_picture(NOISE, tmp_path / "a.jpg", settings=settings)
    assert (caught.value.code, list(tmp_path.iterdir())) == (ExitCode.USAGE, [])
    save_picture(NOISE, tmp_path / "a.webp", settings=settings)
    assert read_settings(tmp_path / "a.webp") == settings


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_an_existing_file_is_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(SanaError, match="exists"):
        save_picture(NOISE, tmp_path / name, settings=SETTINGS)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", NAMES)
def test_sd_parsers_reads_it(tmp_path: Path, name: str) -> None:
    sd_parsers = pytest.importorskip(
        "sd_parsers", reason="sd-parsers is not installed: pip install '.[dev]'"
    )
    settings = {**SETTINGS, "prompt": "a fox, 狐"}
    save_picture(NOISE, tmp_path / name, settings=settings)
    found = sd_parsers.ParserManager().parse(tmp_path / name)
    (sampler,) = found.samplers
    assert [prompt.value for prompt in sampler.prompts] == ["a fox, 狐"]
    assert [prompt.value for prompt in sampler.negative_prompts] == ["blurry"]
    assert (sampler.name, sampler.model.name, sampler.model.hash) == (
        "flow-dpm",
        "builtin",
        "0123456789",
    )
    assert sampler.parameters["seed"] == str(2**63)
    assert sampler.parameters["steps"] == "20"
