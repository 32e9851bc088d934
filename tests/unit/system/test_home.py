"""A picture's settings name nobody's home folder."""

from pathlib import Path

import pytest

from sana_cli.system.home import without_home


@pytest.mark.parametrize(
    ("home", "path", "shown"),
    [
        ("/home/me", "/home/me/loras/a.safetensors", "~/loras/a.safetensors"),
        ("/home/me/", "/home/me/a", "~/a"),
        ("/home/me", "/home/meadow/a", "/home/meadow/a"),
        ("/home/me", "/srv/a", "/srv/a"),
        ("/home/me", "a", "a"),
    ],
)
def test_paths(monkeypatch: pytest.MonkeyPatch, home: str, path: str, shown: str) -> None:
    monkeypatch.setenv("HOME", home)
    assert without_home(Path(path)) == shown
