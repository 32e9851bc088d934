"""Folders of this user: those that platformdirs names, whatever the environment says."""

import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from sana_cli.config.places import usual_folder

KINDS = {"config": "CONFIG_HOME", "cache": "CACHE_HOME", "data": "DATA_HOME", "state": "STATE_HOME"}


@pytest.mark.parametrize("home", [None, "", "~", "relative", "/home/anyone", "/home/anyone/"])
@pytest.mark.parametrize("named", [None, "", " ", "relative/folder", "/a/folder", "/a/folder/"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_that_of_platformdirs(
    kind: str, named: str | None, home: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in ((f"XDG_{KINDS[kind]}", named), ("HOME", home)):
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)
    assert usual_folder(kind) == getattr(platformdirs, f"user_{kind}_path")("sana")


def test_the_runtime_folder_is_that_of_platformdirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    assert usual_folder("runtime") == platformdirs.user_runtime_path("sana")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have rules of their own")
def test_a_plain_environment_needs_no_platformdirs(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom sana_cli.config.places import cache_folder, config_path, models_folder\n"
        "config_path(), cache_folder(), models_folder()\nassert 'platformdirs' not in sys.modules"
    )
    plain = {"HOME": str(tmp_path), "PATH": os.defpath} | {
        name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ
    }
    subprocess.run([sys.executable, "-c", program], env=plain, check=True)
