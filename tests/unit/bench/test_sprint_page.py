"""The part of docs/performance.md about few-step pictures comes from the documents of `benchmarks.sprint`."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import sprint_page
from benchmarks.sprint import BASE, whole_pictures


def contender(picture: float, text: float, *, peer: bool = False) -> dict[str, Any]:
    medians = {
        "text": text,
        "picture": picture,
        "decode": picture / 2,
        "total": picture + 1,
        "load": 1.0,
    }
    if peer:  # one that cannot be loaded part by part
        del medians["load"]
    stages = {name: {"median": value} for name, value in medians.items()}
    return {"stages": stages, "peak_host_bytes": 2**30, "peak_device_bytes": None}  # fmt: skip


@pytest.fixture
def document() -> dict[str, Any]:
    contenders = {
        "sana-w8a8": contender(8.0, 3.0), "sana-w8a8-lite": contender(4.0, 3.0),
        "sana-w8a8-tiny": contender(3.5, 3.0), BASE: contender(20.0, 10.0, peer=True),
    }  # fmt: skip
    found = {
        "model": "sprint-0.6b", "base": BASE, "command": "python -m benchmarks.sprint --work FOLDER",
        "machine": {"cpu": "a processor", "threads": 2}, "contenders": contenders,
        "settings": {"width": 512, "height": 512, "steps": 2, "runs": 3},
        "interleaved": {"text": False, "denoise": True, "decode": True},
    }  # fmt: skip
    return {**found, "whole_pictures": whole_pictures(found)}


def test_the_page_has_the_figures_of_the_results() -> None:
    text = sprint_page.PAGE.read_text(encoding="utf-8")
    assert sprint_page.replaced(text, sprint_page.RESULTS) == text, (
        "python -m benchmarks.sprint_page"
    )


def test_a_document_becomes_a_table_and_a_plot(tmp_path: Path, document: dict[str, Any]) -> None:
    (tmp_path / "sprint-512-avx2.json").write_text(json.dumps(document), encoding="utf-8")
    text = f"before\n{sprint_page.BEGIN}old\n{sprint_page.END}\nafter\n"
    found = sprint_page.replaced(text, tmp_path)
    assert found.startswith("before\n")
    assert found.endswith("after\n")
    assert "old" not in found
    assert "| sana-w8a8-tiny | 0.50 s | 20.00 | 3.50 s | 5.71 | 1.0 s | 1.00 GiB |" in found
    assert f"| {BASE} | 10.00 s | 1.00 | 20.00 s | 1.00 |  | 1.00 GiB |" in found
    assert "a processor, 2 threads, AVX2 alone; medians of 3 runs, one contender after" in found
    (plot,) = sprint_page.draw(tmp_path, tmp_path)
    assert f"(images/{plot.name})" in found
    with Image.open(plot) as image:
        assert len(image.convert("RGB").getcolors(2**24) or []) > 5


def test_a_document_of_few_contenders_has_no_plot(tmp_path: Path, document: dict[str, Any]) -> None:
    document["interleaved"]["text"] = True
    (tmp_path / "sprint-512-turns.json").write_text(json.dumps(document), encoding="utf-8")
    found = sprint_page.part(tmp_path)
    assert "medians of 3 rounds in turns" in found
    assert "images/" not in found
    assert sprint_page.draw(tmp_path, tmp_path) == []


def test_what_is_slower_than_it_should_be_is_named(document: dict[str, Any]) -> None:
    assert sprint_page.missed(document) == ["sana-w8a8, cached: 2.0 times as fast, should be 2.6"]


def test_nothing_measured_names_the_command(tmp_path: Path) -> None:
    assert "no run is kept yet" in sprint_page.part(tmp_path)
    assert sprint_page.draw(tmp_path, tmp_path) == []


def test_pictures_under_a_cap_have_a_table_of_their_own(tmp_path: Path) -> None:
    medians = {"1.2GiB, new prompt": {"total": 6.898, "load": 2.491, "peak_gib": 0.964}}
    capped = {"medians": medians, "rounds": 3, "command": "python -m benchmarks.sprint_cap"}
    (tmp_path / f"{sprint_page.CAPPED}.json").write_text(json.dumps(capped), encoding="utf-8")
    assert "| 1.2GiB, new prompt | 6.9 s | 2.5 s | 0.96 GiB |" in sprint_page.part(tmp_path)
