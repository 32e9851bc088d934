"""Files appear whole or not at all, carry their settings, and never replace another."""

import json
import os
import re
import stat
import threading
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sana_cli.errors import ExitCode, SanaError
from sana_cli.images.picture_file import read_settings
from sana_cli.images.png import save_png
from sana_cli.text import slug

SETTINGS = {
    "prompt": "a fox, 狐",
    "negative_prompt": "blurry",
    "seed": 2**63,
    "steps": 20,
    "guidance": 4.5,
    "scheduler": "flow-dpm",
    "size": "4x2",
    "model": "builtin",
    "version": "1",
}
IMAGE = Image.new("RGB", (4, 2), (1, 2, 3))


def test_settings_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_png(IMAGE, path, settings=SETTINGS)
    assert read_settings(path) == SETTINGS
    with Image.open(path) as image:
        assert image.text["Description"] == "a fox, 狐"
        assert "prompt" not in image.text, "ComfyUI's, which reads JSON from it"
        assert image.text["seed"] == str(2**63)
        lines = image.text["parameters"].splitlines()
    assert lines[:2] == ["a fox, 狐", "Negative prompt: blurry"]
    assert "Steps: 20, Sampler: flow-dpm, CFG scale: 4.5" in lines[2]


def parsed_by_others(text: str) -> dict[str, str]:
    """`parse_generation_parameters` of AUTOMATIC1111's web UI, which Civitai and others follow."""
    parameter = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
    *lines, last = text.strip().split("\n")
    if len(parameter.findall(last)) < 3:
        lines.append(last)
        last = ""
    parts: dict[str, list[str]] = {"Prompt": [], "Negative prompt": []}
    place = "Prompt"
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            place = "Negative prompt"
        parts[place].append(line.removeprefix("Negative prompt:").strip())
    found = {key: "\n".join(value) for key, value in parts.items()}
    for key, value in parameter.findall(last):
        found[key] = json.loads(value) if value[:1] == value[-1:] == '"' else value
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": "my, model: v2"},
        {"model": 'a "quoted" one'},
        {"model": "line\nbreak, Seed: 7"},
        {"model": "C:\\models\\x"},
        {"version": "1, Steps: 99"},
        {"prompt": "two\nlines"},
        {"prompt": "a cat, Steps: 3, Seed: 4: (x:1.3)"},
        {"prompt": "a cat\nNegative prompt: dogs"},
        {"prompt": "a cat\nSteps: 1, Sampler: x, Seed: 2"},
        {"negative_prompt": "b\n Negative prompt: c"},
        {"negative_prompt": ""},
    ],
    ids=str,
)
def test_others_read_what_was_drawn(tmp_path: Path, changes: dict[str, str]) -> None:
    settings = {**SETTINGS, **changes}
    save_png(IMAGE, tmp_path / "a.png", settings=settings)
    with Image.open(tmp_path / "a.png") as image:
        text = image.text["parameters"]
    assert [line for line in text.split("\n") if line.startswith("Steps:")] == [
        text.split("\n")[-1]
    ]
    assert parsed_by_others(text) == {
        "Prompt": settings["prompt"].replace("\n", " " if "cat\n" in settings["prompt"] else "\n"),
        "Negative prompt": settings["negative_prompt"].replace("\n", " "),
        "Steps": "20", "Sampler": "flow-dpm", "CFG scale": "4.5", "Seed": str(2**63), "Size": "4x2",
        "Model": settings["model"], "Version": settings["version"],
    }  # fmt: skip


def test_pictures_of_earlier_versions(tmp_path: Path) -> None:
    info = PngInfo()
    for key, value in {**SETTINGS, "sana": json.dumps(SETTINGS)}.items():
        info.add_itxt(key, str(value))
    IMAGE.save(tmp_path / "a.png", pnginfo=info)
    assert read_settings(tmp_path / "a.png") == SETTINGS


def test_standard_metadata_says_that_a_model_made_it(tmp_path: Path) -> None:
    """The XMP packet is XML, lies where PNG readers look, and holds IPTC's word for it."""
    path = tmp_path / "a.png"
    save_png(IMAGE, path, settings=SETTINGS)
    with Image.open(path) as image:
        packet = image.info["xmp"]
    root = ET.fromstring(packet)
    name = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    assert [found.text for found in root.iter(name)] == [
        "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    ]


def test_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("mine")
    with pytest.raises(SanaError) as caught:
        save_png(IMAGE, path, settings=SETTINGS)
    assert caught.value.code == ExitCode.USAGE
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path], "no temporary file stays"


def test_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("old")
    save_png(IMAGE, path, settings=SETTINGS, overwrite=True)
    assert read_settings(path)["steps"] == 20


def test_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "a.png"
    save_png(IMAGE, path, settings=SETTINGS)
    assert read_settings(path) == SETTINGS
    with pytest.raises(SanaError, match="exists"):
        save_png(IMAGE, path, settings=SETTINGS)


def test_disk_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Image.Image, file: object, **_: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(SanaError, match="No space left") as caught:
        save_png(IMAGE, tmp_path / "a.png", settings=SETTINGS)
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_name(tmp_path: Path) -> None:
    path, errors = tmp_path / "a.png", []

    def write() -> None:
        try:  # a picture of its own: Pillow keeps a save's options on the object
            save_png(IMAGE.copy(), path, settings=SETTINGS)
        except SanaError as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 7
    assert read_settings(path) == SETTINGS


def test_file_mode_follows_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        save_png(IMAGE, tmp_path / "a.png", settings=SETTINGS)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o640


def test_picture_without_settings(tmp_path: Path) -> None:
    Image.new("RGB", (4, 2)).save(tmp_path / "plain.png")
    with pytest.raises(SanaError, match="no settings"):
        read_settings(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text(json.dumps({}))
    with pytest.raises(SanaError, match="cannot read"):
        read_settings(tmp_path / "text.png")


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red fox, at dawn!", "a-red-fox-at-dawn"),
        ("狐 と 猫", "狐-と-猫"),
        ("../../etc/passwd", "etc-passwd"),
        ("!!!", "picture"),
        ("x" * 300, "x" * 48),
    ],
)
def test_slug(prompt: str, name: str) -> None:
    assert slug(prompt) == name
