"""Kernels are measured once a machine: while a model is quantized, else with a word."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SAID = "measuring which kernels are the fastest here, once"


def test_the_first_picture_of_a_quantized_model(
    sana: Callable[..., Any],
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    measured: list[str],
) -> None:
    monkeypatch.setenv("SANA_CACHE", str(tmp_path / "cache"))

    def draw() -> str:
        words = ("--steps", 1, "--size", "64x64", "--device", "cpu", "--force")
        result = sana(
            "generate", "A Fox", "-m", tmp_path / "small", *words, "-o", tmp_path / "a.png"
        )
        assert result.code == 0, result.err
        return result.err

    done = sana("quantize", tiny_model, tmp_path / "small", "--recipe", "int4", "--samples", 0)
    assert (done.code, SAID in done.err) == (0, False)
    verdicts = tmp_path / "cache/kernels.json"
    first = json.loads(verdicts.read_text())
    assert any("linear w4a16" in key for key in first)
    assert any("linear fp32" in key for key in first)

    measured.clear()
    assert SAID not in draw()
    assert measured == []

    verdicts.unlink()
    assert draw().count(SAID) == 1, "once, whatever the number of parts"
    assert measured
    assert json.loads(verdicts.read_text()).keys() <= first.keys(), "nothing was left to measure"
    assert SAID not in draw()
