"""A broken stage is tried once more in fp32, says so, and fails clearly if that does not help."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from sana_cli.errors import ExitCode
from sana_cli.pipeline import components, init_images
from sana_cli.pipeline.values import BrokenValues, check_values

OPTIONS = ("--size", "64x64", "--steps", "2", "--device", "cpu", "--seed", "1")


def spoil(
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    *,
    always: bool,
    half: str = "decoder.",
) -> None:
    """Put a NaN into a part's weights, of an autoencoder into one `half`: only when it runs below fp32, or always."""
    other = {"decoder.": "encoder.", "encoder.": "decoder."}[half]
    original = getattr(components, f"load_{part}")

    def load(checkpoint: Any, *, dtype: str, device: torch.device, **options: Any) -> Any:
        module = original(checkpoint, dtype=dtype, device=device, **options)
        if always or dtype != "fp32":
            weights = module.model if part == "prompt_encoder" else module
            parameter = [p for n, p in weights.named_parameters() if not n.startswith(other)][-1]
            with torch.no_grad():
                parameter.view(-1)[0] = torch.nan
        return module

    monkeypatch.setattr(components, f"load_{part}", load)


PARTS = {
    "prompt_encoder": "text encoding",
    "transformer": "denoising step 1",
    "vae": "decoding",
}


@pytest.mark.usefixtures("fast_bf16")
@pytest.mark.parametrize("part", PARTS)
def test_second_try_in_fp32(
    sana: Callable[..., Any],
    pipelines: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    model = pipelines.folder("plain", "bf16")
    path = tmp_path / "a.png"
    good = sana(
        "generate", "x", "-m", model, "-o", tmp_path / "b.png", *OPTIONS, "--precision", "fp32"
    )
    assert good.code == 0
    spoil(monkeypatch, part, always=False)
    result = sana("generate", "x", "-m", model, "-o", path, *OPTIONS, "--json")
    assert result.code == 0, result.err
    assert f"values after {PARTS[part]} in bf16; trying once more in fp32" in result.err
    assert result.document["images"][0]["settings"]["precision"] == "fp32"


@pytest.mark.usefixtures("fast_bf16")
@pytest.mark.parametrize(
    ("part", "stage"), [("prompt_encoder", "text encoding"), ("vae", "encoding the picture")]
)
def test_second_try_for_a_file_of_prompts(
    sana: Callable[..., Any],
    pipelines: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    stage: str,
) -> None:
    """Texts and originals of all pictures are encoded at once, before the first is drawn."""
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "original.png")
    (tmp_path / "p.txt").write_text("x\ny\n")
    spoil(monkeypatch, part, always=False, half="encoder.")
    result = sana(
        "generate", "--prompts", tmp_path / "p.txt", "--image", tmp_path / "original.png", "-m",
        pipelines.folder("plain", "bf16"), "-o", f"{tmp_path}/{{index}}.png", *OPTIONS, "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert f"values after {stage} in bf16; trying once more in fp32" in result.err
    assert [i["settings"]["precision"] for i in result.told("drawn")] == ["fp32", "fp32"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory")])
def test_no_memory_for_the_originals_of_a_file_of_prompts(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(init_images, "encode_image", fail)
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "original.png")
    (tmp_path / "p.txt").write_text("x\ny\n")
    words = ("--prompts", tmp_path / "p.txt", "--image", tmp_path / "original.png")
    result = sana("generate", *words, "-m", tiny_model, "-o", tmp_path, *OPTIONS)
    assert result.code == ExitCode.ENVIRONMENT
    assert "error: out of memory at 64x64" in result.err


@pytest.mark.usefixtures("fast_bf16")
@pytest.mark.parametrize("precision", ["auto", "fp32"])
@pytest.mark.parametrize("part", PARTS)
def test_clear_failure_when_fp32_does_not_help(
    sana: Callable[..., Any],
    pipelines: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    precision: str,
) -> None:
    spoil(monkeypatch, part, always=True)
    model = pipelines.folder("plain", "bf16")
    options = ("-o", tmp_path / "a.png", *OPTIONS, "--precision", precision)
    result = sana("generate", "x", "-m", model, *options)
    assert result.code == ExitCode.CHECKPOINT
    assert f"error: no picture: NaN or infinite values after {PARTS[part]}" in result.err
    assert ("trying once more" in result.err) == (precision == "auto")
    assert list(tmp_path.glob("*.png")) == []


@pytest.mark.parametrize(
    ("tensor", "broken"),
    [
        (torch.tensor([1.0, torch.nan]), True),
        (torch.tensor([1.0, torch.inf]), True),
        (torch.full((3, 3), 0.5), True),
        (torch.zeros(4), True),
        (torch.tensor([0.0, 1.0]), False),
    ],
)
def test_check_values(tensor: Tensor, broken: bool) -> None:
    if broken:
        with pytest.raises(BrokenValues):
            check_values(tensor, "a test")
    else:
        check_values(tensor, "a test")
