"""The headers of a checkpoint's parts, under the names of its modules."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sana_cli.checkpoints.checkpoint import module_names, weight_files, weight_headers
from sana_cli.checkpoints.obtaining import Absent
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.errors import SanaError


def test_names_of_modules() -> None:
    """Files that were saved with a language-model head have a prefix, and maybe the head."""
    names = ["model.norm.weight", "lm_head.weight"]
    assert module_names("text_encoder", names) == {"norm.weight": "model.norm.weight"}
    assert module_names("vae", names) == {name: name for name in names}


def test_headers_are_those_of_the_files(folder: Path) -> None:
    checkpoint = open_checkpoint(str(folder))
    (path,) = (folder / "text_encoder").glob("*.safetensors")
    tensors = load_file(path)
    path.unlink()
    prefixed = {f"model.{name}": tensor for name, tensor in tensors.items()}
    save_file(prefixed | {"lm_head.weight": torch.ones(2, 2)}, path)
    found = weight_headers(checkpoint, "text_encoder")
    assert {name: shape for name, (_, shape) in found.items()} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_variant_is_the_transformers(folder: Path, variant: str | None) -> None:
    checkpoint = replace(open_checkpoint(str(folder)), weight_variant=variant)
    for part in ("transformer", "vae"):
        plain = folder / part / "diffusion_pytorch_model.safetensors"
        half = plain.with_name("diffusion_pytorch_model.fp16.safetensors")
        half.symlink_to(plain.resolve())
        chosen = half if variant and part == "transformer" else plain
        assert weight_files(checkpoint, part).paths == {chosen}


def test_a_model_that_is_not_here_has_headers_of_its_own(folder: Path) -> None:
    headers = {"a.weight": ("BF16", (2, 3)), "b._scale": ("F32", (4,))}
    absent = Absent(headers=lambda part: headers, download_bytes=1, source="x")
    checkpoint = replace(open_checkpoint(str(folder)), absent=absent)
    with pytest.raises(SanaError, match="vae was quantized by quanto"):
        weight_headers(checkpoint, "vae")
    del headers["b._scale"]
    assert weight_headers(checkpoint, "vae") == headers
