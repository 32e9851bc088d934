"""Numbers of hundreds of digits, wherever a file or variable may hold one: one line, and no arithmetic."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sana_cli.errors import ExitCode

NINES = "9" * 400
NUMBERS = ("seed", "steps", "guidance", "cache", "strength")
CARRIED = {
    "prompt": "a", "seed": 1, "size": "64x64", "drawn_size": "64x64", "model": "builtin", "steps": 1,
}  # fmt: skip


def refused(result: Any, code: ExitCode = ExitCode.USAGE) -> None:
    assert result.code == code, result.err
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "Traceback" not in result.err
    assert "--debug" not in result.err


@pytest.mark.parametrize("key", [*NUMBERS, "width", "height"])
def test_in_a_file_of_prompts(sana: Callable[..., Any], tmp_path: Path, key: str) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text(f'{{"prompt": "a cat", "{key}": {NINES}}}')
    refused(sana("generate", "--prompts", prompts, "-o", tmp_path))


@pytest.mark.parametrize("key", NUMBERS)
def test_in_a_picture(sana: Callable[..., Any], tmp_path: Path, key: str) -> None:
    refused(
        sana("generate", "--from", picture(tmp_path, {key: int(NINES)}), "-o", tmp_path / "b.png")
    )


@pytest.mark.parametrize("digits", [400, 5000])
def test_in_the_tile_of_a_picture(sana: Callable[..., Any], tmp_path: Path, digits: int) -> None:
    path = picture(tmp_path, {"decode": f"exact-tiles {'9' * digits}"})
    refused(sana("generate", "--from", path, "-o", tmp_path / "b.png"))


def picture(folder: Path, settings: dict[str, Any]) -> Path:
    info = PngInfo()
    info.add_itxt("sana", json.dumps(CARRIED | settings))
    Image.new("RGB", (2, 2)).save(folder / "a.png", pnginfo=info)
    return folder / "a.png"


@pytest.mark.parametrize("key", ["steps", "guidance", "seed", "count"])
def test_in_the_settings(
    sana: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    config = tmp_path / "c.toml"
    monkeypatch.setenv("SANA_CONFIG", str(config))
    refused(sana("config", "set", key, NINES))
    monkeypatch.setenv(f"SANA_{key.upper()}", NINES)
    refused(sana("models"))
    monkeypatch.delenv(f"SANA_{key.upper()}")
    config.write_text(f"{key} = {NINES}")
    refused(sana("config", "show"))
