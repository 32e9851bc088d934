"""`--image`, `--strength` and `--mask`: what stays, what changes, what is told, and what cannot work."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sana_cli.errors import ExitCode
from sana_cli.images.picture_file import read_settings
from sana_cli.images.png import XMP_KEY
from sana_cli.pipeline import SanaPipeline
from tests.pictures import pixels

CPU = ("--device", "cpu", "--precision", "fp32")
CAT = "a cat left of a pizza on a blue background"
PROMPT = "a dog left of a pizza on a blue background"
SHORT = ("--seed", 4, "--steps", 6, *CPU)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """In dB."""
    return float(10 * np.log10(255**2 / np.square(one - other).mean()))


@pytest.fixture(scope="module")
def original(sana: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "cat.png"
    assert sana("generate", CAT, "--seed", 3, *CPU, "-o", path).code == 0
    return path


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small picture to begin with, where it does not matter what it shows."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(path)
    return path


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    """The left half of 256 pixels, but for a border, in which a cat may become a dog."""
    image = Image.new("L", (256, 256))
    ImageDraw.Draw(image).rectangle((8, 40, 119, 219), fill=255)
    image.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.fixture
def draw(sana: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Draw with the built-in model; (the result, the pixels)."""

    def run(name: str, *options: object) -> Any:
        path = tmp_path / f"{name}.png"
        result = sana("generate", PROMPT, "-o", path, *SHORT, *options)
        assert result.code == 0, result.err
        return result, pixels(path)

    return run


# -- strength --------------------------------------------------------------------------------------


def test_less_strength_stays_nearer(draw: Callable[..., Any], original: Path) -> None:
    before = pixels(original)
    words = ("--image", original, "--guidance", 1.5, "--steps", 20)
    distances = [
        psnr(draw(f"s{strength}", *words, "--strength", strength)[1], before)
        for strength in (0.1, 0.3, 0.8)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 19


def test_the_same_prompt_keeps_the_picture(
    sana: Callable[..., Any], original: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    words = (CAT, *SHORT, "--steps", 20, "--image", original, "-o", path, "--force")
    assert sana("generate", *words, "--strength", 0.3).code == 0
    assert psnr(pixels(path), pixels(original)) > 30
    assert sana("generate", *words, "--strength", 1).code == 0
    assert psnr(pixels(path), pixels(original)) < 25


def test_full_strength_draws_from_noise(draw: Callable[..., Any], original: Path) -> None:
    _, usual = draw("usual")
    result, picture = draw("full", "--image", original, "--strength", 1)
    assert np.array_equal(picture, usual)
    assert "--strength 1 draws from noise: only the size is the picture's" in result.err
    assert psnr(picture, pixels(original)) < 19


@pytest.mark.parametrize("scheduler", ["flow-dpm", "flow-euler"])
def test_the_share_of_steps(original: Path, scheduler: str) -> None:
    ran: list[tuple[int, int]] = []
    with SanaPipeline.open(device="cpu") as pipeline:
        result = pipeline(
            PROMPT, image=str(original), strength=0.29, steps=10, scheduler=scheduler,
            on_step=lambda *step: ran.append(step),
        )  # fmt: skip
    assert ran == [(1, 2), (2, 2)]
    assert result.passes is not None
    assert result.passes.computed == 4, "both branches"


# -- sizes and files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((130, 90), (), (128, 96)),
        ((600, 300), (), (352, 192)),
        ((256, 256), ("--size", "64x96"), (64, 96)),
        ((300, 150), ("--width", "128"), (128, 64)),
        ((300, 150), ("--height", "64"), (128, 64)),
    ],
    ids=["nearest", "no more than native", "size", "width", "height"],
)
def test_sizes(
    draw: Callable[..., Any], tmp_path: Path, size: tuple[int, int], options: tuple[str, ...],
    expected: tuple[int, int],
) -> None:  # fmt: skip
    Image.effect_noise(size, 50).save(tmp_path / "in.png")
    result, picture = draw("a", "--image", tmp_path / "in.png", "--steps", 2, *options)
    assert picture.shape == (expected[1], expected[0], 3)
    assert f"in.png ({size[0]}x{size[1]}) is resized" in result.err
    assert f"to {expected[0]}x{expected[1]}" in result.err


