"""Decoders in 8-bit rows: unpacked once, found by name and by folder, and nothing half-made where that fails."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.decoder_files import OtherDecoder
from sana_cli.checkpoints.find_decoder import find_decoder, tiny_here
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.checkpoints.packed_weights import PACKED_WEIGHTS, SCALE

STORED = "diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SANA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def packed(decoder_files: ModuleType, folder: Path) -> Path:
    """A packed tiny decoder in a model's folder, which fits the model."""
    place = folder / "decoders/tiny"
    shutil.rmtree(place, ignore_errors=True)  # the built-in model's own
    scaling = open_checkpoint(str(folder)).vae.scaling_factor
    decoder_files.write_tiny(place, scaling_factor=scaling)
    tensors = load_file(place / STORED)
    stored = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2:
            stored[name] = tensor.half()
            continue
        scale = (tensor.flatten(1).abs().amax(1) / 127).half()
        rows = tensor.flatten(1) / scale.float()[:, None]
        stored[name] = rows.round().to(torch.int8).view(tensor.shape).contiguous()
        stored[name + SCALE] = scale
    (place / STORED).unlink()
    save_file(stored, place / PACKED_WEIGHTS)
    return place


def by_name(checkpoint: Checkpoint, packed: Path) -> OtherDecoder | None:
    return find_decoder("tiny", checkpoint)


def by_folder(checkpoint: Checkpoint, packed: Path) -> OtherDecoder | None:
    return find_decoder(str(packed), checkpoint)


def by_preview(checkpoint: Checkpoint, packed: Path) -> OtherDecoder | None:
    return tiny_here(checkpoint)


@pytest.mark.parametrize("find", [by_name, by_folder, by_preview])
def test_it_is_unpacked_once(
    find: Callable[[Checkpoint, Path], OtherDecoder | None], packed: Path, folder: Path, cache: Path
) -> None:
    checkpoint = open_checkpoint(str(folder))
    found = find(checkpoint, packed)
    assert found is not None
    assert found.is_tiny
    assert found.path.parent == cache / "decoders"
    stamp = (found.path / STORED).stat().st_mtime_ns
    again = find(checkpoint, packed)
    assert again is not None
    assert (again.path, again.digest) == (found.path, found.digest)
    assert (again.path / STORED).stat().st_mtime_ns == stamp
    assert list((cache / "decoders").iterdir()) == [found.path], "nothing is left over"


def test_a_changed_configuration_is_another_decoder(packed: Path, folder: Path) -> None:
    first = find_decoder("tiny", open_checkpoint(str(folder)))
    config = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps({**config, "input_scale": 0.5}))
    second = find_decoder("tiny", open_checkpoint(str(folder)))
    assert first is not None
    assert second is not None
    assert first.path != second.path
    assert (second.config, second.digest) != (first.config, first.digest)


def test_a_cache_that_cannot_be_written(packed: Path, folder: Path, cache: Path) -> None:
    """Previews do without; a run that asks for the decoder says why."""
    cache.write_bytes(b"no folder")
    checkpoint = open_checkpoint(str(folder))
    assert tiny_here(checkpoint) is None
    with pytest.raises(OSError, match="cache"):
        find_decoder("tiny", checkpoint)
