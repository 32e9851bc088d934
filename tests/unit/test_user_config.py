"""Which model a run without a name uses: environment, then file, then the built-in."""

from pathlib import Path

import pytest

from sana_cli.errors import ExitCode, SanaError
from sana_cli.user_config import config_path, default_model


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SANA_CONFIG", str(tmp_path / "config.toml"))
    return tmp_path / "config.toml"


def test_precedence(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_model() == ("builtin", "")
    file.write_text('model = "sana-1.6b"\n')
    assert default_model() == ("sana-1.6b", str(file))
    monkeypatch.setenv("SANA_MODEL", "sprint-0.6b")
    assert default_model() == ("sprint-0.6b", "SANA_MODEL")
    monkeypatch.setenv("SANA_MODEL", "")
    assert default_model()[0] == "sana-1.6b", "an empty variable says nothing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = ", "not readable TOML"),
        ('modle = "x"', "unknown key 'modle', did you mean 'model'"),
        ("model = 3", "unusable value for 'model': 3"),
        ('model = ""', "unusable value"),
        ("colour = 1", "unknown key 'colour'"),
    ],
)
def test_unusable_file(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(SanaError, match=message) as caught:
        default_model()
    assert caught.value.code == ExitCode.USAGE
    assert str(file) in caught.value.message


def test_platform_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SANA_CONFIG", raising=False)
    assert config_path().parts[-2:] == ("sana", "config.toml")
