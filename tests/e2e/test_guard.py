"""A broken stage is tried once more in fp32, says so, and fails clearly if that does not help."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from sana_cli.errors import ExitCode
from sana_cli.pipeline.values import BrokenValues, check_values
from tests.faults import raising

OPTIONS = ("--size", "64x64", "--steps", "2", "--device", "cpu", "--seed", "1")


@contextmanager
def spoiled(part: str, *, always: bool) -> Iterator[None]:
    """Within the block modules of these classes get a NaN before they compute: only below fp32, or always."""

    def spoil(module: nn.Module, inputs: Any) -> None:
        if type(module).__name__ in part.split():
            parameter = list(module.parameters())[-1]
            if always or parameter.dtype != torch.float32:
                parameter.view(-1)[0] = torch.nan

    with register_module_forward_pre_hook(spoil):
        yield


PARTS = {
    "Gemma2": "text encoding",
    "SanaTransformer2D": "denoising step 1",
    "Encoder Decoder": "decoding",
}


@pytest.mark.usefixtures("fast_bf16")
@pytest.mark.parametrize("part", PARTS)
def test_second_try_in_fp32(
    sana: Callable[..., Any],
    pipelines: Any,
    tmp_path: Path,
    part: str,
) -> None:
    model = pipelines.folder("plain", "bf16")
    path = tmp_path / "a.png"
    good = sana(
        "generate", "x", "-m", model, "-o", tmp_path / "b.png", *OPTIONS, "--precision", "fp32"
    )
    assert good.code == 0
    with spoiled(part, always=False):
        result = sana("generate", "x", "-m", model, "-o", path, *OPTIONS, "--json")
    assert result.code == 0, result.err
    assert f"values after {PARTS[part]} in bf16; trying once more in fp32" in result.err
    assert result.document["images"][0]["settings"]["precision"] == "fp32"


@pytest.mark.usefixtures("fast_bf16")
@pytest.mark.parametrize(
    ("part", "stage"), [("Gemma2", "text encoding"), ("Encoder Decoder", "encoding the picture")]
)
def test_second_try_for_a_file_of_prompts(
    sana: Callable[..., Any],
    pipelines: Any,
    tmp_path: Path,
    part: str,
    stage: str,
) -> None:
    """Texts and originals of all pictures are encoded at once, before the first is drawn."""
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "original.png")
    (tmp_path / "p.txt").write_text("x\ny\n")
    with spoiled(part, always=False):
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
    before_computing: Callable[..., Any],
    error: Exception,
) -> None:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "original.png")
    (tmp_path / "p.txt").write_text("x\ny\n")
    words = ("--prompts", tmp_path / "p.txt", "--image", tmp_path / "original.png")
    with before_computing("decode", raising(error)):  # the autoencoder
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
    part: str,
    precision: str,
) -> None:
    model = pipelines.folder("plain", "bf16")
    options = ("-o", tmp_path / "a.png", *OPTIONS, "--precision", precision)
    with spoiled(part, always=True):
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
