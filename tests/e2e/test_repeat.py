"""`sana generate --from`: a picture once more, bit for bit, and what may change it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import read_settings
from sana_cli.images.png import save_png

CPU = ("--device", "cpu")
SHORT = ("--steps", 2, "--size", "256x256")


def test_bit_for_bit(sana: Callable[..., Any], tmp_path: Path) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    options = (
        "--steps",
        2,
        "--guidance",
        3.5,
        "--seed",
        5,
        "--negative",
        "blue",
        "--scheduler",
        "flow-euler",
    )
    assert sana("generate", "a cat", *options, *CPU, "-o", first).code == 0
    result = sana("generate", "--from", first, "-o", second)
    assert result.code == 0, result.err
    assert second.read_bytes() == first.read_bytes()
    assert "differ" not in result.err


@pytest.mark.parametrize(
    "options",
    [
        ("--size", "64x96", "--enhance", "--precision", "fp32"),
        ("--width", "100", "--height", "57", "--bins"),
        ("--size", "96x96", "--decode", "blended-tiles", "--tile", "64"),
    ],
    ids=["size", "bins", "blended"],
)
def test_every_option_is_repeated(
    sana: Callable[..., Any], pipelines: Any, tmp_path: Path, options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Settings of the user do not get between, and the default model is found by its folder's name."""
    folder = pipelines.folder("native_512")
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    words = ("-m", folder, "--steps", 1, "--seed", 5, *CPU, *options)
    assert sana("generate", "a cat", *words, "-o", first).code == 0
    monkeypatch.setenv("SANA_MODEL", str(folder))
    monkeypatch.setenv("SANA_STEPS", "3")
    monkeypatch.setenv("SANA_GUIDANCE", "1")
    monkeypatch.setenv("SANA_DECODE", "whole")
    result = sana("generate", "--from", first, "-o", second)
    assert result.code == 0, result.err
    assert second.read_bytes() == first.read_bytes()


