"""Every model that can be named here, wherever it comes from."""

from pathlib import Path

import pytest

from sana_cli.checkpoints import hub_cache, installed
from sana_cli.checkpoints.hub_cache import CachedRepo
from sana_cli.checkpoints.installed import ListedModel, listed_models, quantized_models, total_bytes
from sana_cli.config.variants import VARIANTS


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, CachedRepo]:
    """What the hub's cache holds: nothing yet."""
    repos: dict[str, CachedRepo] = {}
    monkeypatch.setattr(hub_cache, "find", lambda repo, weight_variant=None: repos.get(repo))
    monkeypatch.setattr(hub_cache, "sana_repos", lambda: iter(repos))
    monkeypatch.setenv("SANA_MODELS", str(tmp_path / "models"))
    return repos


def cache(folder: Path, repo: str, *, complete: bool) -> CachedRepo:
    folder = folder / repo.replace("/", "--")
    (folder / "snapshot").mkdir(parents=True)
    (folder / "snapshot/a").write_bytes(bytes(100))
    return CachedRepo(repo_id=repo, folder=folder, snapshot=folder / "snapshot", complete=complete)


def by_name() -> dict[str, ListedModel]:
    return {model.name: model for model in listed_models()}


def test_nothing_is_here(cached: dict[str, CachedRepo]) -> None:
    models = by_name()
    assert list(models) == ["builtin", *VARIANTS]
    assert models["builtin"].state == "built in"
    assert models["builtin"].size_bytes > 10**6
    for name, variant in VARIANTS.items():
        assert models[name].state == "not downloaded"
        assert models[name].download_bytes == sum(variant.download_bytes.values())
        assert models[name].note == f"{variant.native_size} px, {variant.steps} steps"
    assert total_bytes() == 0


def test_downloads(cached: dict[str, CachedRepo], tmp_path: Path) -> None:
    whole, part = list(VARIANTS.values())[:2]
    cached[whole.repo] = cache(tmp_path, whole.repo, complete=True)
    cached[part.repo] = cache(tmp_path, part.repo, complete=False)
    cached["some/one"] = cache(tmp_path, "some/one", complete=True)
    models = by_name()
    assert models[whole.alias].state == "downloaded"
    assert (models[whole.alias].size_bytes, models[whole.alias].download_bytes) == (100, 0)
    assert models[part.alias].state == "partly downloaded"
    rest = sum(part.download_bytes.values()) - 100
    assert models[part.alias].download_bytes == rest
    assert models["some/one"].state == "downloaded"
    assert list(models)[-1] == "some/one", "published ones are not listed twice"
    assert total_bytes() == 300


def test_quantized_models(cached: dict[str, CachedRepo], tmp_path: Path) -> None:
    """Folders without a manifest are not ours, and one that cannot be read is listed with its problem."""
    for name, content in (("a", "{"), ("b", None), (".c", "{}")):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        if content is not None:
            (folder / "manifest.json").write_text(content)
    (model,) = quantized_models()
    assert (model.name, model.state, model.folder) == ("a", "quantized", tmp_path / "models/a")
    assert model.note.startswith("unreadable: not JSON")
    assert installed.total_bytes() == 3
