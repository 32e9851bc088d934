"""Pictures of other programs: what `info` and `--from` make of them."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sana_cli.images.foreign_settings import ForeignSettings
from sana_cli.images.png import read_foreign_settings, save_preview

A1111 = (
    "a lighthouse, (storm:1.2)\nat night\nNegative prompt: fog, \nblurry\n"
    'Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 512x768, Model: sd15, Lora hashes: "a: 1, b: 2"'
)
GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 1, "positive": ["10", 0], "negative": ["7", 0]}},
    "10": {"class_type": "ControlNetApply", "inputs": {"conditioning": ["6", 0], "strength": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["8", 0], "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "fog"}},
    "8": {"class_type": "String", "inputs": {"value": "a lighthouse"}},
}  # fmt: skip


def picture(path: Path, **texts: str) -> Path:
    info = PngInfo()
    for key, value in texts.items():
        info.add_itxt(key, value)
    Image.new("RGB", (64, 32)).save(path, pnginfo=info)
    return path


def test_parameters(tmp_path: Path) -> None:
    found = read_foreign_settings(picture(tmp_path / "a.png", parameters=A1111))
    assert found is not None
    assert found.prompt == "a lighthouse, (storm:1.2)\nat night"
    assert found.negative_prompt == "fog,\nblurry"
    assert found.size == "512x768"
    assert found.others["Seed"] == "42"
    assert found.others["Lora hashes"] == "a: 1, b: 2"


@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_parameters_of_photos(tmp_path: Path, suffix: str, order: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + A1111.encode(order)
    Image.new("RGB", (64, 32)).save(tmp_path / f"a.{suffix}", exif=exif)
    found = read_foreign_settings(tmp_path / f"a.{suffix}")
    assert found is not None
    assert found.prompt.startswith("a lighthouse")


def test_graph_before_parameters(tmp_path: Path) -> None:
    texts = {"prompt": json.dumps(GRAPH), "parameters": A1111}
    assert read_foreign_settings(picture(tmp_path / "a.png", **texts)) == ForeignSettings(
        program="ComfyUI", prompt="a lighthouse", negative_prompt="fog", size="64x32"
    )


LOOP: dict[str, Any] = {
    "1": {"inputs": {"positive": ["2", 0], "negative": ["2", 0]}},
    "2": {"inputs": {"text": ["3", 0]}},
    "3": {"inputs": {key: ["2", 0] for key in ("text", "string", "prompt", "value", "positive")}},
}


@pytest.mark.parametrize(
    "texts",
    [
        {"prompt": "a fox"},
        {"prompt": "[" * 10**5},
        {"prompt": "9" * 5000},
        {"prompt": json.dumps(LOOP)},
        {"prompt": json.dumps({"1": {"inputs": {"positive": ["9", 0], "negative": [[], 0]}}})},
        {"prompt": json.dumps({"1": 5, "2": {"inputs": [1]}})},
        {"prompt": json.dumps([1])},
        {"parameters": "words"},
        {"parameters": ""},
        {"parameters": "a " * 10**5},
        {"parameters": "a:" * 10**5},
        {"parameters": '"' * 10**5},
        {"Description": "a"},
    ],
    ids=lambda texts: str(texts)[:30],
)
def test_what_says_nothing(sana: Callable[..., Any], tmp_path: Path, texts: dict[str, str]) -> None:
    path = picture(tmp_path / "a.png", **texts)
    assert read_foreign_settings(path) is None
    result = sana("info", path)
    assert (result.code, "carries no settings" in result.err) == (2, True)


def test_info(sana: Callable[..., Any], tmp_path: Path) -> None:
    """The command at the end draws something like it."""
    path = picture(tmp_path / "a.png", parameters=A1111)
    lines = sana("info", path).out.splitlines()
    assert lines[0] == "drawn by: another program (parameters)"
    command = shlex.split(lines[-1].removeprefix("something like it: ").replace("$'", "'"))
    assert command[:2] == ["sana", "generate"]
    assert command[-2:] == ["--size", "512x768"]
    document = sana("info", path, "--json").document
    assert document["foreign"]["others"]["Sampler"] == "Euler a"
    assert document["settings"] == {}


def test_from(sana: Callable[..., Any], tmp_path: Path) -> None:
    for texts in ({"parameters": A1111}, {"prompt": json.dumps(GRAPH)}):
        path = picture(tmp_path / "a.png", **texts)
        result = sana("generate", "--from", path)
        assert result.code == 2
        assert "was drawn by " in result.err
        assert f"`sana info {path}`" in result.err


def test_a_prompt_with_a_dash() -> None:
    foreign = ForeignSettings(program="", prompt="-5 degrees", negative_prompt="", size="64x64")
    assert foreign.command == ["sana", "generate", "--size", "64x64", "--", "-5 degrees"]


def test_previews(sana: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "so-far.png"
    save_preview(Image.new("RGB", (64, 32)), path, step=3, steps=20)
    assert (
        sana("info", path).out
        == "preview: step 3 of 20; the finished picture carries the settings\n"
    )
    assert sana("info", path, "--json").document["preview"] == "step 3 of 20"
    result = sana("generate", "--from", path)
    assert (result.code, "is a preview, step 3 of 20" in result.err) == (2, True)


@pytest.mark.parametrize("suffix", ["heic", "gif", "tiff", "svg"])
def test_info_of_what_cannot_carry_settings(
    sana: Callable[..., Any], tmp_path: Path, suffix: str
) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    result = sana("info", tmp_path / f"a.{suffix}")
    assert (result.code, "HEIC" in result.err, "convert" in result.err) == (2, True, True)
