"""One digest for one model, wherever it is; another for any other."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from quant.manifest import sha256_of
from sana_cli.checkpoints.digest import files_digest, model_digest, weights_hash
from sana_cli.checkpoints.opening import open_checkpoint, open_published
from sana_cli.config.variants import VARIANTS


def of(folder: Path) -> str:
    return model_digest(open_checkpoint(str(folder)))


def test_a_copy_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    found = of(folder)
    assert len(found) == 16
    assert found == model_digest(open_checkpoint("builtin"))
    assert of(folder.rename(tmp_path / "elsewhere")) == found


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_training_changes_it(folder: Path, part: str) -> None:
    before = of(folder)
    (path,) = (folder / part).glob("*.safetensors")
    content = bytearray(path.read_bytes())
    path.unlink()
    content[-1] ^= 1
    path.write_bytes(content)
    assert of(folder) != before


@pytest.mark.parametrize("place", ["first", "last", "length"])
def test_every_change_of_a_file_changes_it(tmp_path: Path, place: str) -> None:
    path, content = tmp_path / "weights", bytearray(10**6)
    path.write_bytes(content)
    before = files_digest([path])
    if place == "length":
        content += b"x"
    else:
        content[1000 if place == "first" else -1] ^= 1
    path.write_bytes(content)
    assert files_digest([path]) != before


def test_configuration_counts_and_labels_do_not(folder: Path) -> None:
    before = of(folder)
    (folder / "model_index.json").write_text("{}")
    (folder / "README.md").touch()
    assert of(folder) == before
    path = folder / "vae/config.json"
    path.write_text(path.read_text() + " ")
    assert of(folder) != before


def test_a_quantized_folder_is_known_by_its_manifest(folder: Path) -> None:
    """It holds digests of everything."""
    checkpoint = replace(open_checkpoint(str(folder)), manifest=object())  # type: ignore[arg-type]
    (folder / "manifest.json").write_text("one")
    first = model_digest(checkpoint)
    shutil.rmtree(folder / "vae")
    assert model_digest(checkpoint) == first
    (folder / "manifest.json").write_text("two")
    assert model_digest(checkpoint) != first


def test_a_model_that_is_not_here() -> None:
    assert model_digest(open_published(VARIANTS["sana-0.6b"])) == ""


def test_the_hash_of_galleries(folder: Path, tmp_path: Path) -> None:
    """It begins the SHA-256 of the transformer's file, which the hub's cache names its files by."""
    (path,) = (folder / "transformer").glob("*.safetensors")
    expected = sha256_of(path)
    assert weights_hash(open_checkpoint(str(folder))) == expected[:10]
    blob = tmp_path / "blobs" / ("ab" * 32)
    blob.parent.mkdir()
    shutil.copyfile(path, blob)
    path.unlink()
    path.symlink_to(blob)
    assert weights_hash(open_checkpoint(str(folder))) == "ababababab", "not read"
    assert weights_hash(open_published(VARIANTS["sana-0.6b"])) == ""
