"""One digest for one model, wherever it is; another for any other."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sana_cli.checkpoints import digest
from sana_cli.checkpoints.digest import model_digest
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
@pytest.mark.parametrize("place", ["first", "last", "length"])
def test_training_changes_it(folder: Path, part: str, place: str) -> None:
    before, checkpoint = of(folder), open_checkpoint(str(folder))
    (path,) = (folder / part).glob("*.safetensors")
    content = bytearray(path.read_bytes())
    path.unlink()
    if place == "length":
        content += b"x"
    else:
        content[1000 if place == "first" else -1] ^= 1
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:  # the file need not be readable as weights
        patch.setattr(digest, "weight_files", lambda _, name: _Files(folder / name))
        assert model_digest(checkpoint) != before


class _Files:
    def __init__(self, folder: Path) -> None:
        self.paths = set(folder.glob("*.safetensors"))


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
