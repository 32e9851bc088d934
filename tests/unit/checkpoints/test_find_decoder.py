"""Decoders by name, folder and file; those that do not fit a model, and files that are none."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.find_decoder import OWN_FOLDER, find_decoder, kept_file, tiny_here
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.decoders import DECODERS, FULL
from sana_cli.config.networks import DCAEConfig, TinyDecoderConfig
from sana_cli.errors import ExitCode, SanaError


@pytest.fixture
def published(tiny_model: Path) -> Checkpoint:
    """A model with the published autoencoder's latents."""
    return open_checkpoint(str(tiny_model))


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SANA_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.mark.parametrize("name", [None, FULL])
def test_the_models_own(name: str | None, published: Checkpoint) -> None:
    assert find_decoder(name, published) is None


def test_kinds(
    published: Checkpoint, decoder_files: ModuleType, reference: ModuleType, tmp_path: Path
) -> None:
    lite = find_decoder(str(decoder_files.write_lite(tmp_path / "lite", reference)), published)
    assert lite is not None
    assert isinstance(lite.config, DCAEConfig)
    assert all(name.startswith("decoder.") for name in lite.headers())
    pth = decoder_files.write_taesana(tmp_path / "taesana_decoder.pth")
    tiny = find_decoder(str(pth), published)
    assert tiny is not None
    assert tiny.config == TinyDecoderConfig()
    assert tiny.is_tiny
    assert len({lite.digest, tiny.digest}) == 2


def test_a_models_folder_means_its_autoencoder(published: Checkpoint, tiny_model: Path) -> None:
    found = find_decoder(str(tiny_model), published)
    assert found is not None
    assert found.path == tiny_model / "vae"


def test_the_tiny_one_that_is_kept(published: Checkpoint, decoder_files: ModuleType) -> None:
    assert tiny_here(published) is None
    path = kept_file(DECODERS["tiny"])
    path.parent.mkdir(parents=True)
    decoder_files.write_taesana(path)
    found = find_decoder("tiny", published)
    assert found is not None
    assert found.name == "tiny"
    assert tiny_here(published) == found


def test_a_model_brings_its_own(
    published: Checkpoint, decoder_files: ModuleType, folder: Path
) -> None:
    """A name in the model's folder goes before a published one."""
    own = open_checkpoint(str(folder))
    decoder_files.write_tiny(folder / "decoders/mine", scaling_factor=own.vae.scaling_factor)
    found = find_decoder("mine", own)
    assert found is not None
    assert found.path == folder / "decoders/mine"


def refused(name: object, checkpoint: Checkpoint) -> SanaError:
    with pytest.raises(SanaError) as caught:
        find_decoder(str(name), checkpoint)
    return caught.value


@pytest.mark.parametrize("name", ["lite", "file", "folder"])
def test_other_latents(
    name: str, decoder_files: ModuleType, reference: ModuleType, tmp_path: Path, folder: Path
) -> None:
    """The built-in model has an autoencoder of its own: nothing that is published decodes it."""
    named: dict[str, Any] = {
        "lite": "lite",
        "file": decoder_files.write_taesana(tmp_path / "t.pth"),
        "folder": decoder_files.write_lite(tmp_path / "lite", reference),
    }
    error = refused(named[name], open_checkpoint(str(folder)))
    assert (
        "decodes latents of another autoencoder (scaled by 0.41407, the model's by 2.006"
        in error.message
    )
    assert error.hint == "use the model's own: --decoder full or tiny"
    assert error.code == ExitCode.USAGE


def _other_tensors(path: Path) -> None:
    torch.save({"1.weight": torch.zeros(256, 32, 3, 3)}, path)


def _code(path: Path) -> None:
    torch.save({"1.weight": print}, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_other_tensors, "missing tensor decoder."),
        (_code, "would run code"),
        (lambda path: path.write_bytes(b"PK\3\4nothing"), "is not a readable .pth file"),
        (lambda path: path.write_bytes(b""), "is empty"),
    ],
    ids=["other tensors", "code", "damaged", "empty"],
)
def test_files_that_are_none(
    write: Any, message: str, published: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "decoder.pth"
    write(path)
    error = refused(path, published)
    assert message in error.message
    assert error.code == ExitCode.CHECKPOINT
    assert error.hint


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "AutoencoderKL"}, "is a AutoencoderKL, no decoder"),
        ({"_class_name": "TinyDecoder", "widths": [8, 8], "blocks": [1, 1]}, "32 pixels"),
        ({"_class_name": "TinyDecoder", "latent_channels": 16}, "(f32c16) does not fit"),
        ({"_class_name": "AutoencoderDC", "latent_channels": 16}, "(f32c16) does not fit"),
        ({"_class_name": "TinyDecoder"}, "missing tensor decoder."),
        ("no object", "does not hold a JSON object"),
    ],
)
def test_folders_that_are_none(
    config: Any, message: str, published: Checkpoint, tmp_path: Path
) -> None:
    folder = tmp_path / "decoder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({"1.weight": torch.zeros(2)}, folder / "diffusion_pytorch_model.safetensors")
    assert message in refused(folder, published).message


def test_another_file(published: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "decoder.gguf"
    path.write_bytes(b"GGUF")
    assert "is no .pth file" in refused(path, published).message


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000])
def test_names_that_no_file_can_have(name: str, published: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / OWN_FOLDER).mkdir()
    error = refused(name, replace(published, folder=tmp_path))
    assert (error.code, "cannot be a path" in error.message) == (ExitCode.USAGE, True)