@pytest.fixture(scope="module")
def usual(sana: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The pixels of one picture by precision."""
    pixels, path = {}, tmp_path_factory.mktemp("usual") / "a.png"
    for precision in ("fp32", "bf16"):
        words = (*SHORT, "--seed", 5, "--precision", precision, *CPU, "--force")
        assert sana("generate", "a cat", *words, "-o", path).code == 0
        pixels[precision] = Image.open(path).tobytes()
    return pixels


@pytest.mark.parametrize(
    ("precision", "options", "told"),
    [
        ("fp32", ("--plan", "branches"), "--plan branches"),
        ("fp32", ("--plan", "streamed", "--no-prompt-cache"), "--plan branches"),
        # fp32 rounds so little here that on some processors no pixel shows it.
        ("bf16", ("--tile", "64"), "--decode exact-tiles --tile 64"),
        ("fp32", ("--precision", "bf16"), "--steps 2"),
        ("fp32", ("--guidance-interval", "0.2-0.9", "--cache", "0.2"), "--cache 0.2"),
    ],
    ids=["branches", "streamed", "tiles", "bf16", "fewer passes"],
)
def test_what_rounds_in_another_way(
    sana: Callable[..., Any],
    usual: dict[str, bytes],
    tmp_path: Path,
    precision: str,
    options: tuple[str, ...],
    told: str,
) -> None:
    """Also where a lack of memory chose it: the next time there may be more."""
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    words = (*SHORT, "--seed", 5, "--precision", precision, *CPU)
    assert sana("generate", "a cat", *words, *options, "-o", first).code == 0
    assert Image.open(first).tobytes() != usual[precision], "it shows"
    result = sana("generate", "--from", first, "-o", second)
    assert result.code == 0, result.err
    assert second.read_bytes() == first.read_bytes()
    assert "differ" not in result.err
    assert told in sana("info", first).out


def test_too_little_memory_for_the_same_bits(sana: Callable[..., Any], tmp_path: Path) -> None:
    first = tmp_path / "a.png"
    assert sana("generate", "a cat", *SHORT, "--seed", 5, *CPU, "-o", first).code == 0
    words = ("generate", "--from", first, "-o", tmp_path / "b.png")
    assert "pixels may differ by 1" in sana(*words, "--plan", "branches").err


@pytest.mark.parametrize("recipe", ["w8a8", "int4"])
def test_a_quantized_model(
    sana: Callable[..., Any], quantized: Callable[..., Path], tmp_path: Path, recipe: str
) -> None:
    """On the kernels that are chosen here, also in a process of its own."""
    first, second, third = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    folder = quantized(recipe)
    words = ("-m", folder, "--size", "64x32", "--steps", 2, "--seed", 5, *CPU)
    assert sana("generate", "A Fox", *words, "-o", first).code == 0
    assert sana("generate", "--from", first, "-m", folder, "-o", second).code == 0
    assert second.read_bytes() == first.read_bytes()
    command = ["generate", "--from", first, "-m", folder, "-o", third, "-q"]
    subprocess.run([sys.executable, "-m", "sana_cli", *map(str, command)], check=True)
    assert third.read_bytes() == first.read_bytes()


def test_pictures_of_a_batch(sana: Callable[..., Any], tmp_path: Path) -> None:
    """Of a file of prompts, with settings a line, and of --count: each alone is what it was among others."""
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "in.png")
    lines = [
        {"prompt": "a cat", "size": "64x64"},
        {"prompt": "a dog", "seed": 3, "guidance": 1, "size": "96x64", "scheduler": "flow-euler"},
        {"prompt": "an owl", "image": str(tmp_path / "in.png"), "strength": 0.6},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "out"
    out.mkdir()
    words = ("generate", "--prompts", tmp_path / "p.jsonl", "--steps", 4, *CPU, "-o", out)
    assert sana(*words, "--count", 2).code == 0
    counted = ("--size", "64x64", "--steps", 2, "--seed", 8, "--count", 3, *CPU)
    assert sana("generate", "a fox", *counted, "-o", out / "fox.png").code == 0
    pictures = sorted(out.glob("*.png"))
    assert len(pictures) == 9
    again = tmp_path / "again.png"
    for picture in pictures:
        result = sana("generate", "--from", picture, "-o", again, "--force")
        assert result.code == 0, result.err
        assert again.read_bytes() == picture.read_bytes(), picture.name


def test_several_from_one(sana: Callable[..., Any], tmp_path: Path) -> None:
    first = tmp_path / "a.png"
    words = ("--size", "64x64", "--steps", 2, "--seed", 8, *CPU)
    assert sana("generate", "a fox", *words, "-o", first).code == 0
    assert sana("generate", "--from", first, "--count", 2, "-o", tmp_path / "b.png").code == 0
    assert (tmp_path / "b-8.png").read_bytes() == first.read_bytes()
    assert (tmp_path / "b-9.png").read_bytes() != first.read_bytes()


def test_kernels_are_repeated(
    sana: Callable[..., Any],
    quantized: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that were asked for, as the command in `sana info` and against the user's setting."""
    folder, first, second = quantized("w8a8"), tmp_path / "a.png", tmp_path / "b.png"
    words = ("-m", folder, "--size", "32x32", "--steps", 1, "--seed", 5, *CPU)
    assert sana("generate", "x", *words, "--backend", "reference", "-o", first).code == 0
    assert "--backend reference" in sana("info", first).out
    monkeypatch.setenv("SANA_BACKEND", "native")
    result = sana("generate", "--from", first, "-m", folder, "-o", second, "--json")
    assert second.read_bytes() == first.read_bytes()
    assert set(result.document["kernels"].values()) == {"reference"}


def test_any_flag_overrides(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> None:
    first = tmp_path / "a.png"
    words = ("-m", tiny_model, *CPU)
    options = ("--size", "64x96", "--steps", 1, "--seed", 5)
    assert sana("generate", "a cat", *words, *options, "-o", first).code == 0
    changes = {
        "prompt": ("a dog",), "steps": ("--steps", 2), "seed": ("--seed", 6), "size": ("--size", "32x64"),
        "guidance": ("--guidance", 2.0), "negative_prompt": ("--negative", "x"),
    }  # fmt: skip
    before = read_settings(first)
    for key, change in changes.items():
        path = tmp_path / f"{key}.png"
        result = sana("generate", "--from", first, *words, *change, "-o", path)
        assert result.code == 0, result.err
        after = read_settings(path)
        different = {name for name in after if after[name] != before[name]}
        assert different == ({"size", "drawn_size"} if key == "size" else {key})
        assert after[key] == change[-1]
    result = sana(
        "generate", "--from", first, *words, "--count", 2, "-o", tmp_path / "many.png", "--json"
    )
    assert [image["seed"] for image in result.document["images"]] == [5, 6]


def test_a_folder_that_is_not_known_by_name(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    first = tmp_path / "a.png"
    assert (
        sana(
            "generate", "x", "-m", tiny_model, "--size", "32x32", "--steps", 1, *CPU, "-o", first
        ).code
        == 0
    )
    result = sana("generate", "--from", first, "-o", tmp_path / "b.png")
    assert result.code == ExitCode.USAGE
    assert f"(model is set by {first})" in result.err
    assert "give --model FOLDER" in result.err


@pytest.mark.parametrize("small", [False, True], ids=["weights", "quantized"])
def test_another_model_of_the_same_name(
    sana: Callable[..., Any],
    tiny_model: Path,
    quantized: Callable[..., Path],
    tmp_path: Path,
    small: bool,
) -> None:
    folder, first = tmp_path / "mine", tmp_path / "a.png"
    words = ("-m", folder, "--size", "32x32", "--steps", 1, "--seed", 5, *CPU)
    shutil.copytree(quantized("w8a8") if small else tiny_model, folder)
    assert sana("generate", "x", *words, "-o", first).code == 0
    again = sana("generate", "--from", first, "-m", folder, "-o", tmp_path / "b.png")
    assert again.code == 0
    assert "another model" not in again.err
    if small:
        changed = ("--samples", 0, "--transformer", "w8a16", "--force")
        assert sana("quantize", tiny_model, folder, *changed).code == 0
    else:
        weights = next((folder / "transformer").glob("*.safetensors"))
        weights.write_bytes(with_another_last_number(weights.read_bytes()))
    other = sana("generate", "--from", first, "-m", folder, "-o", tmp_path / "c.png")
    assert other.code == 0, "only told: another model of this name draws, too"
    assert f"{first} was drawn by another model of the name mine" in other.err


def with_another_last_number(data: bytes) -> bytes:
    """The same header and length, and the bit of a sign flipped in the last number."""
    return data[:-1] + bytes([data[-1] ^ 0x80])


def edited(path: Path, **changes: object) -> Path:
    settings = {
        "prompt": "a cat", "seed": 1, "steps": 1, "guidance": 4.0, "scheduler": "flow-dpm", "flow_shift": 3.0,
        "size": "32x32", "drawn_size": "32x32", "enhance": False, "model": "builtin", "precision": "fp32",
        "device": "cpu", "version": "0.1.0", **changes,
    }  # fmt: skip
    save_png(Image.new("RGB", (32, 32)), path, settings=settings, overwrite=True)
    return path


def test_what_may_differ_is_told(sana: Callable[..., Any], tmp_path: Path) -> None:
    path = edited(tmp_path / "a.png", version="0.0.1", device="mps", flow_shift=1.0)
    result = sana("generate", "--from", path, "-o", tmp_path / "b.png")
    assert result.code == 0, result.err
    assert "version 0.0.1" in result.err
    assert "flow_shift 1.0" in result.err
    assert "drawn on mps, which is not here" in result.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": "many"}, "carries steps = 'many'"),
        ({"steps": 0}, "carries steps = 0"),
        ({"size": "big"}, "carries size = 'big'"),
        ({"seed": 1.5}, "carries seed = 1.5"),
        ({"scheduler": "ddim"}, "carries scheduler = 'ddim'"),
        ({"decode": "blended-tiles x"}, "carries decode"),
        ({"precision": "int3"}, "carries precision"),
        ({"backend": "mine"}, "carries backend = 'mine'"),
        ({"branches": "twice"}, "carries branches = 'twice'"),
        ({"model": "../no/such/model"}, "model is set by"),
        ({"prompt": ""}, "carries prompt = ''"),
        ({"drawn_size": "64x32"}, "carries drawn_size = '64x32', but size ="),
    ],
    ids=str,
)
def test_edited_settings(
    sana: Callable[..., Any], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = edited(tmp_path / "a.png", **changes)
    result = sana("generate", "--from", path, "-o", tmp_path / "b.png")
    assert result.code == ExitCode.USAGE, result.err
    assert message in result.err
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"scheduler": "scm"}, "scheduler = 'scm'"),
        ({"size": "1000x1000", "drawn_size": "1024x1024"}, "drawn_size = '1024x1024'"),
        ({"backend": "native"}, "backend = 'native'"),
        ({"control": "c.png"}, "control is set by"),
        ({"pag": "2:900"}, "pag is set by"),
        ({"decoder": "no/such"}, "decoder is set by"),
    ],
    ids=str,
)
def test_settings_that_another_model_has(
    sana: Callable[..., Any], tmp_path: Path, changes: dict[str, object], key: str
) -> None:
    """What only the model can refuse names the file, too, and its hint does not omit what nobody typed."""
    Image.new("RGB", (8, 8)).save(tmp_path / "c.png")
    if "control" in changes:
        changes["control_digest"] = sha256((tmp_path / "c.png").read_bytes()).hexdigest()
    path = edited(tmp_path / "a.png", **changes)
    result = sana("generate", "--from", path, "-o", tmp_path / "b.png")
    assert result.code in (ExitCode.USAGE, ExitCode.ENVIRONMENT), result.err
    assert f"({key}" in result.err
    assert str(path) in result.err
    assert "hint: omit" not in result.err
    assert result.err.count("error: ") == 1


