"""Digests of large files, kept from run to run."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from sana_cli.checkpoints.digest import digests_ahead, hash_while_drawing, weights_hash
from sana_cli.checkpoints.kept_digests import kept_digest
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.places import cache_folder

LARGE = 2**28 + 1  # bytes


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SANA_CACHE", str(tmp_path / "caches"))
    return tmp_path / "caches"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def planted(path: Path, digest: object) -> None:
    """Replace the kept digest of a file, so that a test sees whether it is used."""
    kept = json.loads((cache_folder() / "digests.json").read_text())
    kept[str(path)]["sha256"] = digest
    (cache_folder() / "digests.json").write_text(json.dumps(kept))


def test_a_file_is_read_once_for_each_of_its_states(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    os.utime(path, ns=(1, 1))
    assert kept_digest(path) == sha(b"before")
    planted(path, "ab" * 32)
    assert kept_digest(path) == "ab" * 32, "not read again"
    path.write_bytes(b"after")
    os.utime(path, ns=(2, 2))
    assert kept_digest(path) == sha(b"after")


@pytest.mark.parametrize("digest", [None, 7, "", "ab", "Z" * 64, ["ab" * 32]])
def test_what_is_no_digest_is_not_believed(tmp_path: Path, digest: object) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    kept_digest(path)
    planted(path, digest)
    assert kept_digest(path) == sha(b"content")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"%s": 7}', '{"%s": {"state": 7}}', "[" * 9999])
def test_an_edited_list_costs_a_reading(tmp_path: Path, own_caches: Path, text: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    own_caches.mkdir()
    (own_caches / "digests.json").write_text(text.replace("%s", str(path)))
    assert kept_digest(path) == sha(b"content")
    assert json.loads((own_caches / "digests.json").read_text())[str(path)]["sha256"]


def test_a_folder_that_cannot_be_written(tmp_path: Path, own_caches: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    own_caches.write_text("a file where the folder should be")
    assert kept_digest(path) == sha(b"content")


def test_the_hash_of_a_large_file(folder: Path) -> None:
    """Longer than what is read before drawing: found in a thread meanwhile, and kept."""
    (path,) = (folder / "transformer").glob("*.safetensors")
    checkpoint = open_checkpoint(str(folder))
    assert hash_while_drawing(checkpoint) is None, "a small file is read ahead"
    path.unlink()  # a link
    header = json.dumps({"x": {"dtype": "U8", "shape": [LARGE], "data_offsets": [0, LARGE]}})
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + LARGE)  # sparse: no room on the disk
    digests_ahead(checkpoint)  # not of this one
    thread = hash_while_drawing(checkpoint)
    assert thread is not None
    thread.join()
    with path.open("rb") as file:
        expected = hashlib.file_digest(file, "sha256").hexdigest()
    assert weights_hash(checkpoint) == expected[:10]
    planted(path.resolve(), "cd" * 32)
    assert weights_hash(checkpoint) == "cdcdcdcdcd", "not read again"


def test_weights_that_are_gone_cost_no_picture(folder: Path) -> None:
    checkpoint = open_checkpoint(str(folder))
    (path,) = (folder / "transformer").glob("*.safetensors")
    path.unlink()
    assert hash_while_drawing(checkpoint) is None
    assert weights_hash(checkpoint) == ""
