"""A model in the cache is found if it is whole, and read again to verify it; the hub is not asked."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from sana_cli.checkpoints import hub_cache, hub_snapshot
from sana_cli.checkpoints.hub_files import RemoteFile, RepoFolder
from sana_cli.checkpoints.hub_snapshot import HubRequest, find_snapshot, require_repo, verify
from sana_cli.errors import ExitCode, SanaError

REPO, COMMIT = "own/tiny", "c" * 40
STEMS = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}  # fmt: skip
NAMES = [
    "model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json",
    *(f"{part}/config.json" for part in STEMS), *(f"{part}/{stem}.safetensors" for part, stem in STEMS.items()),
]  # fmt: skip
WEIGHTS = NAMES[-1]


def file_of(name: str) -> RemoteFile:
    content = name.encode()
    return RemoteFile(name=name, size=len(content), digest=hashlib.sha256(content).hexdigest())


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RepoFolder:
    """A whole model, each file of which holds its name."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = hub_cache.repo_folder(REPO)
    for name in NAMES:
        file = file_of(name)
        folder.blob(file.digest).parent.mkdir(parents=True, exist_ok=True)
        folder.blob(file.digest).write_bytes(name.encode())
        folder.link(COMMIT, file, symlinks=True)
    folder.note_listing(COMMIT, {name: file_of(name) for name in NAMES})
    folder.note_commit("main", COMMIT)
    return folder


def find(*, offline: bool = False, **options: str) -> Path | None:
    found = find_snapshot(HubRequest(repo_id=REPO, **options), offline=offline)
    return found.path if found else None


def test_a_whole_model(repo: RepoFolder) -> None:
    assert find() == find(offline=True) == find(revision=COMMIT) == repo.snapshot(COMMIT)
    assert find(revision="other") is None


def missing(repo: RepoFolder) -> None:
    (repo.snapshot(COMMIT) / WEIGHTS).unlink()


def short(repo: RepoFolder) -> None:
    repo.blob(file_of(WEIGHTS).digest).write_bytes(b"x")


def no_index(repo: RepoFolder) -> None:
    (repo.snapshot(COMMIT) / "model_index.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message", "code"),
    [
        (no_index, "is not in the local cache", ExitCode.ENVIRONMENT),
        (missing, f"is only partly in the local cache: {WEIGHTS} is missing", ExitCode.ENVIRONMENT),
        (short, f"{WEIGHTS} of own/tiny is damaged in the local cache", ExitCode.CHECKPOINT),
    ],
)
def test_the_hub_is_asked_for_what_is_not_whole(
    repo: RepoFolder, damage: object, message: str, code: ExitCode
) -> None:
    """Offline that is an error, which names what is missing."""
    assert callable(damage)
    damage(repo)
    assert find() is None
    with pytest.raises(SanaError, match=message) as caught:
        find(offline=True)
    assert caught.value.code == code
    assert caught.value.hint == "`sana pull own/tiny` downloads what is missing"


def test_hub_models_are_pulled_by_their_short_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some commands never download, and have no --offline; the variable is named only where it is set."""
    request = HubRequest(repo_id="Efficient-Large-Model/Sana_600M_512px_diffusers")
    for is_offline, how in ((False, ""), (True, ", with HF_HUB_OFFLINE unset,")):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", is_offline)
        with pytest.raises(SanaError) as caught:
            find_snapshot(request, offline=True)
        assert caught.value.hint == f"`sana pull sana-0.6b-512`{how} downloads what is missing"


def test_a_cache_that_another_program_filled(repo: RepoFolder) -> None:
    """It did not note what the repo holds: what is here is enough only where nobody can be asked."""
    (repo.path / f"trees/{COMMIT}.json").unlink()
    assert find() is None
    assert find(offline=True) == repo.snapshot(COMMIT)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "model-00002-of-00002.safetensors"}}, "lacks text_encoder/model-00002-of-00002"),
        ({"weight_map": 3}, "is not a safetensors index"),
        ([], "is not a safetensors index"),
    ],
    ids=str,
)  # fmt: skip
def test_an_index_has_the_last_word(tmp_path: Path, index: object, message: str) -> None:
    name = "text_encoder/model.safetensors.index.json"
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / name).write_text(json.dumps(index))
    with pytest.raises(SanaError, match=message):
        hub_snapshot.require_indexed_files(HubRequest(repo_id=REPO), tmp_path, [name])


def test_verifying(repo: RepoFolder) -> None:
    verdict = verify(REPO)
    assert verdict is not None
    assert {file.name for file in verdict.sound} == set(NAMES)
    repo.blob(file_of(WEIGHTS).digest).write_bytes(WEIGHTS.upper().encode())
    verdict = verify(REPO)
    assert verdict is not None
    assert verdict.damaged == [WEIGHTS], "of the right length, too"
    missing(repo)
    assert verify(REPO) is None


def test_what_changed_last_is_verified_first(repo: RepoFolder) -> None:
    """As far as there is time."""
    os.utime(repo.snapshot(COMMIT) / WEIGHTS, (2**32, 2**32))
    asked: list[int] = []

    def keep_on(size: int) -> bool:
        asked.append(size)
        return len(asked) == 1

    verdict = verify(REPO, keep_on=keep_on)
    assert verdict is not None
    assert [file.name for file in verdict.sound] == [WEIGHTS]
    assert asked[0] == file_of(WEIGHTS).size
    assert set(verdict.unchecked) == {*NAMES} - {WEIGHTS}


def test_what_is_no_repo() -> None:
    require_repo(REPO)
    with pytest.raises(SanaError, match="neither a folder") as caught:
        require_repo("../x")
    assert caught.value.code == ExitCode.USAGE
