"""The folder that `sana quantize` makes is checked before anything else, and so before torch is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from quant.manifest import MANIFEST
from sana_cli.checkpoints.quantized_folder import check_target
from sana_cli.errors import SanaError


@pytest.fixture
def places(tmp_path: Path) -> Path:
    for name in ("mine", "quantized"):
        (tmp_path / name).mkdir()
    (tmp_path / "quantized" / MANIFEST).write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "quantized")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "overwrite", "problem"),
    [
        ("mine", False, "exists"),
        ("mine", True, "exists and is no quantized model"),
        ("quantized", False, "exists"),
        ("link", True, "is a symbolic link"),
        ("absent/new", False, "no such folder"),
        ("quantized/..", True, "is a place"),
    ],
)
def test_refused(places: Path, name: str, overwrite: bool, problem: str) -> None:
    with pytest.raises(SanaError, match=problem):
        check_target(places / name, overwrite=overwrite)


@pytest.mark.parametrize(("name", "overwrite"), [("new", False), ("quantized", True)])
def test_accepted(places: Path, name: str, overwrite: bool) -> None:
    check_target(places / name, overwrite=overwrite)


def test_refused_before_torch_is_imported(places: Path) -> None:
    words = ["quantize", "builtin", str(places / "mine")]
    code = f"import sys; from sana_cli.cli import main; code = main({words!r}); sys.exit(9 if 'torch' in sys.modules else code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, "exists" in done.stderr) == (2, True), done.stderr
