"""`fetch` with huggingface_hub itself, against a hub on the loopback."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

REPO = "nv/Sana_diffusers"
WEIGHTS = "transformer/diffusion_pytorch_model.fp16.safetensors"
USED = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors.index.json",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "transformer/config.json",
    WEIGHTS,
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}
UNUSED = {
    ".gitattributes",
    "README.md",
    "text_encoder/model.fp16.safetensors",
    "tokenizer/tokenizer.model",
    "transformer/diffusion_pytorch_model.bin",
    "transformer/diffusion_pytorch_model.int4.safetensors",
    "transformer/diffusion_pytorch_model.safetensors",
    "transformer/diffusion_pytorch_model-00001-of-00001.safetensors",
    "transformer/diffusion_pytorch_model.safetensors.index.json",
    "vae/diffusion_pytorch_model.fp16.safetensors",
}
LARGE = 24_000_000  # huggingface_hub writes in pieces of 10 MB
HALF = 15_000_000


def content(name: str, size: int = 2_000) -> bytes:
    if name == "text_encoder/model.safetensors.index.json":
        shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
        return json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode()
    return random.Random(name).randbytes(size)  # seeded by a string: the same in every process


@pytest.fixture
def repo(hub: Any) -> Any:
    hub.repos[REPO] = {name: content(name) for name in sorted(USED | UNUSED)}
    return hub


@pytest.fixture
def large_repo(repo: Any) -> Any:
    repo.repos[REPO][WEIGHTS] = content(WEIGHTS, LARGE)
    return repo


def fetch(hub: Any, env: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
    return fetch_all(hub, options, env=env)[0]


def fetch_all(hub: Any, *calls: dict[str, Any], env: dict[str, str] | None = None) -> Any:
    """Several calls in this process, or in one of its own where the environment matters."""
    calls = tuple({"repo_id": REPO, "weight_variant": "fp16", **call} for call in calls)
    return hub.answers(*calls) if env is None else hub.finish(hub.start(*calls, env=env))


def blob_of(answer: dict[str, Any], name: str) -> Path:
    return (Path(answer["path"]) / name).resolve()


def leftovers(hub: Any) -> list[Path]:
    return sorted(hub.cache.rglob("*.incomplete"))


def files_in(folder: str) -> set[str]:
    root = Path(folder)
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_downloads_the_used_files_and_no_others(repo: Any) -> None:
    answer = fetch(repo)
    assert answer["revision"] == repo.commit(REPO)
    assert files_in(answer["path"]) == repo.downloaded() == USED
    for name in USED:
        assert (Path(answer["path"]) / name).read_bytes() == repo.repos[REPO][name]
    assert not leftovers(repo)


def test_progress_names_every_large_file_before_the_first_byte(large_repo: Any) -> None:
    progress = fetch(large_repo)["progress"]
    files = {name for name, _, _ in progress}
    assert files == {n for n in USED if n.endswith((".safetensors", "tokenizer.json"))}
    assert {name for name, done, _ in progress[: len(files)] if done == 0} == files
    ours = [(done, total) for name, done, total in progress if name == WEIGHTS]
    assert ours[0] == (0, LARGE)
    assert ours[-1] == (LARGE, LARGE)
    assert ours == sorted(ours)
    assert len(ours) > 3


def test_the_token_goes_to_the_hub_alone(repo: Any) -> None:
    fetch(repo)
    assert {r.headers.get("authorization") for r in repo.gets("/api/")} == {"Bearer hf_secret"}
    assert repo.gets("/cdn/")
    assert {r.headers.get("authorization") for r in repo.gets("/cdn/")} == {None}


def test_a_complete_cache_asks_nothing(repo: Any) -> None:
    first = fetch(repo)
    repo.requests.clear()
    assert fetch(repo)["path"] == first["path"]
    assert not repo.requests


def test_refresh_finds_a_newer_commit_and_fetches_the_changed_file_only(repo: Any) -> None:
    old = fetch(repo)
    repo.repos[REPO][WEIGHTS] = content("newer weights")
    assert fetch(repo)["revision"] == old["revision"]
    repo.requests.clear()
    new = fetch(repo, refresh=True)
    assert new["revision"] == repo.commit(REPO) != old["revision"]
    assert {r.path for r in repo.gets("/cdn/")} == {f"/cdn/{REPO}/{WEIGHTS}"}


def test_only_the_components_asked_for(repo: Any) -> None:
    answer = fetch(repo, components=["vae", "scheduler"])
    assert files_in(answer["path"]) == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }
    assert fetch(repo, components=["vae"])["path"] == answer["path"]


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_broken_connection_is_taken_up_again(large_repo: Any, how: str) -> None:
    large_repo.stop_at[WEIGHTS] = (HALF, how)
    answer = fetch(large_repo)
    first, second = [r.range_start for r in large_repo.gets(f"/cdn/{REPO}/{WEIGHTS}")]
    assert first is None
    assert second is not None
    assert 0 < second <= HALF
    assert (Path(answer["path"]) / WEIGHTS).read_bytes() == large_repo.repos[REPO][WEIGHTS]


def interrupt(hub: Any, how: signal.Signals = signal.SIGINT) -> int:
    """Stop a download within the large file; the bytes that it leaves."""
    hub.stop_at[WEIGHTS] = (HALF, "hang")
    process = hub.start({"repo_id": REPO, "weight_variant": "fp16"})
    assert hub.reached.wait(240)
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in leftovers(hub)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(how)
    process.communicate(timeout=240)
    hub.release.set()
    (left,) = leftovers(hub)
    hub.requests.clear()
    return left.stat().st_size


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_the_next_process_resumes(large_repo: Any, how: signal.Signals) -> None:
    left = interrupt(large_repo, how)
    assert 0 < left < LARGE
    answer = fetch(large_repo)
    (request,) = large_repo.gets(f"/cdn/{REPO}/{WEIGHTS}")
    assert request.range_start == left
    assert [WEIGHTS, left, LARGE] in answer["progress"]
    assert (Path(answer["path"]) / WEIGHTS).read_bytes() == large_repo.repos[REPO][WEIGHTS]
    assert not leftovers(large_repo)


def test_a_server_without_ranges_starts_over(large_repo: Any) -> None:
    interrupt(large_repo)
    large_repo.ignore_range = True
    answer = fetch(large_repo)
    assert (Path(answer["path"]) / WEIGHTS).read_bytes() == large_repo.repos[REPO][WEIGHTS]


def test_a_bad_part_is_dropped_and_fetched_afresh(large_repo: Any) -> None:
    interrupt(large_repo)
    (left,) = leftovers(large_repo)
    with left.open("r+b") as file:
        file.write(b"not what the server sent")
    answer = fetch(large_repo)
    starts = [r.range_start for r in large_repo.gets(f"/cdn/{REPO}/{WEIGHTS}")]
    assert len(starts) == 2
    assert starts[1] is None
    assert (Path(answer["path"]) / WEIGHTS).read_bytes() == large_repo.repos[REPO][WEIGHTS]


@pytest.mark.parametrize("name", [WEIGHTS, "vae/config.json"], ids=["large", "small"])
def test_content_that_does_not_have_its_digest_is_refused(repo: Any, name: str) -> None:
    repo.served_instead[name] = content("something else")
    answer = fetch(repo)
    assert answer["code"] == "ENVIRONMENT"
    assert f"{name} of {REPO} arrived damaged" in answer["message"]
    assert "run the command again" in answer["hint"]
    assert not leftovers(repo)
    repo.served_instead.clear()
    assert files_in(fetch(repo)["path"]) == USED


def test_a_short_file_is_refused(repo: Any) -> None:
    repo.served_instead[WEIGHTS] = content(WEIGHTS)[:-10]
    answer = fetch(repo)
    assert answer["code"] == "ENVIRONMENT"
    assert "length other than announced" in answer["message"]


def test_a_truncated_cache_file_is_reported_and_repaired(repo: Any) -> None:
    blob = blob_of(fetch(repo), WEIGHTS)
    os.truncate(blob, 100)
    answer = fetch(repo, offline=True)
    assert answer["code"] == "CHECKPOINT"
    assert f"{WEIGHTS} of {REPO} is damaged" in answer["message"]
    assert "sana pull" in answer["hint"]
    assert blob.exists()  # nothing is lost where nothing better can be had
    assert (Path(fetch(repo)["path"]) / WEIGHTS).read_bytes() == content(WEIGHTS)


def test_what_another_model_holds_is_not_downloaded_twice(repo: Any) -> None:
    repo.repos["nv/Other_diffusers"] = dict(repo.repos[REPO], **{WEIGHTS: content("other")})
    fetch(repo)
    repo.requests.clear()
    answer = fetch(repo, repo_id="nv/Other_diffusers")
    assert {r.path for r in repo.gets("/cdn/")} == {f"/cdn/nv/Other_diffusers/{WEIGHTS}"}
    shutil.rmtree(repo.cache / "hub" / "models--nv--Sana_diffusers")
    assert files_in(answer["path"]) == USED


def test_a_bad_copy_under_another_model_is_not_taken_over(repo: Any) -> None:
    repo.repos["nv/Other_diffusers"] = repo.repos[REPO]
    blob = blob_of(fetch(repo), WEIGHTS)
    blob.write_bytes(bytes(len(content(WEIGHTS))))
    answer = fetch(repo, repo_id="nv/Other_diffusers")
    assert (Path(answer["path"]) / WEIGHTS).read_bytes() == content(WEIGHTS)


def test_without_symlinks_nothing_is_kept_twice(repo: Any) -> None:
    without = {"HF_HUB_DISABLE_SYMLINKS": "1"}
    first, second = fetch_all(repo, {}, {"offline": True}, env=without)
    assert files_in(first["path"]) == USED
    assert second["path"] == first["path"]
    assert not any(path.is_symlink() for path in Path(first["path"]).rglob("*"))
    assert not list((repo.cache / "hub" / "models--nv--Sana_diffusers" / "blobs").iterdir())


def test_two_processes_at_once_download_once(large_repo: Any) -> None:
    large_repo.stop_at[WEIGHTS] = (HALF, "close")  # long enough for the other to catch up
    both = [large_repo.start({"repo_id": REPO, "weight_variant": "fp16"}) for _ in range(2)]
    for process in both:
        (answer,) = large_repo.finish(process)
        assert (Path(answer["path"]) / WEIGHTS).read_bytes() == large_repo.repos[REPO][WEIGHTS]
    starts = [r.range_start for r in large_repo.gets(f"/cdn/{REPO}/{WEIGHTS}")]
    assert starts.count(None) == 1


@pytest.mark.parametrize("env", [{}, {"HF_HUB_OFFLINE": "1"}], ids=["option", "variable"])
def test_offline_uses_the_cache(repo: Any, env: dict[str, str]) -> None:
    online = fetch(repo)
    repo.requests.clear()
    offline = fetch(repo, offline=not env, env=env, refresh=True)
    assert offline["path"] == online["path"]
    assert not repo.requests


def test_offline_reads_a_cache_that_another_program_filled(repo: Any) -> None:
    online = fetch(repo)
    shutil.rmtree(repo.cache / "hub" / "models--nv--Sana_diffusers" / "trees")
    assert fetch(repo, offline=True)["path"] == online["path"]


@pytest.mark.parametrize("env", [{}, {"HF_HUB_OFFLINE": "1"}], ids=["option", "variable"])
def test_offline_without_a_cache_says_so(repo: Any, env: dict[str, str]) -> None:
    answer = fetch(repo, offline=not env, env=env)
    assert answer["code"] == "ENVIRONMENT"
    assert answer["message"] == f"{REPO} is not in the local cache, and nothing may be downloaded"
    assert f"sana pull {REPO}" in answer["hint"]
    assert ("HF_HUB_OFFLINE" in answer["hint"]) == bool(env)
    assert not repo.requests


def test_offline_with_half_a_cache_names_the_missing_file(large_repo: Any) -> None:
    fetch(large_repo, components=["vae"])
    answer = fetch(large_repo, offline=True)
    assert answer["code"] == "ENVIRONMENT"
    assert "only partly in the local cache: transformer/config.json" in answer["message"]


def test_a_full_disk_is_noticed_beforehand(repo: Any) -> None:
    name = "vae/diffusion_pytorch_model.safetensors"
    listing = repo.repos[REPO]

    class Huge(bytes):
        def __len__(self) -> int:
            return 10**18

    listing[name] = Huge(listing[name])
    answer = fetch(repo)
    assert answer["code"] == "ENVIRONMENT"
    assert "needs 1,000,000,000,00" in answer["message"]
    assert "are free" in answer["message"]
    assert "HF_HOME" in answer["hint"]
    assert not repo.gets()


GATED = {"X-Error-Code": "GatedRepo"}
GONE = {"X-Error-Code": "EntryNotFound"}
BAD_TOKEN = {"X-Error-Message": "Invalid credentials in Authorization header"}
REFUSALS = {  # the hub's answer (0: silence) to what, and the error's code, message and hint
    "gated": (403, GATED, "/resolve/", "ENVIRONMENT", "is gated", "HF_TOKEN"),
    "gated-listing": (401, GATED, "/api/", "ENVIRONMENT", "is gated", "HF_TOKEN"),
    "bad-token": (401, BAD_TOKEN, "/api/", "ENVIRONMENT", "another access token", "HF_TOKEN"),
    "forbidden": (403, {}, "/resolve/", "ENVIRONMENT", "refuses access", "HF_TOKEN"),
    "rate-limit": (429, {}, "/api/", "ENVIRONMENT", "slow down", "wait"),
    "hub-down": (503, {}, "/api/", "ENVIRONMENT", "out of order (503)", "later"),
    "file-gone": (404, GONE, "/resolve/", "CHECKPOINT", "but http://", "revision"),
    "login-page": (200, {}, "/api/", "ENVIRONMENT", "does not answer like", "HF_ENDPOINT"),
    "silence": (0, {}, "/api/", "ENVIRONMENT", "did not answer in time", "TIMEOUT=60"),
}


def test_what_the_hub_refuses_is_explained(repo: Any) -> None:
    for case, (status, headers, where, *_) in REFUSALS.items():
        repo.repos[f"nv/{case}"] = repo.repos[REPO]
        repo.statuses[f"nv/{case}/", where] = (status, headers)
    env = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    answers = fetch_all(repo, *({"repo_id": f"nv/{case}"} for case in REFUSALS), env=env)
    for (case, (*_, code, message, hint)), answer in zip(REFUSALS.items(), answers, strict=True):
        assert answer["code"] == code, case
        assert message in answer["message"], case
        assert f"nv/{case}" in answer["message"] or "http://" in answer["message"], case
        assert hint in answer["hint"], case
        assert "\n" not in answer["message"] + answer["hint"], case


def test_an_unknown_repo_is_a_usage_error_with_a_suggestion(repo: Any) -> None:
    answer = fetch(repo, repo_id="Efficient-Large-Model/Sana_600M_1024_diffusers")
    assert answer["code"] == "USAGE"
    assert "there is no model" in answer["message"]
    assert answer["hint"] == "did you mean Efficient-Large-Model/Sana_600M_1024px_diffusers?"


def test_what_cannot_be_a_repo_asks_nobody(repo: Any) -> None:
    for answer in fetch_all(repo, *({"repo_id": name} for name in ("sana-9b", "a b/c", "a/b/c"))):
        assert answer["code"] == "USAGE"
        assert "neither a folder" in answer["message"]
    assert not repo.requests


def test_an_unknown_revision(repo: Any) -> None:
    answer = fetch(repo, revision="v9")
    assert (answer["code"], answer["message"]) == ("USAGE", f"{REPO} has no revision 'v9'")


def test_no_network(repo: Any) -> None:
    answer = fetch(repo, env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert answer["code"] == "ENVIRONMENT"
    assert "cannot reach http://127.0.0.1:9" in answer["message"]


def test_a_repo_in_another_layout(repo: Any) -> None:
    repo.repos[REPO] = {"README.md": b"", "checkpoints/Sana.pth": b"1234"}
    answer = fetch(repo)
    assert answer["code"] == "CHECKPOINT"
    assert answer["message"] == f"{REPO} has no model_index.json"
    assert not repo.gets()


def test_an_index_that_names_a_shard_the_repo_lacks(repo: Any) -> None:
    lost = {"a": "model-00001-of-00002.safetensors", "b": "model-00003-of-00003.safetensors"}
    name = "text_encoder/model.safetensors.index.json"
    repo.repos[REPO][name] = json.dumps({"weight_map": lost}).encode()
    answer = fetch(repo)
    assert answer["code"] == "CHECKPOINT"
    assert "lacks text_encoder/model-00003-of-00003.safetensors" in answer["message"]


def test_a_cache_that_cannot_be_written(repo: Any) -> None:
    repo.cache.write_text("a file where the folder should be")
    answer = fetch(repo)
    assert answer["code"] == "ENVIRONMENT"
    assert f"cannot use {repo.cache}" in answer["message"]
    assert "HF_HOME" in answer["hint"]
