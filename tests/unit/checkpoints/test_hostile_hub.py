"""A hub that lies: no path of its making, no byte outside of the repo's own folder, one line each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli.checkpoints import hub as client
from sana_cli.checkpoints import hub_snapshot
from sana_cli.checkpoints.hub_answer import LARGEST_ANSWER
from sana_cli.checkpoints.hub_files import RepoFolder
from sana_cli.errors import SanaError
from tests.hub_server import entry

REPO = "own/tiny"
WEIGHTS = "vae/diffusion_pytorch_model.safetensors"
TOKENS = "tokenizer/tokenizer.json"
COMMIT, SHA1, SHA256 = "c" * 40, "a" * 40, "b" * 64


@pytest.fixture
def repo(hub: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A small repo at a hub that this process talks to."""
    stems = {
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    }
    names = ["model_index.json", "scheduler/scheduler_config.json", TOKENS, "tokenizer/notes.txt"]
    names += [f"{part}/config.json" for part in stems]
    names += [f"{part}/{stem}.safetensors" for part, stem in stems.items()]
    hub.repos[REPO] = {name: f"the content of {name}".encode() * 9 for name in names}
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub.cache / "hub"))
    return hub


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Somebody's folder, which has the names of a model's files in it."""
    folder = tmp_path / "victim"
    for name in ("model_index.json", TOKENS, "tokenizer/notes.txt", COMMIT, SHA1, SHA256):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("precious")
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


LIES: tuple[Callable[[dict[str, Any]], object], ...] = (
    lambda info: info | {"sha": "../../../victim"}, lambda info: info | {"siblings": [5]},
    lambda info: b"[" * 100_000, lambda info: [],
)  # fmt: skip


@pytest.mark.parametrize("call", [client.ask, client.fetch])
def test_a_lie_is_one_line_and_touches_nothing(
    repo: Any, victim: Path, call: Callable[[str], object]
) -> None:
    """All of them: `test_hub_answer.py`."""
    before = contents(victim)
    for lie in LIES:
        repo.lie = lie
        with pytest.raises(SanaError, match="does not answer like a Hugging Face hub") as caught:
            call(REPO)
        assert (caught.value.code, "HF_ENDPOINT" in caught.value.hint) == (3, True)
        assert contents(victim) == before
        assert not repo.cache.exists()


def test_a_repo_with_such_a_name_is_refused(repo: Any) -> None:
    for name in ("tokenizer/..\\..\\x.json", "tokenizer/C:x.json", "tokenizer/CON.json"):
        added = {"rfilename": name}
        repo.lie = lambda info, added=added: (
            info | {"siblings": [*info["siblings"], entry(info, "tokenizer/notes.txt") | added]}
        )
        with pytest.raises(SanaError, match="cannot be a file's name"):
            client.fetch(REPO)
        assert not repo.cache.exists(), name


def test_names_in_other_folders_are_nobodys_business(repo: Any) -> None:
    for name in (
        "../x.json",
        "/etc/x.json",
        "tokenizer/../x.json",
        "tokenizer/deeper/x.json",
        "CON",
    ):
        repo.repos[REPO][name] = b"{}"
    names = {path.name for path in client.fetch(REPO).path.rglob("*")}
    assert not names & {"x.json", "CON"}


def test_asking_removes_nothing(repo: Any) -> None:
    snapshot = client.fetch(REPO).path
    for name in (WEIGHTS, TOKENS, "vae/config.json"):
        with (snapshot / name).open("ab") as file:
            file.write(b"more")
    before = contents(repo.cache)
    assert not client.ask(REPO, verify=True).damaged  # another length: it is missing
    with pytest.raises(SanaError):
        client.fetch(REPO, offline=True)
    assert contents(repo.cache) == before
    assert (client.fetch(REPO).path / WEIGHTS).read_bytes() == repo.repos[REPO][WEIGHTS]


@pytest.mark.parametrize("size", [0, 1, 100, 10**6])
def test_no_more_is_taken_than_was_announced(repo: Any, size: int) -> None:
    repo.served_instead[WEIGHTS] = bytes(size)
    with pytest.raises(SanaError, match=r"length other than announced|arrived damaged"):
        client.fetch(REPO)
    left = [path for path in repo.cache.rglob("*") if path.is_file()]
    assert all(path.stat().st_size < 1_000 for path in left)
    repo.served_instead.clear()
    assert (client.fetch(REPO).path / WEIGHTS).read_bytes() == repo.repos[REPO][WEIGHTS]


LINKS = ("snapshots", "blobs", "file", "folder", "incomplete")


@pytest.mark.parametrize("which", LINKS)
def test_links_in_the_cache_lead_nothing_away(repo: Any, victim: Path, which: str) -> None:
    """A link in place of a file is replaced, one in place of a folder refused: what it leads to stays as it is."""
    commit, digest = repo.commit(REPO), repo_digest(repo, TOKENS)
    (victim / commit / "tokenizer").mkdir(parents=True)
    for path in (victim / digest, victim / commit / TOKENS, victim / f"{digest}.sana.incomplete"):
        path.write_text("precious")
    folder = repo.cache / "hub/models--own--tiny"
    place, target = {
        "snapshots": (folder / "snapshots", victim),
        "blobs": (folder / "blobs", victim),
        "file": (folder / "snapshots" / commit / TOKENS, victim / TOKENS),
        "folder": (folder / "snapshots" / commit / "tokenizer", victim / "tokenizer"),
        "incomplete": (folder / "blobs" / f"{digest}.sana.incomplete", victim / f"{digest}.sana.incomplete"),
    }[which]  # fmt: skip
    place.parent.mkdir(parents=True)
    place.symlink_to(target)
    before = contents(victim)
    if which in ("file", "incomplete"):
        snapshot = client.fetch(REPO, refresh=True)
        assert (snapshot.path / TOKENS).read_bytes() == repo.repos[REPO][TOKENS]
    else:
        with pytest.raises(SanaError, match="a link stands where the cache keeps a folder"):
            client.fetch(REPO, refresh=True)
    assert contents(victim) == before


def repo_digest(repo: Any, name: str) -> str:
    import hashlib

    return hashlib.sha256(repo.repos[REPO][name]).hexdigest()


@pytest.mark.parametrize("commit", ["../../../victim", "/etc", "..", "main", "\0", "x" * 2_000])
def test_a_reference_is_no_path(repo: Any, victim: Path, commit: str) -> None:
    """Another program may have kept what a hub said."""
    reference = repo.cache / "hub/models--own--tiny/refs/main"
    reference.parent.mkdir(parents=True)
    reference.write_text(commit)
    with pytest.raises(SanaError, match="not in the local cache"):
        client.fetch(REPO, offline=True)
    assert hub_snapshot.verify(REPO) is None
    assert client.fetch(REPO).revision == repo.commit(REPO)


@pytest.mark.parametrize(
    "listing",
    ["[]", "null", "{", "[" * 100_000, '{"format_version": 1}', '{"format_version": 1, "files": [1]}',
     '{"format_version": 1, "files": {"../../x": 3}}', '{"format_version": 9, "files": {}}'],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_a_listing_that_cannot_be_read_is_asked_for_again(repo: Any, listing: str) -> None:
    snapshot = client.fetch(REPO)
    path = repo.cache / f"hub/models--own--tiny/trees/{snapshot.revision}.json"
    path.write_text(listing)
    assert client.fetch(REPO, offline=True).path == snapshot.path
    assert client.fetch(REPO).path == snapshot.path
    assert RepoFolder(path.parents[1]).listing(snapshot.revision)


def test_an_endless_answer_ends(repo: Any) -> None:
    repo.lie = lambda info: b" " * (LARGEST_ANSWER + 1)
    with pytest.raises(SanaError, match=f"larger than {LARGEST_ANSWER:,} bytes"):
        client.ask(REPO)
