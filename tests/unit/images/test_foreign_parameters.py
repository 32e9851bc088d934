"""`parameters`: which program wrote them, and what is in quotes."""

import pytest

from sana_cli.images.foreign_parameters import settings_of_parameters

LAST = "Steps: 5, Sampler: Euler, CFG scale: 7, Seed: 1"


@pytest.mark.parametrize(
    ("more", "program"),
    [
        ("", "another program (parameters)"),
        (", Version: v1.10.1", "AUTOMATIC1111's web UI"),
        (", Version: f2.0.1v1.10.1-previous-1", "Forge"),
        (", Version: stable-diffusion.cpp", "stable-diffusion.cpp"),
        (", App: SD.Next, Version: 1a2b3c4", "SD.Next"),
        (", Version: ComfyUI", "ComfyUI"),
    ],
)
def test_programs(more: str, program: str) -> None:
    found = settings_of_parameters(f"a fox\n{LAST}{more}", "64x64")
    assert found is not None
    assert found.program == program


def test_values_in_quotes_keep_their_commas() -> None:
    found = settings_of_parameters(
        f'a fox\n{LAST}, Lora hashes: "a: 1, b: 2", Size: 10x20', "64x64"
    )
    assert found is not None
    assert found.others["Lora hashes"] == "a: 1, b: 2"
    assert found.size == "10x20"


@pytest.mark.parametrize(
    ("more", "upscale", "strength", "left"),
    [
        ("Denoising strength: 0.7, Hires upscale: 1.5", 1.5, 0.7, set()),
        ("Denoising strength: 0.7, Hires upscale: 2, Hires steps: 5, Hires upscaler: Latent", 2, 0.7, {"Hires upscaler"}),
        ("Hires upscale: 2, Hires steps: 0", 2, None, set()),
        ("Denoising strength: 0.7, Hires upscale: 2, Hires steps: 9", 2, 0.7, {"Hires steps"}),
        ("Denoising strength: 0.7", None, None, {"Denoising strength"}),
        ("Denoising strength: 0.7, Hires upscale: 1", None, None, {"Denoising strength", "Hires upscale"}),
        ("Denoising strength: 0.7, Hires upscale: big", None, None, {"Denoising strength", "Hires upscale"}),
    ],
)  # fmt: skip
def test_hires_fix(
    more: str, upscale: float | None, strength: float | None, left: set[str]
) -> None:
    found = settings_of_parameters(f"a fox\n{LAST}, {more}", "64x64")
    assert found is not None
    assert (found.upscale, found.upscale_strength) == (upscale, strength)
    assert set(found.others) - {"Sampler"} == left


def test_fewer_than_three_pairs_are_a_prompt() -> None:
    assert settings_of_parameters("a fox: red, a cat: blue", "64x64") is None
