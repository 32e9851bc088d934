"""Pictures in whatever form they come, masks, and which step a strength begins with."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sana_cli.errors import SanaError
from sana_cli.request.init_image import (
    Composite,
    as_drawn,
    examine,
    feathered,
    first_step,
    fitted,
    init_image_of,
    read_image,
    read_mask,
    touched_positions,
)
from sana_cli.system.home import without_home

RAMP = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    path = saved(Image.fromarray(RAMP.astype(np.uint16) * 257), tmp_path / "a.png")
    assert np.array_equal(np.asarray(read_image(path))[..., 1], RAMP)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK"])
def test_modes(tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    path = saved(Image.fromarray(RAMP).convert(mode), tmp_path / f"a.{suffix}")
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (8, 8))
    tolerance = 255 if mode == "1" else 1
    assert np.abs(np.asarray(image)[..., 0].astype(int) - RAMP).max() <= tolerance


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    layer = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    layer.putpixel((0, 0), (200, 0, 0, 255))
    layer.putpixel((1, 0), (0, 0, 0, 127))
    image = read_image(saved(layer, tmp_path / "a.png"))
    assert image.getpixel((0, 0)) == (200, 0, 0)
    assert image.getpixel((1, 0)) == (128, 128, 128)
    assert image.getpixel((2, 2)) == (255, 255, 255)
    assert read_mask(tmp_path / "a.png").getextrema() == (0, 0), "on black, for masks"


def test_orientation_is_heeded(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    path = saved(Image.new("RGB", (40, 20)), tmp_path / "a.jpg", exif=exif)
    found = examine(path)
    assert (found.width, found.height) == read_image(path).size == (20, 40)


def test_animations(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = saved(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert examine(path).oddities.frames == 2
    assert read_image(path).getpixel((0, 0)) == (255, 0, 0)


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    floats = saved(Image.new("F", (4, 4)), tmp_path / "a.tif")
    with pytest.raises(SanaError, match="floating-point pixels"):
        read_image(floats)
    huge = saved(Image.new("L", (64, 64)), tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(SanaError, match="too large"):
        examine(huge)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = saved(Image.new("L", (4, 4)), tmp_path / "a.png")
    first = examine(path)
    saved(Image.new("L", (8, 4)), path)
    assert examine(path).width == 8
    assert examine(path).digest != first.digest


def test_fitting() -> None:
    noise = Image.effect_noise((64, 32), 50).convert("RGB")
    assert fitted(noise, 64, 32) is noise
    wide = Image.new("RGB", (90, 30), "red")
    wide.paste("blue", (30, 0, 60, 30))
    assert fitted(wide, 30, 30).getcolors() == [(900, (0, 0, 255))], "the middle stays"


@pytest.mark.parametrize("size", [(100, 57), (57, 100), (100, 100), (700, 300)], ids=str)
def test_as_drawn_is_the_way_back(size: tuple[int, int]) -> None:
    """What is drawn for a size that the model does not know ends where it was."""
    torch = pytest.importorskip("torch")
    from sana_cli.images.tensors import resize_and_crop

    width, height = size
    columns, rows = np.linspace(0, 255, width), np.linspace(0, 255, height)
    ramp = np.stack(np.broadcast_arrays(columns, rows[:, None], 128.0), axis=-1).astype(np.uint8)
    drawn = as_drawn(Image.fromarray(ramp), 672, 384)
    assert drawn.size == (672, 384)
    tensor = torch.from_numpy(np.array(drawn)).permute(2, 0, 1)[None].float()
    back = resize_and_crop(tensor, height=height, width=width)[0].permute(1, 2, 0).numpy()
    assert np.abs(back - ramp).max() < 8


def test_touched_positions() -> None:
    mask = np.zeros((64, 96), dtype=np.uint8)
    mask[31, 32] = 255
    assert touched_positions(Image.fromarray(mask), 32).tolist() == [
        [False, True, False],
        [False, False, False],
    ]


@pytest.mark.parametrize("width", [1, 2, 7, 40])
def test_feathering_stays_within_the_mask(width: int) -> None:
    mask = np.zeros((60, 60), dtype=np.uint8)
    mask[10 : 10 + width, :] = 255
    weights = np.asarray(feathered(Image.fromarray(mask)))[:, 30]
    assert (weights[mask[:, 0] == 0] == 0).all()
    inside = weights[10 : 10 + width].astype(int)
    assert inside.min() > 0
    assert inside.max() == 255, "also in a thin one"
    assert (np.diff(inside[: (width + 1) // 2]) >= 0).all()
    assert width < 40 or inside[0] < 64


def test_pasting_keeps_every_other_pixel() -> None:
    original, drawn = (Image.effect_noise((32, 32), 60).convert("RGB") for _ in range(2))
    mask = Image.new("L", (32, 32))
    mask.paste(255, (4, 4, 28, 28))
    pasted = np.asarray(Composite(original=original, mask=mask).over(drawn))
    stays = np.asarray(mask) == 0
    assert np.array_equal(pasted[stays], np.asarray(original)[stays])
    assert np.array_equal(pasted[14:18, 14:18], np.asarray(drawn)[14:18, 14:18])


@pytest.mark.parametrize(
    ("strength", "steps", "flow", "scm"),
    [(1.0, 20, 0, 0), (0.5, 20, 10, 10), (0.6, 2, 1, 0), (0.5, 2, 1, 1), (0.29, 100, 71, 71), (0.01, 20, 20, 19)],
)  # fmt: skip
def test_first_step(strength: float, steps: int, flow: int, scm: int) -> None:
    assert first_step(strength, steps, "flow-dpm") == first_step(strength, steps, "flow-euler")
    assert first_step(strength, steps, "flow-dpm") == flow
    assert first_step(strength, steps, "scm") == scm


@pytest.mark.parametrize(
    ("strength", "steps"),
    [(0.6, 1), (0.999, 1), (0.34, 2), (0.33, 3), (0.1, 7), (0.07, 14), (0.03, 30), (0.0011, 300)],
)
def test_hint_for_a_strength_of_no_step(strength: float, steps: int) -> None:
    """Whatever the hint names draws at least one step."""
    image = Image.new("RGB", (32, 32))
    with pytest.raises(SanaError, match="leaves none to run") as caught:
        init_image_of(image, strength=strength, mask=None, steps=steps, scheduler="flow-dpm")
    said = re.fullmatch(
        r"use --steps (\d+) or --strength ([\d.]+)( \(ignores the picture\))?", caught.value.hint
    )
    assert said is not None, caught.value.hint
    enough, stronger = int(said[1]), float(said[2])
    assert first_step(strength, enough, "flow-dpm") == enough - 1, "the least number of steps"
    assert first_step(stronger, steps, "flow-dpm") < steps
    assert (said[3] is not None) == (stronger == 1), "of one step, all or nothing is redrawn"


def test_hint_for_a_strength_that_no_number_of_steps_reaches() -> None:
    with pytest.raises(SanaError) as caught:
        init_image_of(
            Image.new("RGB", (32, 32)), strength=1e-4, mask=None, steps=20, scheduler="flow-dpm"
        )
    assert caught.value.hint == "use --strength 0.05"


def test_no_home_in_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    assert without_home(Path("/home/anna/a.png")) == "~/a.png"
    assert without_home(Path("/home/annabel/a.png")) == "/home/annabel/a.png"
    assert without_home(Path("a.png")) == "a.png"
