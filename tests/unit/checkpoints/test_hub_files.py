"""A repo's folder in the cache: what becomes a path, what is believed, what is removed."""

import hashlib
import os
from pathlib import Path

import pytest

from sana_cli.checkpoints.hub_files import (
    RemoteFile,
    RepoFolder,
    has_digest,
    is_repo_id,
    is_sound,
    remote_file,
    unsafe_name,
)

TOKENS = "tokenizer/tokenizer.json"
COMMIT, SHA1, SHA256 = "c" * 40, "a" * 40, "b" * 64
PATHS = ("../../../victim", "/etc", "..", ".", "", "main", COMMIT.upper(), COMMIT[:-1], COMMIT + "/..", COMMIT + "\n", "\0")  # fmt: skip
NAMES = (
    "tokenizer/..\\..\\x.json", "tokenizer/C:x.json", "tokenizer/CON.json", "tokenizer/nul.txt",
    "tokenizer/a\nb.json", "tokenizer/\x1b[2J.json", "tokenizer/\ud800.json", "tokenizer/TOKENIZER.json",
    f"tokenizer/{'x' * 300}.json", "tokenizer/a\u202eb.json", "tokenizer/what?.json",
)  # fmt: skip


def test_paths_are_made_of_digests_and_commits_only(tmp_path: Path) -> None:
    folder = RepoFolder(tmp_path)
    for bad in PATHS:
        for method in (folder.blob, folder.incomplete, folder.lock, folder.snapshot):
            with pytest.raises(ValueError, match="is no"):
                method(bad)
    file = RemoteFile(name="../x", size=1, digest=SHA1)
    for change in (folder.discard, lambda *of: folder.link(*of, symlinks=True)):
        with pytest.raises(ValueError, match="no name"):
            change(COMMIT, file)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_that_some_system_does_not_take(name: str) -> None:
    assert unsafe_name([TOKENS, name]) == name


def test_names_that_every_system_takes() -> None:
    good = [
        "model_index.json",
        "tokenizer/tokenizer.json",
        "vae/a.b-c_d.txt",
        "\u540d/\u00e9.json",
        "console.txt",
    ]
    assert unsafe_name(good) is None
    assert unsafe_name(["a/\u00e9.txt", "a/e\u0301.txt"]) == "a/e\u0301.txt"  # one name on macOS


@pytest.mark.parametrize("name", ["a/b", "Efficient-Large-Model/Sana_600M", "a.b/c_d"])
def test_repos(name: str) -> None:
    assert is_repo_id(name)


@pytest.mark.parametrize(
    ("size", "digest"), [(-1, SHA1), (True, SHA1), (2**63, SHA1), ("1", SHA1), (1, "x"), (1, SHA1[1:]), (1, None)]
)  # fmt: skip
def test_what_no_file_has(size: object, digest: object) -> None:
    assert remote_file("a", size, digest) is None
    assert remote_file("a", 1, SHA256) == RemoteFile(name="a", size=1, digest=SHA256)


def test_digests(tmp_path: Path) -> None:
    """Git's for small files, SHA-256 for those in LFS; another length is another file."""
    path = tmp_path / "a"
    path.write_bytes(b"hello")
    git = hashlib.sha1(b"blob 5\0hello").hexdigest()
    for digest in (git, hashlib.sha256(b"hello").hexdigest()):
        file = RemoteFile(name="a", size=5, digest=digest)
        assert has_digest(path, file)
        path.write_bytes(b"jello")
        assert not is_sound(path, file)
        path.write_bytes(b"hello, too")
        assert not is_sound(path, file)
        path.write_bytes(b"hello")
    assert not is_sound(tmp_path / "none", file)
    other = RemoteFile(name="a", size=4, digest=hashlib.sha256(b"hello").hexdigest())
    assert not is_sound(path, other), "not read, since it has another length"


def test_a_branch_is_at_the_commit_that_was_noted(tmp_path: Path) -> None:
    folder = RepoFolder(tmp_path)
    assert folder.commit("main") is None
    folder.note_commit("main", COMMIT)
    assert folder.commit("main") == folder.commit(COMMIT) == COMMIT
    with pytest.raises(ValueError, match="no commit"):
        folder.note_commit("main", "latest")
    with pytest.raises(ValueError, match="no branch"):
        folder.note_commit("../main", COMMIT)
    assert folder.commit("../main") is None
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["main"]


def test_listings_come_back(tmp_path: Path) -> None:
    """Without one, links that lead to blobs say what is here."""
    folder = RepoFolder(tmp_path)
    files = {
        "a": RemoteFile(name="a", size=5, digest=SHA1),
        "b/c": RemoteFile(name="b/c", size=7, digest=SHA256),
    }
    assert folder.listing(COMMIT) is None
    folder.note_listing(COMMIT, files)
    assert folder.listing(COMMIT) == folder.files(COMMIT) == files
    (tmp_path / f"trees/{COMMIT}.json").unlink()
    folder.blob(SHA1).parent.mkdir()
    folder.blob(SHA1).write_bytes(b"hello")
    folder.link(COMMIT, files["a"], symlinks=True)
    (folder.snapshot(COMMIT) / "no-link").touch()
    assert folder.files(COMMIT) == {"a": files["a"]}


@pytest.mark.parametrize("symlinks", [True, False])
def test_a_file_is_linked_and_discarded(tmp_path: Path, symlinks: bool) -> None:
    folder, file = RepoFolder(tmp_path), RemoteFile(name="x/a", size=5, digest=SHA1)
    folder.blob(SHA1).parent.mkdir()
    folder.blob(SHA1).write_bytes(b"hello")
    folder.link(COMMIT, file, symlinks=symlinks)
    path = folder.snapshot(COMMIT) / "x/a"
    assert (path.read_bytes(), path.is_symlink()) == (b"hello", symlinks)
    assert folder.is_here(COMMIT, file)
    assert not folder.is_here(COMMIT, RemoteFile(name="x/a", size=6, digest=SHA1))
    folder.discard(COMMIT, file)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize("planted", ["blobs", "snapshots"])
def test_links_for_folders_are_not_followed(tmp_path: Path, planted: str) -> None:
    folder, elsewhere = RepoFolder(tmp_path / "repo"), tmp_path / "elsewhere"
    for path in (folder.path, elsewhere / COMMIT):
        path.mkdir(parents=True)
    (folder.path / planted).symlink_to(elsewhere)
    with pytest.raises(OSError, match="a link stands where"):
        folder.discard(COMMIT, RemoteFile(name="a", size=5, digest=SHA1))
    assert os.listdir(elsewhere) == [COMMIT]
