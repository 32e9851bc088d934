"""Hints that install something name what pip finds."""

from importlib import metadata
from pathlib import Path

import pytest

from sana_cli.system.packages import pip_install

ROOT = Path(__file__).parents[3]
TEXTS = [*(ROOT / "sana_cli").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]


def test_versions_that_were_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["torch<3", "torchao<0.19,>=0.18; extra == 'train'", "Optimum_Quanto>=0.2"]
    monkeypatch.setattr(metadata, "requires", lambda name: declared)
    assert pip_install("torchao", "optimum-quanto", "other") == (
        'pip install "torchao<0.19,>=0.18" "optimum-quanto>=0.2" other'
    )


def test_a_checkout_declares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert pip_install("torchao") == "pip install torchao"


@pytest.mark.parametrize(
    ("mark", "command"),
    [
        ("pipx_metadata.json", "pipx inject sana-cli torchao"),
        ("uv-receipt.toml", "uv pip install --python '{}' torchao"),
        ("pyvenv.cfg", "pip install torchao"),
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


def test_nobody_is_sent_to_a_package_that_no_index_has() -> None:
    assert len(TEXTS) > 100, "the folders have moved"
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        for words in ("pip install sana", 'pip install "sana', "force-reinstall sana"):
            assert words not in text, path
