"""The control picture of a request: its scale, size and notices."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.choices import ControlOrder, ControlType, split_scale
from sana_cli.config.generation import GenerationOptions
from sana_cli.config.networks import ControlNetConfig
from sana_cli.errors import SanaError
from sana_cli.remote.wire import document_of
from sana_cli.request.control import control_of, notices
from sana_cli.request.params import resolve


@pytest.fixture
def model(builtin: Checkpoint) -> Checkpoint:
    """The built-in model, described as if it had a ControlNet; nothing is loaded."""
    blocks = replace(builtin.transformer, num_layers=2)
    return replace(builtin, controlnet=ControlNetConfig(blocks=blocks, order=ControlOrder.TRAINED))


@pytest.fixture
def sketch(tmp_path: Path) -> Path:
    pixels = np.zeros((64, 128, 3), dtype=np.uint8)
    pixels[30:34] = 255
    Image.fromarray(pixels).save(tmp_path / "sketch:1.png")
    return tmp_path / "sketch:1.png"


def test_a_scale_after_the_name(sketch: Path) -> None:
    assert split_scale("a.png:0.5") == ("a.png", 0.5)
    assert split_scale("C:a.png") == ("C:a.png", None)
    assert split_scale(str(sketch)) == (str(sketch), None), "a colon of the path"
    assert split_scale(f"{sketch}:2") == (str(sketch), 2.0)


def test_resolved(model: Checkpoint, sketch: Path) -> None:
    params = resolve(
        GenerationOptions.of(prompt="a cat", control=f"{sketch}:2", control_type="none"), model
    )
    assert params.control is not None
    assert (params.control.scale, params.control.kind) == (2.0, ControlType.NONE)
    assert params.control.order is ControlOrder.TRAINED, "what the files say"
    assert (params.width, params.height) == (128, 64), "the picture's size"
    both = GenerationOptions.of(
        prompt="a cat", control=f"{sketch}:2", control_scale=0.5, control_order="diffusers"
    )
    control = resolve(both, model).control
    assert control is not None
    assert (control.scale, control.order) == (0.5, ControlOrder.DIFFUSERS)


def test_a_picture_in_memory(model: Checkpoint, sketch: Path) -> None:
    with Image.open(sketch) as image:
        control = control_of(image.copy(), scale=None, kind=None, order=None, checkpoint=model)
    assert control is not None
    assert control.fitted(128, 64).tobytes() == Image.open(sketch).tobytes()


def test_fitted_without_distortion(model: Checkpoint, sketch: Path) -> None:
    control = control_of(sketch, scale=None, kind=None, order=None, checkpoint=model)
    assert control is not None
    fitted = np.asarray(control.fitted(64, 64).convert("L"))
    assert fitted.shape == (64, 64)
    assert fitted[32].min() > 200
    assert fitted[:20].max() < 50


@pytest.mark.parametrize(
    ("shade", "size", "scale", "expected"),
    [
        (0, (64, 64), None, []),
        (255, (64, 64), None, ["is bright, and ControlNets expect white lines on black"]),
        (0, (96, 64), None, ["is resized and cropped by 33.3% to 64x64"]),
        (0, (64, 64), 0, ["--control-scale 0 ignores the picture"]),
    ],
)
def test_notices(
    model: Checkpoint, tmp_path: Path, shade: int, size: tuple[int, int], scale: float | None,
    expected: list[str],
) -> None:  # fmt: skip
    Image.new("RGB", size, (shade,) * 3).save(tmp_path / "a.png")
    control = control_of(tmp_path / "a.png", scale=scale, kind=None, order=None, checkpoint=model)
    assert control is not None
    found = notices(control, 64, 64)
    assert len(found) == len(expected), found
    assert all(part in line for part, line in zip(expected, found, strict=True))


def test_a_picture_that_is_too_large_to_read(model: Checkpoint, sketch: Path) -> None:
    with pytest.raises(SanaError, match="sketch"):
        control_of(sketch, scale=None, kind=None, order=None, checkpoint=model, room=1000)


def test_a_control_picture_travels_to_a_server(sketch: Path) -> None:
    body = document_of(GenerationOptions.of(prompt="a cat", control=f"{sketch}:0.5"))
    assert body["control"]["name"].endswith("sketch:1.png")
    assert body["control_scale"] == 0.5
    said = GenerationOptions.of(prompt="a cat", control=f"{sketch}:0.5", control_scale=2.0)
    assert document_of(said)["control_scale"] == 2.0


@pytest.mark.parametrize(
    "said", [{}, {"control": True}, {"control": True, "control_type": "canny"}]
)
def test_a_network_that_finds_nothing(
    model: Checkpoint, sketch: Path, said: dict[str, Any]
) -> None:
    said = said | ({"control": str(sketch)} if "control" in said else {})
    with pytest.raises(SanaError, match="--control-hed needs a picture"):
        resolve(GenerationOptions.of(prompt="a cat", control_hed="hed.pth", **said), model)
    setting = GenerationOptions(control_hed="hed.pth", sources={"control_hed": "settings"})
    resolve(GenerationOptions.of(prompt="a cat", **said).over(setting), model)
