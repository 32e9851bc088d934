"""`sana generate` draws, seed for seed, what diffusers draws: fp32, on the CPU, to the PNG's last bit but one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

ANY_PIXEL = 2  # of 255
ON_AVERAGE = 0.2  # of 255

Picture = NDArray[np.uint8]
Draw = Callable[..., list[Picture]]

FAMILIES = ["plain", "qk_norm", "pos_embed_1", "pos_embed_2", "sprint", "flow_euler"]
LONG = "a red fox on a lighthouse rock at dawn, painted in oil, " * 40  # some 800 tokens


def assert_same_picture(ours: Picture, theirs: Picture) -> None:
    assert ours.shape == theirs.shape
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    print(f"differs by {difference.max()} at most, {difference.mean():.4f} on average")  # noqa: T201
    assert difference.max() <= ANY_PIXEL, f"a pixel differs by {difference.max()}/255"
    assert difference.mean() <= ON_AVERAGE, f"differs by {difference.mean():.2f}/255 on average"


def options(
    *,
    width: int = 128,
    height: int = 96,
    steps: int = 4,
    guidance: float = 4.5,
    seed: int = 7,
    negative: str = "",
    enhance: bool = True,
) -> list[object]:
    """The settings of `reference.draw` as command-line options."""
    given: list[object] = [
        "--size", f"{width}x{height}", "--steps", steps, "--guidance", guidance, "--seed", seed,
    ]  # fmt: skip
    if negative:
        given += ["--negative", negative]
    return given if enhance else [*given, "--no-enhance"]


@pytest.fixture
def check(pipelines: Any, reference: ModuleType, sana_draw: Draw) -> Callable[..., None]:
    """Draw with both and compare. Keyword arguments are those of `reference.draw`."""

    def run(name: str, *, prompt: str = reference.PROMPT, steps: int = 4, **settings: Any) -> None:
        theirs = pipelines.draw(name, prompt=prompt, steps=steps, **settings)
        given = options(steps=steps, **settings)
        (ours,) = sana_draw(pipelines.folder(name), prompt, *given)
        assert_same_picture(ours, theirs)

    return run


# 20 are drawn by `test_defaults`, 4 everywhere else.
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("name", FAMILIES)
def test_steps(check: Callable[..., None], name: str, steps: int) -> None:
    check(name, steps=steps)


@pytest.mark.parametrize("size", [(32, 32), (96, 160), (256, 64), (224, 192)], ids=str)
@pytest.mark.parametrize("name", ["plain", "pos_embed_1", "pos_embed_2", "sprint"])
def test_sizes(check: Callable[..., None], name: str, size: tuple[int, int]) -> None:
    width, height = size
    check(name, width=width, height=height)


@pytest.mark.parametrize(
    ("name", "guidance"),
    [
        *(("plain", value) for value in (0.0, 1.0, 1.5, 9.0)),  # no, one and two branches
        *(("sprint", value) for value in (0.0, 1.0, 9.0)),  # always one, with an embedded value
        ("qk_norm", 9.0),
        ("flow_euler", 1.5),
    ],
)
def test_guidance(check: Callable[..., None], name: str, guidance: float) -> None:
    check(name, guidance=guidance)


@pytest.mark.parametrize(
    "negative", ["blurry", "  Low Quality, BLURRY ", LONG], ids=["word", "case", "long"]
)
@pytest.mark.parametrize("name", ["plain", "pos_embed_2"])
def test_negative_prompt(check: Callable[..., None], name: str, negative: str) -> None:
    check(name, negative=negative)


PROMPTS = {
    "one_word": "fox",
    "upper_case_and_spaces": "  A RED Fox\ton a Lighthouse  rock \n",
    "unknown_words": "zwölf Boxkämpfer 日本の狐 🦊",
    "dashes": "fox -- with --options - inside",
    "long": LONG,
}


@pytest.mark.parametrize("enhance", [True, False], ids=["enhance", "no_enhance"])
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_prompts(check: Callable[..., None], prompt: str, enhance: bool) -> None:
    check("plain", prompt=prompt, enhance=enhance)


@pytest.mark.parametrize("enhance", [True, False], ids=["enhance", "no_enhance"])
def test_a_long_prompt_of_another_pipeline(check: Callable[..., None], enhance: bool) -> None:
    """Text is encoded by the same code for every family; diffusers has a pipeline of its own for Sprint."""
    check("sprint", prompt=PROMPTS["long"], enhance=enhance)


@pytest.mark.parametrize("seed", [0, 1, 2**32 + 5, 2**64 - 1])
def test_seeds(check: Callable[..., None], seed: int) -> None:
    check("plain", seed=seed)


@pytest.mark.parametrize("name", ["plain", "sprint", "flow_euler"])
def test_count(pipelines: Any, reference: ModuleType, sana_draw: Draw, name: str) -> None:
    """Seeds S, S+1, S+2, each as if it had been drawn alone."""
    pictures = sana_draw(pipelines.folder(name), reference.PROMPT, *options(seed=11), "--count", 3)
    assert len(pictures) == 3
    for seed, ours in zip((11, 12, 13), pictures, strict=True):
        assert_same_picture(ours, pipelines.draw(name, steps=4, seed=seed))


@pytest.mark.parametrize(
    ("name", "scheduler"), [("plain", "flow-euler"), ("flow_euler", "flow-dpm")]
)
def test_scheduler_option(
    pipelines: Any, reference: ModuleType, sana_draw: Draw, name: str, scheduler: str
) -> None:
    """Another sampler than the checkpoint's own, with the checkpoint's shift."""
    pipeline = pipelines.pipeline(name)
    own = pipeline.scheduler
    pipeline.register_modules(
        scheduler=reference.make_scheduler(scheduler, reference.VARIANTS[name].shift)
    )
    try:
        theirs = reference.draw(pipeline, steps=5)
    finally:
        pipeline.register_modules(scheduler=own)
    (ours,) = sana_draw(
        pipelines.folder(name), reference.PROMPT, *options(steps=5), "--scheduler", scheduler
    )
    assert_same_picture(ours, theirs)


@pytest.mark.parametrize("name", FAMILIES)
def test_defaults(pipelines: Any, reference: ModuleType, sana_draw: Draw, name: str) -> None:
    """Without options: the native size, guidance 4.5, 20 steps, and 2 for Sprint."""
    side = 32 * reference.VARIANTS[name].sample_size
    steps = 2 if reference.VARIANTS[name].sprint else 20
    (ours,) = sana_draw(pipelines.folder(name), reference.PROMPT, "--seed", 3)
    theirs = pipelines.draw(name, seed=3, steps=steps, width=side, height=side)
    assert_same_picture(ours, theirs)


@pytest.mark.parametrize("size", [(512, 320), (320, 512), (96, 96), (300, 500)], ids=str)
def test_bins(
    pipelines: Any, reference: ModuleType, sana_draw: Draw, size: tuple[int, int]
) -> None:
    """`--bins` is diffusers' resolution binning: draw at the nearest published shape, then resize and crop."""
    width, height = size
    with torch.no_grad():
        theirs = pipelines.pipeline("native_512")(
            reference.PROMPT, width=width, height=height, num_inference_steps=2, output_type="np",
            use_resolution_binning=True, generator=torch.Generator("cpu").manual_seed(7),
        ).images[0]  # fmt: skip
    (ours,) = sana_draw(
        pipelines.folder("native_512"),
        reference.PROMPT,
        *options(width=width, height=height, steps=2),
        exact=False,
    )
    assert_same_picture(ours, np.round(theirs * 255).astype(np.uint8))


@pytest.mark.parametrize("layout", ["sharded", "fp16", "bf16", "bf16_unnamed"])
@pytest.mark.parametrize("name", ["plain", "sprint"])
def test_layouts(
    pipelines: Any, reference: ModuleType, sana_draw: Draw, name: str, layout: str
) -> None:
    """Shards, variant files and half-precision weights, each as diffusers itself reads that folder."""
    folder: Path = pipelines.folder(name, layout)
    pipeline = type(pipelines.pipeline(name)).from_pretrained(
        folder, variant=reference.LAYOUTS[layout].file_variant, dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = reference.draw(pipeline, steps=4)
    draw = partial(sana_draw, folder, reference.PROMPT)
    assert_same_picture(draw(*options())[0], theirs)
    if layout != "sharded":  # rounding the weights shows, so the folder's own were read
        assert (theirs != pipelines.draw(name, steps=4)).any()