def test_no_picture_of_ours(sana: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert "no such picture" in sana("generate", "--from", path).err
    Image.new("RGB", (8, 8)).save(path)
    assert "carries no settings" in sana("generate", "--from", path).err
    path.write_bytes(b"no picture")
    assert "cannot read" in sana("generate", "--from", path).err


LARGE = int("9" * 400)


@pytest.mark.parametrize(
    "changes",
    [
        *({key: value} for key in ("seed", "steps", "guidance", "cache", "strength")
          for value in (LARGE, -LARGE, float("nan"), float("inf"), True, [1])),
        {"seed": -5},
        {"seed": 2**64},
        {"size": f"{LARGE}x64"},
        {"size": "0x0"},
        {"size": [64, 64]},
        {"guidance_interval": f"{LARGE}-1"},
        {"guidance_interval": "1-0"},
        {"decode": "exact-tiles " + "9" * 5000},
        {"decode": f"exact-tiles {LARGE}"},
        {"decode": ["whole"]},
        {"loras": [f"a:{LARGE}"]},
        {"loras": ["a\0"]},
        {"loras": 5},
        {"model": "\ud800"},
        {"model": "a\0b"},
        {"model": "a\nb"},
        {"image": "a\0b.png"},
        {"image": "\udcff.png"},
        {"prompt": "a\ud800b"},
        {"prompt": ""},
        {"precision": LARGE},
        {"backend": "x"},
    ],
    ids=lambda changes: str(changes)[:40],
)  # fmt: skip
def test_settings_that_cannot_be(
    sana: Callable[..., Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    """One line, whatever a stranger's picture says; and `info` shows it on lines of its own."""
    usual = {
        "prompt": "a",
        "seed": 1,
        "steps": 1,
        "size": "64x64",
        "drawn_size": "64x64",
        "model": "builtin",
    }
    path, info = tmp_path / "a.png", PngInfo()
    info.add_itxt("sana", json.dumps(usual | changes))
    Image.new("RGB", (2, 2)).save(path, pnginfo=info)
    result = sana("generate", "--from", path, "-o", tmp_path / "b.png", "--dry-run")
    assert result.code in (ExitCode.USAGE, ExitCode.CHECKPOINT, ExitCode.ENVIRONMENT), result.err
    assert max(map(len, result.err.splitlines())) < 500
    assert "a bug" not in result.err
    assert sana("info", path).code == 0
    assert sana("info", path, "--json").code == 0
