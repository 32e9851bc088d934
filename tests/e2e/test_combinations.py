"""`--upscale`, `--control`, `--pag`, sweeps and wildcards together with everything that they meet."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image, ImageDraw

from sana_cli.checkpoints.checkpoint import weight_headers
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.images.picture_file import read_settings
from sana_cli.pipeline.pipeline import SanaPipeline

SMALL = ("--size", "64x64", "--steps", 2, "--seed", 5, "--device", "cpu", "--precision", "fp32")
UPSCALE = ("--upscale", 2, "--upscale-strength", 0.5)
EVERYTHING = (*UPSCALE, "--control", "lines.png:0.8", "--pag", "2", "--wildcards")
MEETS: dict[str, tuple[Any, ...]] = {
    "w8a8": (), "int4": (), "w8a8 streamed": ("--plan", "streamed"),
    "streamed": ("--plan", "streamed"), "branches": ("--plan", "branches"), "tiles": ("--tile", 32),
    "resident": ("--count", 2), "lite": ("--decoder", "lite"), "tiny": ("--decoder", "tiny"),
    "LoRA": ("--lora", "style.safetensors:0.5"), "image": ("--image", "lines.png"),
    "strength": ("--image", "lines.png", "--strength", 0.5),
    "mask": ("--image", "lines.png", "--mask", "mask.png"),
    "no guidance": ("--guidance", 1), "euler": ("--scheduler", "flow-euler"),
    "interval": ("--guidance-interval", "0.2-0.8"), "webp": ("-o", "{seed}.webp"),
}  # fmt: skip


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder_files: ModuleType, reference: ModuleType,
    lora_files: ModuleType, pipelines: Any,
) -> Path:  # fmt: skip
    """A current folder with everything that options name."""
    monkeypatch.chdir(tmp_path)
    image = Image.new("RGB", (64, 64))
    ImageDraw.Draw(image).ellipse((8, 8, 50, 56), outline="white", width=3)
    image.save("lines.png")
    image.point(lambda value: 255 - value).save("mask.png")
    decoder_files.write_lite(tmp_path / "lite", reference)
    decoder_files.write_tiny(tmp_path / "tiny")
    plain = open_checkpoint(str(pipelines.folder("controlnet")))
    shapes = {name: shape for name, (_, shape) in weight_headers(plain, "transformer").items()}
    lora_files.write_lora(tmp_path / "style.safetensors", lora_files.random_lora(shapes))
    return tmp_path


@pytest.fixture(scope="module")
def models(pipelines: Any, quantized: Callable[..., Path]) -> Callable[[str], Path]:
    """The folder of a model with a ControlNet, as it is or quantized."""
    plain = pipelines.folder("controlnet")
    return lambda name: quantized(name, str(plain)) if name in ("w8a8", "int4") else plain


def decoder(words: tuple[Any, ...], folder: Path) -> tuple[Any, ...]:
    return tuple(folder / word if word in ("lite", "tiny") else word for word in words)


@pytest.mark.parametrize(
    ("features", "meets"),
    [
        *((EVERYTHING, meets) for meets in MEETS),
        *((UPSCALE, meets) for meets in ("w8a8", "tiles", "lite", "tiny", "image", "strength", "mask")),
    ],
    ids=lambda value: value if isinstance(value, str) else "everything" if len(value) > 4 else "upscale",
)  # fmt: skip
def test_a_picture_is_drawn_and_repeated(
    sana: Callable[..., Any], models: Callable[[str], Path], folder: Path, features: tuple[Any, ...],
    meets: str,
) -> None:  # fmt: skip
    model, end = models(meets.split()[0]), "webp" if meets == "webp" else "png"
    words = ("-m", model, *SMALL, *features, *decoder(MEETS[meets], folder), "--json")
    out = () if meets == "webp" else ("-o", "{seed}.png")
    result = sana("generate", "a {red|blue} cat", *words, *out)
    assert result.code == 0, result.err
    drawn = result.document["images"]
    assert [image["settings"]["seed"] for image in drawn] == list(range(5, 5 + len(drawn)))
    wanted = {"upscale"} if features == UPSCALE else {"upscale", "control", "pag", "template"}
    assert wanted <= set(read_settings(folder / f"5.{end}"))
    plan = MEETS[meets] if meets.endswith("streamed") or meets in ("branches", "tiles") else ()
    words = ("--from", f"5.{end}", "-m", model, "--device", "cpu", *plan)
    again = sana("generate", *words, "-o", f"again.{end}")
    assert again.code == 0, again.err
    assert (folder / f"again.{end}").read_bytes() == (folder / f"5.{end}").read_bytes()


def test_a_grid_shows_what_single_runs_draw(
    sana: Callable[..., Any], models: Callable[[str], Path], folder: Path
) -> None:
    words = ("generate", "a {red|blue} cat", "-m", models(""), *SMALL, *EVERYTHING)
    single = sana(*words, "--guidance", 3, "-o", "single.png")
    assert single.code == 0, single.err
    result = sana(*words, "--guidance", "3,4", "--grid", "-o", "x.png")
    assert result.code == 0, result.err
    assert Image.open("x-grid.png").width >= 256
    assert Path("x-guidance3.png").read_bytes() == Path("single.png").read_bytes()


@pytest.mark.parametrize(
    "axis", [("--upscale", "1,2"), ("--pag", "0,2"), ("--upscale-strength", "0.5,1")]
)
def test_it_is_an_axis_of_a_sweep(
    sana: Callable[..., Any], models: Callable[[str], Path], folder: Path, axis: tuple[str, str]
) -> None:
    fixed = dict(zip(UPSCALE[::2], UPSCALE[1::2], strict=True))
    more = [word for flag, value in fixed.items() if flag != axis[0] for word in (flag, value)]
    words = ("generate", "a cat", "-m", models(""), *SMALL, *more, *axis, "--grid")
    result = sana(*words, "-o", "x.png")
    assert result.code == 0, result.err
    assert len(list(folder.glob("x-*.png"))) == 3


OPTIONS: dict[str, Any] = {
    "upscale": 2, "upscale_strength": 0.5, "control": "lines.png", "control_scale": 0.8, "pag": "2",
    "wildcards": True, "steps": 2, "seed": 5,
}  # fmt: skip


def by_prompt_file(sana: Callable[..., Any], model: Path) -> Any:
    line = {"prompt": "a {red|blue} cat", "size": "64x64", **OPTIONS}
    Path("p.jsonl").write_text(json.dumps(line) + "\n")
    words = ("--prompts", "p.jsonl", "-m", model, "--device", "cpu", "--precision", "fp32")
    return sana("generate", *words, "-o", "other.png")


def by_repl(sana: Callable[..., Any], model: Path) -> Any:
    options = {**OPTIONS, "control": "lines.png:0.8", "size": "64x64", "wildcards": "on"}
    lines = [f"/{name} {value}" for name, value in options.items() if name != "control_scale"]
    with pytest.MonkeyPatch.context() as patch:
        text = "\n".join([*lines, "/output other-{seed}.png", "a {red|blue} cat", ""])
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        done = sana("repl", "-m", model, "--device", "cpu", "--precision", "fp32")
    Path("other-5.png").rename("other.png")
    return done


def by_python(sana: Callable[..., Any], model: Path) -> None:
    pipeline = SanaPipeline.open(str(model), device="cpu", precision="fp32")
    options = {**OPTIONS, "control": Path("lines.png"), "width": 64, "height": 64}
    pipeline("a {red|blue} cat", **options).save("other.png")


@pytest.mark.parametrize("way", [by_prompt_file, by_repl, by_python], ids=lambda way: way.__name__)
def test_every_way_draws_the_same(
    sana: Callable[..., Any], models: Callable[[str], Path], folder: Path, way: Callable[..., Any]
) -> None:
    words = ("generate", "a {red|blue} cat", "-m", models(""), *SMALL, *EVERYTHING)
    result = sana(*words, "-o", "x.png")
    assert result.code == 0, result.err
    done = way(sana, models(""))
    assert done is None or done.code == 0, done.err
    assert Path("other.png").read_bytes() == Path("x.png").read_bytes()
