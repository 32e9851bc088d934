"""The file of HED: found, checked before any work, and downloaded whole or not at all."""

import os
from pathlib import Path

import pytest
import torch

from sana_cli.checkpoints.hed_file import find_hed, kept_file, pull_hed
from sana_cli.checkpoints.obtaining import Access
from sana_cli.errors import ExitCode, SanaError
from tests.hed_files import write_hed


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SANA_MODELS", str(tmp_path / "models"))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hed(tmp_path_factory.mktemp("hed") / "ControlNetHED.pth")


def test_missing() -> None:
    with pytest.raises(SanaError) as caught:
        find_hed(None)
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert caught.value.hint == "`sana pull hed` downloads it, 29.4 MB", "also of use to a server"
    with pytest.raises(SanaError, match="is not here, and a download needs the network"):
        pull_hed(Access(offline=True))


def test_where_it_is_kept(file: Path) -> None:
    named = find_hed(str(file))
    kept_file().parent.mkdir(parents=True)
    kept_file().write_bytes(file.read_bytes())
    assert find_hed(None).digest == named.digest
    assert pull_hed(Access(offline=True)) == kept_file(), "nothing is asked for what is here"


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda t: t.pop("norm"), "norm", id="lacks a tensor"),
        pytest.param(lambda t: t.update(norm=torch.zeros(3)), "norm", id="another shape"),
        pytest.param(lambda t: t.update(more=torch.zeros(3)), "more", id="a further tensor"),
        pytest.param(lambda t: t.update(norm=Code()), "run code", id="code"),
    ],
)
def test_another_file(damage: object, message: str, file: Path, tmp_path: Path) -> None:
    tensors = torch.load(file, weights_only=True)
    damage(tensors)
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(SanaError, match=message) as caught:
        find_hed(str(tmp_path / "x.pth"))
    assert caught.value.code == ExitCode.CHECKPOINT
    assert "sana pull hed" in caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["none.pth", "x.safetensors", "folder.pth"])
def test_no_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(SanaError) as caught:
        find_hed(str(tmp_path / name))
    assert caught.value.code == ExitCode.CHECKPOINT
    assert "sana pull hed" in caught.value.hint
