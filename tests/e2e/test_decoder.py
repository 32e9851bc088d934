"""`--decoder`: it is a part of a picture's settings everywhere, and one that does not fit is refused before any work."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import read_settings
from sana_cli.pipeline.pipeline import SanaPipeline

FAST = ("--size", "64x64", "--steps", 2, "--seed", 3, "--device", "cpu", "--precision", "fp32")


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


@pytest.fixture
def lite(decoder_files: ModuleType, reference: ModuleType, tmp_path: Path) -> Path:
    return decoder_files.write_lite(tmp_path / "lite", reference)


@pytest.fixture
def tiny(decoder_files: ModuleType, tmp_path: Path) -> Path:
    return decoder_files.write_tiny(tmp_path / "small")


@pytest.fixture
def draw(sana: Callable[..., Any], tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Draw with the tiny model; the picture's file."""

    def run(name: str, *options: object, model: object = tiny_model) -> Path:
        path = tmp_path / f"{name}.png"
        result = sana("generate", "A Fox", "-m", model, "-o", path, *FAST, *options)
        assert result.code == 0, result.err
        return path

    return run


@pytest.mark.parametrize("kind", ["lite", "tiny"])
def test_a_picture_carries_it_and_repeats(
    kind: str, request: pytest.FixtureRequest, draw: Callable[..., Path], sana: Callable[..., Any],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = request.getfixturevalue(kind)
    plain, other = draw("plain"), draw("other", "--decoder", folder)
    assert not np.array_equal(pixels(plain), pixels(other))
    settings = read_settings(other)
    assert settings["decoder"] == str(folder)
    assert "decoder" not in read_settings(plain)
    monkeypatch.setenv("SANA_DECODER", str(folder))
    by_setting = draw("setting")
    assert np.array_equal(pixels(by_setting), pixels(other))
    again = tmp_path / "again.png"
    for picture in (plain, other):  # a setting does not change what is repeated
        model = ("--model", request.getfixturevalue("tiny_model"))
        assert sana("generate", "--from", picture, "-o", again, "--force", *model).code == 0
        assert np.array_equal(pixels(again), pixels(picture))
    assert f"--decoder {folder}" in sana("info", other).out


def test_a_changed_decoder_is_told(
    tiny: Path, decoder_files: ModuleType, draw: Callable[..., Path], sana: Callable[..., Any],
    tiny_model: Path, tmp_path: Path,
) -> None:  # fmt: skip
    picture = draw("first", "--decoder", tiny)
    for path in tiny.iterdir():
        path.unlink()
    tiny.rmdir()
    decoder_files.write_tiny(tiny, seed=1)
    result = sana("generate", "--from", picture, "-m", tiny_model, "-o", tmp_path / "b.png")
    assert result.code == 0
    assert "another decoder of the name" in result.err


def test_python_and_memory(
    tiny: Path, lite: Path, tiny_model: Path, draw: Callable[..., Path]
) -> None:
    """One pipeline changes decoders from picture to picture, and its plan knows them."""
    expected = {name: pixels(draw(Path(name).stem, "--decoder", name)) for name in (tiny, lite)}
    with SanaPipeline.open(tiny_model, device="cpu", precision="fp32") as pipeline:
        for name in (tiny, lite, tiny):
            result = pipeline("A Fox", width=64, height=64, steps=2, seed=3, decoder=str(name))
            assert np.array_equal(np.asarray(result.image), expected[name])


def test_lines_of_a_prompt_file(
    tiny: Path, lite: Path, draw: Callable[..., Path], sana: Callable[..., Any], tiny_model: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    expected = [pixels(draw(name.name, "--decoder", name)) for name in (tiny, lite)]
    lines = [{"prompt": "A Fox", "decoder": str(name), "id": name.name} for name in (tiny, lite)]
    (tmp_path / "out").mkdir()
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    words = (
        "generate",
        "--prompts",
        file,
        "-m",
        tiny_model,
        "-o",
        tmp_path / "out" / "{id}.png",
        *FAST,
    )
    assert sana(*words).code == 0
    for name, picture in zip((tiny, lite), expected, strict=True):
        assert np.array_equal(pixels(tmp_path / "out" / f"{name.name}.png"), picture)
    again = sana(*words, "--json")
    assert [entry["status"] for entry in again.told("done")] == ["done", "done"]


def test_latents_are_finished_with_it(
    tiny: Path, draw: Callable[..., Path], sana: Callable[..., Any], tiny_model: Path, tmp_path: Path,
    before_computing: Callable[..., Any],
) -> None:  # fmt: skip
    """The kept latents name the decoder; `sana decode --decoder full` takes the model's own."""
    expected = {"tiny": pixels(draw("tiny", "--decoder", tiny)), "full": pixels(draw("full"))}

    def stop() -> None:
        raise KeyboardInterrupt

    target = tmp_path / "stopped.png"
    words = ("generate", "A Fox", "-m", tiny_model, "-o", target, *FAST, "--decoder", tiny)
    with before_computing("tiny", stop):
        assert sana(*words).code == ExitCode.INTERRUPTED
    kept = target.with_name("stopped.png.latents.safetensors")
    content = kept.read_bytes()
    assert sana("decode", kept, "--device", "cpu").code == 0
    assert np.array_equal(pixels(target), expected["tiny"])
    kept.write_bytes(content)
    result = sana(
        "decode", kept, "--decoder", "full", "-o", tmp_path / "own.png", "--device", "cpu"
    )
    assert result.code == 0, result.err
    assert np.array_equal(pixels(tmp_path / "own.png"), expected["full"])
    assert "decoder" not in read_settings(tmp_path / "own.png")


def test_the_forecast_knows_it(tiny: Path, sana: Callable[..., Any], tiny_model: Path) -> None:
    def decode_bytes(*options: object) -> int:
        words = ("--size", "1024x1024", "--device", "cpu", "--dry-run", "--json")
        result = sana("generate", "A Fox", "-m", tiny_model, *words, *options)
        assert result.code == 0, result.err
        (stage,) = [s for s in result.document["stages"] if s["stage"] == "decode"]
        return stage["activations"]

    assert decode_bytes("--decoder", tiny) < decode_bytes()


@pytest.mark.parametrize(
    ("name", "message", "code"),
    [
        ("nothing", "there is no decoder 'nothing'", ExitCode.USAGE),
        ("tinny", "did you mean 'tiny'", ExitCode.USAGE),
        ("lite", "the decoder lite is not here", ExitCode.ENVIRONMENT),
        ("tiny", "the decoder tiny is not here", ExitCode.ENVIRONMENT),
        ("someone/decoder", "the decoder someone/decoder is not here", ExitCode.ENVIRONMENT),
    ],
)
def test_what_is_not_here(
    name: str, message: str, code: ExitCode, sana: Callable[..., Any], tiny_model: Path
) -> None:
    result = sana("generate", "a fox", "-m", tiny_model, "--decoder", name, "--offline", *FAST)
    assert result.code == code
    assert message in result.err


def test_quantized_with_it(
    tiny: Path, lite: Path, sana: Callable[..., Any], tiny_model: Path, tmp_path: Path,
    draw: Callable[..., Path],
) -> None:  # fmt: skip
    """Lite becomes the folder's own decoder, quantized; the tiny one lies beside it."""
    words = ("quantize", tiny_model, "--samples", 0, "--quiet", "--decoder")
    assert sana(*words, lite, tmp_path / "with-lite").code == 0
    quantized = pixels(draw("quantized", model=tmp_path / "with-lite"))
    assert np.abs(quantized - pixels(draw("float", "--decoder", lite))).mean() < 20
    assert np.abs(quantized - pixels(draw("own"))).mean() > 30
    assert sana(*words, tiny, tmp_path / "with-tiny").code == 0
    found = draw("beside", "--decoder", "tiny", model=tmp_path / "with-tiny")
    assert read_settings(found)["decoder"] == "tiny"
