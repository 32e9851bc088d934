"""A hub that lies: no path of its making, no byte outside of the repo's own folder, one line each."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli.checkpoints import hub as client
from sana_cli.checkpoints import hub_snapshot
from sana_cli.checkpoints.hub_answer import BadAnswer, parse_listing
from sana_cli.checkpoints.hub_files import RemoteFile, RepoFolder, unsafe_name
from sana_cli.errors import SanaError

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
    monkeypatch.setattr("sana_cli.checkpoints.hub_download._PAUSE_S", 0.01)
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


def entry(info: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in info["siblings"] if each["rfilename"] == name)


def changed(path: str, value: object) -> Callable[[dict[str, Any]], object]:
    """A lie: the answer with one value changed, e.g. "sha" or "vae/x.safetensors lfs sha256"."""

    def lie(info: dict[str, Any]) -> object:
        first, *rest = path.split()
        *between, last = rest or [first]
        place = entry(info, first) if rest else info
        for key in between:
            place = place[key]
        place[last] = value
        return info

    return lie


PATHS = ("../../../victim", "/etc", "..", ".", "", "main", COMMIT.upper(), COMMIT[:-1], COMMIT + "/..", COMMIT + "\n", "\0")  # fmt: skip
WRONG = (None, 7, True, [], {}, [COMMIT])
NAMES = (
    "tokenizer/..\\..\\x.json", "tokenizer/C:x.json", "tokenizer/CON.json", "tokenizer/nul.txt",
    "tokenizer/a\nb.json", "tokenizer/\x1b[2J.json", "tokenizer/\ud800.json", "tokenizer/TOKENIZER.json",
    f"tokenizer/{'x' * 300}.json", "tokenizer/a\u202eb.json", "tokenizer/what?.json",
)  # fmt: skip
LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    **{f"commit {value!r}": changed("sha", value) for value in (*PATHS, *WRONG)},
    **{f"sha256 {value!r}": changed(f"{WEIGHTS} lfs sha256", value) for value in (*PATHS, *WRONG)},
    **{f"blob {value!r}": changed("vae/config.json blobId", value) for value in (*PATHS, *WRONG)},
    **{f"size {value!r}": changed(f"{WEIGHTS} size", value) for value in (-1, 1.5, "9", None, True, 10**30, [])},
    **{f"siblings {value!r}": changed("siblings", value) for value in (None, 5, "x", {}, [5], [None], [[]], [{}], [{"rfilename": 3}])},
    **{f"answer {value!r}": (lambda info, value=value: value) for value in ([], None, 5, "x", [[]])},
    "deep": lambda info: b"[" * 100_000,
    "huge number": lambda info: b'{"sha":' + b"9" * 5_000 + b"}",
    "no text": lambda info: b"\xff\xfe\x00",
    "cut": lambda info: json.dumps(info).encode()[:-20],
    "not finite": lambda info: b'{"sha": NaN, "siblings": Infinity}',
}  # fmt: skip


def honest() -> dict[str, Any]:
    """What a hub says about a small repo."""
    names = {
        "vae/config.json": {"blobId": SHA1},
        WEIGHTS: {"blobId": SHA1, "lfs": {"sha256": SHA256}},
    }
    siblings = [{"rfilename": name, "size": 9, **more} for name, more in names.items()]
    return {"id": REPO, "sha": COMMIT, "siblings": siblings}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_an_answer_of_another_shape_is_refused(lie: Callable[[dict[str, Any]], object]) -> None:
    told = lie(honest())
    body = told if isinstance(told, bytes) else json.dumps(told).encode()
    with pytest.raises(BadAnswer) as caught:
        parse_listing(body).take(["vae/config.json", WEIGHTS])
    assert len(str(caught.value)) < 200


def test_an_honest_answer_is_taken() -> None:
    files = parse_listing(json.dumps(honest()).encode()).take(["vae/config.json", WEIGHTS])
    assert [(file.digest, file.is_large) for file in files] == [(SHA1, False), (SHA256, True)]


@pytest.mark.parametrize("call", [client.ask, client.fetch])
def test_a_lie_is_one_line_and_touches_nothing(
    repo: Any, victim: Path, call: Callable[[str], object]
) -> None:
    before = contents(victim)
    for name in (
        "commit '../../../victim'",
        "sha256 '/etc'",
        "blob '..'",
        "siblings [5]",
        "deep",
        "answer []",
    ):
        repo.lie = LIES[name]
        with pytest.raises(SanaError, match="does not answer like a Hugging Face hub") as caught:
            call(REPO)
        assert (caught.value.code, "HF_ENDPOINT" in caught.value.hint) == (3, True), name
        assert contents(victim) == before, name
        assert not repo.cache.exists(), name


def test_a_repo_with_such_a_name_is_refused(repo: Any) -> None:
    for name in NAMES[:3]:
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


def test_the_licence_is_one_line() -> None:
    for card, told in (
        ({"license": "mit\nhint: rm -rf"}, "mit hint: rm -rf"), ({"license": ["a", 3, "b"]}, "a, b"),
        ({"license": 3}, ""), ([], ""), ({"license": "x" * 999}, "x" * 200),
    ):  # fmt: skip
        body = json.dumps({"sha": COMMIT, "siblings": [], "cardData": card}).encode()
        assert parse_listing(body).licence == told


def test_an_endless_answer_ends(repo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sana_cli.checkpoints.hub_download.LARGEST_ANSWER", 1_000)
    with pytest.raises(SanaError, match="larger than 1,000 bytes"):
        client.ask(REPO)