def test_bins_keep_the_pictures_size(
    sana: Callable[..., Any], pipelines: Any, tmp_path: Path
) -> None:
    Image.effect_noise((100, 57), 50).save(tmp_path / "in.png")
    Image.new("L", (100, 57), 255).save(tmp_path / "all.png")
    masked = Image.new("L", (100, 57))
    masked.paste(255, (30, 20, 60, 40))
    masked.save(tmp_path / "mask.png")
    words = ("-m", pipelines.folder("native_512"), "--steps", 2, "--bins", *CPU)
    result = sana(
        "generate", "x", *words, "--image", tmp_path / "in.png", "--mask", tmp_path / "mask.png",
        "-o", tmp_path / "a.png",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert read_settings(tmp_path / "a.png")["drawn_size"] == "672x384"
    before, after = pixels(tmp_path / "in.png"), pixels(tmp_path / "a.png")
    stays = np.asarray(masked) == 0
    assert np.array_equal(after[stays], before[stays])
    assert not np.array_equal(after, before)


# -- masks -----------------------------------------------------------------------------------------


def test_a_mask_keeps_the_rest(draw: Callable[..., Any], original: Path, mask: Path) -> None:
    _, picture = draw("masked", "--image", original, "--mask", mask)
    before, redrawn = pixels(original), np.asarray(Image.open(mask)) > 0
    assert np.array_equal(picture[~redrawn], before[~redrawn])
    assert psnr(picture[redrawn], before[redrawn]) < 20
    with Image.open(mask.parent / "masked.png") as image:
        assert "/compositeWithTrainedAlgorithmicMedia<" in image.text[XMP_KEY]
    settings = read_settings(mask.parent / "masked.png")
    assert settings["strength"] == 1.0, "white parts are drawn again"


def test_every_plan_draws_the_same(
    draw: Callable[..., Any], sana: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    Image.effect_noise((96, 64), 90).save(tmp_path / "in.png")
    words = ("--image", tmp_path / "in.png", "--strength", 0.7, "--steps", 4, "-m", tiny_model)
    pictures = [draw(plan, *words, "--plan", plan)[1] for plan in ("resident", "stages")]
    assert np.array_equal(*pictures)
    apart, streamed = (
        draw(plan, *words, "--plan", plan, "--no-prompt-cache")[1]
        for plan in ("branches", "streamed")
    )
    assert np.array_equal(apart, streamed)
    assert np.abs(apart - pictures[0]).max() <= 1
    target = tmp_path / "many.png"
    assert sana("generate", PROMPT, *SHORT, *words, "--count", 2, "-o", target).code == 0
    assert np.array_equal(pixels(tmp_path / "many-4.png"), pictures[0])


def test_an_interrupted_decoding_is_finished_with_the_original(
    sana: Callable[..., Any], draw: Callable[..., Any], photo: Path, mask: Path, tmp_path: Path,
    before_loading: Callable[..., Any],
) -> None:  # fmt: skip
    _, expected = draw("whole", "--image", photo, "--mask", mask)
    begun: list[int] = []

    def interrupt_second() -> None:
        """First the encoder is loaded, then the decoder."""
        begun.append(1)
        if len(begun) == 2:
            raise KeyboardInterrupt

    with before_loading("decode", interrupt_second):
        words = ("--image", photo, "--mask", mask, *SHORT)
        result = sana("generate", PROMPT, *words, "-o", tmp_path / "a.png")
    assert result.code == ExitCode.INTERRUPTED
    mask.unlink()  # the kept latents need neither file
    result = sana("decode", tmp_path / "a.png.latents.safetensors", "--device", "cpu")
    assert result.code == 0, result.err
    assert np.array_equal(pixels(tmp_path / "a.png"), expected)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "whole.png").read_bytes()


# -- once more -------------------------------------------------------------------------------------


def test_from_repeats_it(
    sana: Callable[..., Any], draw: Callable[..., Any], photo: Path, mask: Path, tmp_path: Path
) -> None:
    draw("first", "--image", photo, "--mask", mask, "--strength", 0.8)
    result = sana("generate", "--from", tmp_path / "first.png", "-o", tmp_path / "again.png")
    assert result.code == 0, result.err
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "first.png").read_bytes()
    told = sana("info", tmp_path / "first.png").out
    assert f"--image {photo} --strength 0.8 --mask {mask}" in told
    words = ("generate", "--from", tmp_path / "first.png", "-o", tmp_path / "b.png")
    named = sana(*words, "--image", shutil.copy(photo, tmp_path / "renamed.png"))
    assert (named.code, "another picture" in named.err) == (0, False)
    assert np.array_equal(pixels(tmp_path / "b.png"), pixels(tmp_path / "first.png"))
    other = sana(*words, "--image", tmp_path / "first.png", "--force")
    assert other.code == 0
    assert (
        f"another picture than {tmp_path / 'first.png'}: drawn without its mask and strength\n"
        in other.err
    )
    settings = read_settings(tmp_path / "b.png")
    assert "mask" not in settings, "another picture's mask does not fit"
    assert settings["strength"] == 0.6
    typed = sana(*words, "--image", tmp_path / "first.png", "--strength", 0.5, "--force")
    assert "drawn without its mask\n" in typed.err
    Image.effect_noise((256, 256), 9).save(mask)
    result = sana(*words, "--force")
    assert result.code == ExitCode.USAGE
    assert f"was made from {mask}, which has changed since" in result.err
    mask.unlink()
    result = sana(*words, "--force")
    assert result.code == ExitCode.USAGE
    assert f"was made from {mask}, which is not there" in result.err
    assert "--mask FILE" in result.err


