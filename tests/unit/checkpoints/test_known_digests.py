"""Digests of whole files: found once for each state of a file, also ahead of time."""

import hashlib
import os
from pathlib import Path

import pytest

from sana_cli.checkpoints.checkpoint import weight_files
from sana_cli.checkpoints.digest import digests_ahead, weights_hash
from sana_cli.checkpoints.known_digests import digest_ahead, known_digest
from sana_cli.checkpoints.opening import open_checkpoint


@pytest.mark.parametrize("size", [0, 1, 1000, 300_000])
@pytest.mark.parametrize("piece", [1, 1000, 2**24])
def test_the_digest_of_a_file(tmp_path: Path, size: int, piece: int) -> None:
    content = os.urandom(size) if piece > 1 else os.urandom(min(size, 1000))
    path = tmp_path / "file"
    path.write_bytes(content)
    assert known_digest(path, piece=piece) == hashlib.sha256(content).hexdigest()


def test_a_file_is_read_once_for_each_of_its_states(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    os.utime(path, ns=(1, 1))
    before = known_digest(path)
    with path.open("r+b") as file:  # what no program does: the same file, length and time
        file.write(b"behind")
    os.utime(path, ns=(1, 1))
    assert known_digest(path) == before
    os.utime(path, ns=(2, 2))
    assert known_digest(path) == hashlib.sha256(b"behind").hexdigest()


def test_a_file_is_read_ahead(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("missing", "folder", "first", "second")]
    paths[1].mkdir()
    for path in paths[2:]:
        path.write_bytes(path.name.encode())
        os.utime(path, ns=(1, 1))
    thread = digest_ahead(paths)
    assert thread is not None
    thread.join()
    for path in paths[2:]:
        path.write_bytes(path.name.encode()[::-1])  # not read again
        os.utime(path, ns=(1, 1))
        assert known_digest(path) == hashlib.sha256(path.name.encode()).hexdigest()


@pytest.mark.parametrize("name", ["missing", "folder"])
def test_an_error_is_that_of_whoever_needs_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    thread = digest_ahead([path])
    assert thread is not None
    thread.join()
    with pytest.raises(OSError, match=name):
        known_digest(path)
    if name == "missing":
        path.write_bytes(b"now here")
        assert known_digest(path) == hashlib.sha256(b"now here").hexdigest()


def test_nothing_to_read_starts_nothing() -> None:
    assert digest_ahead([]) is None


def test_the_builtin_models_hash_is_found_ahead() -> None:
    checkpoint = open_checkpoint("builtin")
    digests_ahead(checkpoint)
    (path,) = weight_files(checkpoint, "transformer").paths
    assert weights_hash(checkpoint) == hashlib.sha256(path.read_bytes()).hexdigest()[:10]
