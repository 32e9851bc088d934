"""Models in the hub's cache are found, counted and removed; never anything that a link leads to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from sana_cli.checkpoints import hub_cache
from sana_cli.checkpoints.hub_files import is_repo_id
from sana_cli.errors import SanaError

COMMIT = "c" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache that holds own/tiny."""
    root = tmp_path / "hub"
    for name in ("blobs/aaaa", f"snapshots/{COMMIT}/model_index.json", "refs/main"):
        path = root / "models--own--tiny" / name
        path.parent.mkdir(parents=True)
        path.write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    monkeypatch.setenv("SANA_MODELS", str(tmp_path / "models"))
    return root


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Somebody's folder, named as folders of a cache are."""
    folder = tmp_path / "victim"
    for name in ("models--own--tiny/a.lock", "precious", "deep/precious"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("precious")
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


def remove() -> int:
    repo = hub_cache.find("own/tiny")
    assert repo is not None
    return hub_cache.remove_repo(repo)


PLACES = (
    "models--own--tiny", "models--own--tiny/blobs", f"models--own--tiny/snapshots/{COMMIT}", "models--own--tiny/x",
    ".locks", ".locks/models--own--tiny", ".sana-removed-models--a--b-1",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_what_links_lead_to_stays(cache: Path, victim: Path, place: str) -> None:
    path = cache / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.rename(cache / "aside")
    path.symlink_to(victim)
    before = contents(victim)
    remove()
    assert contents(victim) == before
    assert not (cache / "models--own--tiny").is_symlink()
    assert not (cache / "models--own--tiny").exists()


def test_a_lock_that_is_a_link(cache: Path, victim: Path) -> None:
    lock = cache / ".locks/models--own--tiny" / f"{'a' * 64}.lock"
    lock.parent.mkdir(parents=True)
    lock.symlink_to(victim / "precious")
    before = contents(victim)
    remove()
    assert contents(victim) == before


def test_locks_that_a_killed_process_left(cache: Path) -> None:
    locks = cache / ".locks/models--own--tiny"
    locks.mkdir(parents=True)
    (locks / f"{'a' * 64}.lock").touch()
    remove()
    assert not locks.exists()


@pytest.mark.parametrize("how", ["folder", "link"])
def test_a_folder_that_sana_did_not_make(
    sana: Callable[..., Any], cache: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The folder of quantized models may be one that holds other things, too."""
    models = victim.parent / "models"
    models.mkdir()
    (models / "linked").symlink_to(victim)
    before = contents(victim)
    if how == "folder":
        monkeypatch.setenv("SANA_MODELS", str(victim.parent))
        result = sana("remove", "victim", "--yes")
        assert (result.code, "is no model that sana made" in result.err) == (2, True)
    else:
        assert sana("remove", "linked", "--yes").code == 0
        assert list(models.iterdir()) == []
    assert contents(victim) == before


NO_REPOS = ("x", "/x", "x/", "a/b/c", "../x", "x/..", "a/b\\..\\..", "a--b/c", "a/b c", "a/\n", "a/b:c", "", "a/" + "x" * 99)  # fmt: skip


@pytest.mark.parametrize("name", NO_REPOS, ids=ascii)
def test_no_folder_is_named_by_what_is_no_repo(cache: Path, name: str) -> None:
    assert not is_repo_id(name)
    assert hub_cache.find(name) is None
    assert (cache / "models--own--tiny").is_dir()


def test_what_cannot_be_removed_is_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("shutil.rmtree", refuse)
    with pytest.raises(SanaError, match="Permission denied"):
        hub_cache.remove_folder(cache / "models--own--tiny")


def test_what_is_here(cache: Path) -> None:
    """By the names of its files; blobs that several models share count once."""
    repo = hub_cache.find("own/tiny")
    assert repo is not None
    snapshot = cache / f"models--own--tiny/snapshots/{COMMIT}"
    assert (repo.folder, repo.snapshot, repo.complete) == (
        cache / "models--own--tiny",
        snapshot,
        False,
    )
    assert repo.size_bytes == 3 * len(COMMIT)
    other = cache / "models--own--other"
    other.mkdir()
    (other / "same").hardlink_to(repo.folder / "blobs/aaaa")
    assert hub_cache.disk_bytes([repo.folder, other]) == 3 * len(COMMIT)
    assert hub_cache.freed_bytes(repo.folder) == 2 * len(COMMIT)
    assert remove() == 2 * len(COMMIT)
    assert hub_cache.find("own/tiny") is None
    assert (other / "same").read_text() == COMMIT


def test_a_folder_of_which_no_commit_is_known(cache: Path) -> None:
    (cache / "models--own--tiny/refs/main").write_text("../../../x")
    repo = hub_cache.find("own/tiny")
    assert repo is not None
    assert (repo.snapshot, repo.complete) == (None, False)


@pytest.mark.parametrize(
    ("index", "found"),
    [
        ('{"_class_name": "SanaPipeline"}', True),
        ('{"_class_name": "SanaSprintPipeline"}', True),
        ('{"_class_name": "FluxPipeline"}', False),
        ('{"_class_name": "SanaVideoPipeline", "vae": ["diffusers", "AutoencoderKLWan"]}', False),
        ("[]", False),
        ("{", False),
    ],
)
def test_sana_models_of_any_program(cache: Path, index: str, found: bool) -> None:
    (cache / f"models--own--tiny/snapshots/{COMMIT}/model_index.json").write_text(index)
    assert list(hub_cache.sana_repos()) == (["own/tiny"] if found else [])


def test_what_is_being_downloaded_stays(cache: Path) -> None:
    lock = cache / ".locks/models--own--tiny" / f"{'a' * 64}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock), pytest.raises(SanaError, match="is being downloaded by another process"):
        remove()
    assert (cache / "models--own--tiny/blobs/aaaa").exists()


def test_the_first_folder_that_exists(tmp_path: Path) -> None:
    assert hub_cache.existing_parent(tmp_path / "a/b/c") == tmp_path
    assert hub_cache.existing_parent(tmp_path) == tmp_path