def test_from_an_original_that_was_moved(
    sana: Callable[..., Any], draw: Callable[..., Any], photo: Path, tmp_path: Path
) -> None:
    """It is found beside the picture, and may be named; elsewhere it is missed, before any work."""
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    photo = shutil.copy(photo, tmp_path / "photo.png")
    draw("first", "--image", photo, "--strength", 0.5)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = photo.rename(elsewhere / photo.name)
    result = sana("generate", "--from", first, "-o", again)
    assert result.code == ExitCode.USAGE
    assert f"{first} was made from {photo}, which is not there" in result.err
    assert "put it there, or name another one: --image FILE" in result.err
    assert not again.exists()
    assert sana("generate", "--from", first, "--image", moved, "-o", again).code == 0
    assert np.array_equal(pixels(again), pixels(first))
    shutil.copy(first, elsewhere / "first.png")
    beside = sana("generate", "--from", elsewhere / "first.png", "-o", again, "--force")
    assert beside.code == 0, beside.err
    assert np.array_equal(pixels(again), pixels(first))


def test_a_file_of_prompts(sana: Callable[..., Any], photo: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text(
        f'{{"prompt": "a dog", "image": "{photo}", "strength": 0.5, "seed": 4}}\n'
        f'{{"prompt": "a dog", "image": "{photo}", "seed": 4}}\n{{"prompt": "a dog", "seed": 4}}\n'
    )
    (tmp_path / "out").mkdir()
    Image.new("L", (8, 8), 255).save(tmp_path / "all.png")
    masks = ("--mask", tmp_path / "all.png", "-o", f"{tmp_path}/masked/")
    masked = sana("generate", "--prompts", lines, *masks, *CPU)
    assert "line 3: --mask needs a picture" in masked.err, "what was typed is for every line"
    assert masked.code == ExitCode.USAGE
    words = ("generate", "--prompts", lines, "-o", tmp_path / "out", "--steps", 4, *CPU)
    assert sana(*words).code == 0
    paths = sorted((tmp_path / "out").glob("*.png"))
    assert [read_settings(path).get("strength") for path in paths] == [0.5, 0.6, None]
    alone = tmp_path / "alone.png"
    options = ("--image", photo, "--strength", 0.5, "--seed", 4, "--steps", 4, *CPU)
    assert sana("generate", "a dog", *options, "-o", alone).code == 0
    assert alone.read_bytes() == paths[0].read_bytes()
    assert "3 of 3 pictures are done" in sana(*words).err


# -- memory ----------------------------------------------------------------------------------------


def test_dry_run_tells_the_encoder(sana: Callable[..., Any], original: Path) -> None:
    words = ("generate", PROMPT, "--image", original, *CPU, "--dry-run", "--json")
    stages = {stage["stage"]: stage for stage in sana(*words).document["stages"]}
    assert list(stages) == ["encode", "text", "denoise", "decode"]
    assert stages["encode"]["weights"] > 0
    assert "encode" not in sana("generate", PROMPT, *CPU, "--dry-run").out
    large = sana(*words, "--size", "2048x2048").document["stages"][0]
    assert large["activations"] > 30 * stages["encode"]["activations"]


# -- misuse ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--strength", "0.5"), "--strength needs a picture"),
        (("--mask", "{mask}"), "--mask needs a picture"),
        (("--image", "{original}", "--strength", "0"), "--strength 0 is out of range"),
        (("--image", "{original}", "--strength", "1.5"), "--strength 1.5 is out of range"),
        (("--image", "{original}", "--strength", "nan"), "--strength nan is out of range"),
        (("--image", "{original}", "--strength", "0.01"), "leaves none to run"),
        (("--image", "no-such.png"), "no such picture: no-such.png"),
        (("--image", "{folder}"), "is a folder"),
        (("--image", ""), "--image is empty"),
        (("--image", "{original}", "--mask", ""), "--mask is empty"),
        (("--image", "{text}"), "no known format"),
        (("--image", "{cut}"), "cannot read"),
        (("--image", "{original}", "--mask", "{black}"), "nothing white"),
        (("--image", "{original}", "--mask", "{wide}"), "the mask does not fit"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_misuse(
    sana: Callable[..., Any], original: Path, mask: Path, tmp_path: Path,
    options: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(original.read_bytes()[:20000])
    Image.new("L", (256, 256)).save(tmp_path / "black.png")
    Image.new("L", (256, 128), 255).save(tmp_path / "wide.png")
    files = {name: tmp_path / f"{name}.png" for name in ("text", "cut", "black", "wide")}
    words = [o.format(original=original, mask=mask, folder=tmp_path, **files) for o in options]
    result = sana("generate", PROMPT, *words, *SHORT, "-o", tmp_path / "a.png")
    assert result.code == ExitCode.USAGE, result.err
    assert message in result.err
    assert not (tmp_path / "a.png").exists()
