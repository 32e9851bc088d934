"""A component's stored tensors, under its module's names, and known to be whole."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quant.manifest import Component, Manifest, sha256_of
from sana_cli.checkpoints.component_weights import component_weights, prefetch
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.errors import SanaError


def test_tensors_are_read_under_the_names_of_the_module(folder: Path) -> None:
    weights = component_weights(open_checkpoint(str(folder)), "vae")
    (path,) = (folder / "vae").glob("*.safetensors")
    for name, tensor in load_file(path).items():
        assert torch.equal(weights.read(weights.names[name]), tensor)
        stored = weights.shape_of(weights.names[name])
        assert (stored.shape, stored.dtype) == (tensor.shape, tensor.dtype)
    assert weights.total_bytes == path.stat().st_size


def test_a_fingerprint_is_one_of_the_files(folder: Path) -> None:
    checkpoint = open_checkpoint(str(folder))
    (path,) = (folder / "vae").glob("*.safetensors")
    first = component_weights(checkpoint, "vae").fingerprint
    assert component_weights(checkpoint, "vae").fingerprint == first
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    assert component_weights(checkpoint, "vae").fingerprint != first


def test_a_quantized_part_has_the_digest_of_its_manifest(folder: Path) -> None:
    path = folder / "vae/model.safetensors"
    save_file({"a": torch.ones(2)}, path)
    part = Component(file="vae/model.safetensors", sha256=sha256_of(path), layers={})
    manifest = Manifest(
        base_model="m", base_revision="", base_precision="fp32", recipe="w8a8", written_by="x",
        components={"vae": part},
    )  # fmt: skip
    checkpoint = replace(open_checkpoint(str(folder)), manifest=manifest)
    assert set(component_weights(checkpoint, "vae").names) == {"a"}
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(SanaError, match="its SHA-256 is not the manifest's"):
        component_weights(checkpoint, "vae")


def test_prefetching_asks_the_system(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda fd, start, size, advice: asked.append((start, size)),
        raising=False,
    )  # fmt: skip
    monkeypatch.setattr(os, "POSIX_FADV_WILLNEED", 3, raising=False)
    prefetch(open_checkpoint(str(folder)), "vae")
    assert asked == [(0, 0)], "all of its one file"
