"""Hints that install something name what pip finds."""

import sys
from importlib import metadata
from pathlib import Path
from shlex import quote

import pytest

from sana_cli.system.packages import install_again, pip_install

ROOT = Path(__file__).parents[3]
TEXTS = [*(ROOT / "sana_cli").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]


def test_versions_that_were_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = [
        "torch<3",
        "torchao<0.19,>=0.18; extra == 'train'",
        "Optimum_Quanto>=0.2",
        "ray[data]<3",
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: declared)
    assert pip_install("torchao", "optimum-quanto", "other").endswith(
        'pip install "torchao<0.19,>=0.18" "optimum-quanto>=0.2" other'
    )
    assert pip_install("ray[data]").endswith('pip install "ray[data]<3"')


def test_a_checkout_declares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert pip_install("torchao").endswith("pip install torchao")


@pytest.mark.parametrize(
    ("mark", "command"),
    [
        ("pipx_metadata.json", "pipx inject sana-cli torchao"),
        ("uv-receipt.toml", "uv pip install --python '{}' torchao"),
        ("pyvenv.cfg", f"{quote(sys.executable)} -m pip install torchao"),
    ],
)
def test_the_environment_of_a_tool_is_reached_by_its_tool(
    mark: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: [])
    prefix = tmp_path / "a folder" / "sana-cli"
    prefix.mkdir(parents=True)
    (prefix / mark).touch()
    assert pip_install("torchao", prefix=prefix) == command.format(prefix)


def test_pip_of_the_active_environment_needs_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = tmp_path / "bin" / "pip"
    pip.parent.mkdir()
    pip.write_text("#!/bin/sh\n")
    pip.chmod(0o755)
    monkeypatch.setenv("PATH", str(pip.parent))
    assert pip_install("other", prefix=tmp_path) == "pip install other"
    assert pip_install("other", prefix=tmp_path / "another") == (
        f"{quote(sys.executable)} -m pip install other"
    )
    assert install_again(tmp_path).endswith(": pip install --force-reinstall .")
    assert (
        pip_install("other", prefix=tmp_path, again=True) == "pip install --force-reinstall other"
    )


@pytest.mark.parametrize(
    ("mark", "command"),
    [
        ("pipx_metadata.json", "pipx install --force ."),
        ("uv-receipt.toml", "uv tool install --force ."),
        ("pyvenv.cfg", f"{quote(sys.executable)} -m pip install --force-reinstall ."),
    ],
)
def test_sana_itself_is_installed_again_by_its_tool(
    mark: str, command: str, tmp_path: Path
) -> None:
    (tmp_path / mark).touch()
    assert install_again(tmp_path).endswith(f": {command}")


def test_nobody_is_sent_to_a_package_that_no_index_has() -> None:
    assert len(TEXTS) > 100, "the folders have moved"
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        for words in ("pip install sana", 'pip install "sana', "force-reinstall sana"):
            assert words not in text, path
