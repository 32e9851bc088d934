"""Every model that can be named here, wherever it comes from."""

from pathlib import Path

import pytest

from sana_cli.checkpoints import installed
from sana_cli.checkpoints.installed import ListedModel, listed_models, quantized_models, total_bytes
from sana_cli.config.variants import VARIANTS


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, which holds nothing yet."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("SANA_MODELS", str(tmp_path / "models"))
    return tmp_path / "hub"


def put(cached: Path, repo: str, *, complete: bool) -> int:
    """Put a model into the cache, as a download does; return its bytes."""
    folder, commit = cached / f"models--{repo.replace('/', '--')}", "c" * 40
    stems = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}  # fmt: skip
    names = ["scheduler/scheduler_config.json", "tokenizer/tokenizer.json"]
    names += [f"{part}/config.json" for part in stems]
    names += [f"{part}/{stem}{end}" for part, stem in stems.items() for end in (".safetensors", ".fp16.safetensors")]  # fmt: skip
    files = {f"snapshots/{commit}/{name}": "weights" for name in names[: None if complete else 3]}
    files[f"snapshots/{commit}/model_index.json"] = '{"_class_name": "SanaPipeline"}'
    files["refs/main"] = commit
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return sum(map(len, files.values()))


def by_name() -> dict[str, ListedModel]:
    return {model.name: model for model in listed_models()}


def test_nothing_is_here(cached: Path) -> None:
    models = by_name()
    assert list(models) == ["builtin", "builtin-sprint", "builtin-control", *VARIANTS]
    for name, size, note in (
        ("builtin", 19e6, "256 px, 20 steps"),
        ("builtin-sprint", 5e6, "256 px, 2 steps"),
        ("builtin-control", 1.3e6, "256 px, 20 steps"),
    ):
        assert (models[name].state, models[name].note) == ("built in", note)
        assert models[name].size_bytes == pytest.approx(size, rel=0.1), "each counted once"
    for name, variant in VARIANTS.items():
        assert models[name].state == "not downloaded"
        assert models[name].download_bytes == sum(variant.download_bytes.values())
        assert models[name].note == f"{variant.native_size} px, {variant.steps} steps"
    assert total_bytes() == 0


def test_downloads(cached: Path) -> None:
    whole, part = list(VARIANTS.values())[:2]
    sizes = [
        put(cached, whole.repo, complete=True), put(cached, part.repo, complete=False),
        put(cached, "some/one", complete=True),
    ]  # fmt: skip
    models = by_name()
    assert models[whole.alias].state == "downloaded"
    assert (models[whole.alias].size_bytes, models[whole.alias].download_bytes) == (sizes[0], 0)
    assert models[part.alias].state == "partly downloaded"
    rest = sum(part.download_bytes.values()) - sizes[1]
    assert models[part.alias].download_bytes == rest
    assert models["some/one"].state == "downloaded"
    assert list(models)[-1] == "some/one", "published ones are not listed twice"
    assert total_bytes() == sum(sizes)


def test_quantized_models(cached: Path, tmp_path: Path) -> None:
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
