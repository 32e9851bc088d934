"""What a model's name means, and what is said of one that means nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sana_cli.checkpoints.model_names import (
    BUILTIN_FOLDER,
    kept_folder,
    lasting_name,
    looks_like_repo,
    refuse_part,
    unknown_model,
)
from sana_cli.config.variants import VARIANTS
from sana_cli.errors import ExitCode, SanaError


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A quantized model that is known by its name."""
    folder = tmp_path / "models/my-w8a8"
    folder.mkdir(parents=True)
    monkeypatch.setenv("SANA_MODELS", str(folder.parent))
    return folder


def test_kept_models(kept: Path) -> None:
    assert kept_folder("my-w8a8") == kept
    for name in ("other", "", ".", "..", "models/my-w8a8", str(kept)):
        assert kept_folder(name) is None, name


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("a/b", True), ("a/b/c", False), ("a", False), ("/b", False), ("a/", False), ("./b", False), ("~/b", False)],
)  # fmt: skip
def test_names_of_repos(name: str, is_one: bool) -> None:
    assert looks_like_repo(name) == is_one


def test_names_that_last(kept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder is named from the root of the file system, since the next command may run elsewhere."""
    for name in ("builtin", "my-w8a8", *VARIANTS, "some/one"):
        assert lasting_name(name) == name
    assert lasting_name(" some/one ") == "some/one"
    (tmp_path / "here").symlink_to(BUILTIN_FOLDER)
    (tmp_path / "a.pth").touch()
    monkeypatch.chdir(tmp_path)
    assert lasting_name("here") == str(BUILTIN_FOLDER.resolve())
    assert lasting_name("a.pth") == str(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "the model's name is empty"),
        ("  ", "the model's name is empty"),
        ("sana-0.6", "unknown model 'sana-0.6'"),
        ("a\0b", "cannot be a path"),
        ("no-model", "is not a model folder"),
    ],
)
def test_names_that_mean_nothing(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no-model").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SanaError, match=message) as caught:
        lasting_name(name)
    assert caught.value.code == ExitCode.USAGE


@pytest.mark.parametrize("check", [refuse_part, lambda path: lasting_name(str(path))])
def test_one_part_of_a_model(check: Callable[[Path], object], folder: Path, tmp_path: Path) -> None:
    for part in ("vae/config.json", "vae/diffusion_pytorch_model.safetensors", "model_index.json"):
        with pytest.raises(SanaError, match="is one part of a model") as caught:
            check(folder / part)
        assert caught.value.hint == f"name the folder: {folder}"
    alone = tmp_path / "alone/a.safetensors"
    alone.parent.mkdir()
    save_file({"a.weight": torch.ones(1)}, alone)
    with pytest.raises(SanaError, match="is one part of a model") as caught:
        check(alone)
    assert "give the folder that holds transformer/" in caught.value.hint
    save_file({"transformer.a.lora_A.weight": torch.ones(1)}, alone)
    with pytest.raises(SanaError, match="is a LoRA") as caught:
        check(alone)
    assert f"--lora {alone}" in caught.value.hint
    alone.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(SanaError, match="is a git-lfs pointer"):
        check(alone)


def test_a_whole_transformer_is_no_part(folder: Path) -> None:
    (folder / "a.pth").touch()
    refuse_part(folder / "a.pth")
    refuse_part(folder / "absent.json")
    with pytest.raises(SanaError, match="no such file"):
        refuse_part(folder / "absent.safetensors")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sana-0.6", "did you mean sana-0.6b?"),
        ("buildin", "did you mean builtin?"),
        ("my-w8a9", "did you mean my-w8a8?"),
        ("sana-0.6b-w8a8", "`sana pull sana-0.6b --quantize w8a8` makes it;"),
        ("qqqq", "check the spelling, or give the folder's path;"),
    ],
)
def test_what_was_meant(kept: Path, name: str, hint: str) -> None:
    assert unknown_model(name).hint == f"{hint} `sana models` lists the known names"


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "a\0b"])
def test_names_that_no_folder_can_have(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system refuses them only where the folder of kept models is there."""
    monkeypatch.setenv("SANA_MODELS", str(tmp_path))
    for find in (kept_folder, lasting_name):
        with pytest.raises(SanaError, match="cannot be a path") as caught:
            find(name)
        assert caught.value.code == ExitCode.USAGE
