"""`sana bench --compare openvino` on tiny models. Needs the extra `openvino`."""

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sana_cli.errors import ExitCode

needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None or find_spec("nncf") is None, reason="no openvino, or no nncf"
)


def bench(
    sana: Callable[..., Any], model: Path, folder: Path, compare: str, *options: object
) -> tuple[Any, dict[str, Any]]:
    file = folder / "b.json"
    result = sana(
        "bench", "--model", model, "--size", "96x64", "--steps", 2, "--runs", 1, "--warmup", 0, "--scheme", "fp32",
        "--compare", compare, "--device", "cpu", "--json", file, *options,
    )  # fmt: skip
    assert result.code == 0, result.err
    return result, json.loads(file.read_text())


@needs_openvino
def test_it_draws_the_same_picture(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fair comparison: the same noise, loop and sizes; converting is told apart, and leaves no files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "scratch").mkdir()
    result, found = bench(sana, tiny_model, tmp_path, "openvino-fp32", "--batch", 2)
    assert found["pictures"]["openvino-fp32"]["largest_difference"] <= 2
    contender = found["contenders"]["openvino-fp32"]
    assert contender["kernels"] == dict.fromkeys(("text", "denoise", "decode"), "OpenVINO in f32")
    assert set(contender["conversion"]) == {"text", "denoise", "decode"}
    for taken in contender["conversion"].values():
        assert taken["seconds"] > 0
        assert taken["peak_bytes"] > 2**26
    assert found["contenders"]["sana-fp32"]["conversion"] is None
    assert "converted before" in result.out
    assert found["machine"]["state"]["versions"]["openvino"]
    assert not list((tmp_path / "scratch").iterdir())


@needs_openvino
@pytest.mark.parametrize("kind", ["openvino", "openvino-w8a16", "openvino-int8"])
def test_smaller_weights(
    sana: Callable[..., Any], tiny_model: Path, tmp_path: Path, kind: str
) -> None:
    _, found = bench(sana, tiny_model, tmp_path, kind)
    assert found["pictures"][kind]["psnr_db"] > 15
    assert found["contenders"][kind]["stages"]["picture"]["median"] > 0


@needs_openvino
def test_sprint(sana: Callable[..., Any], pipelines: Any, tmp_path: Path) -> None:
    _, found = bench(sana, pipelines.folder("sprint"), tmp_path, "openvino-fp32")
    assert found["pictures"]["openvino-fp32"]["largest_difference"] <= 2


def test_without_it(sana: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("openvino", "nncf"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not there
    result = sana("bench", "--compare", "openvino-int8")
    assert result.code == ExitCode.ENVIRONMENT
    assert '"openvino<' in result.err
