"""`--fail-if`: what it reads, and what it decides."""

import json
from pathlib import Path
from typing import Any

import pytest

from sana_cli.bench.condition import parse_condition
from sana_cli.errors import ExitCode, SanaError


def document(total: float, other: float = 1.0) -> dict[str, Any]:
    def contender(seconds: float) -> dict[str, Any]:
        return {"stages": {"total": {"median": seconds}}, "peak_host_bytes": 2**30}

    return {
        "contenders": {"sana": contender(total), "diffusers": contender(other)},
        "pictures": {"diffusers": {"psnr_db": 40.0 * other}, "twin": {"psnr_db": None}},
        "times_as_fast": {"sana": {"picture": {"median": other / total}}},
    }


@pytest.mark.parametrize(
    ("text", "total", "broken"),
    [
        ("total>0.5", 0.6, True),
        ("total>0.5", 0.4, False),
        ("total>1.2*{}", 1.3, True),
        ("total > 1.2 * {}", 1.1, False),
        ("total>{}", 1.1, True),
        ("diffusers:total>0.9", 0.1, True),
        ("times_as_fast<1.2", 1.0, True),
        ("times_as_fast<1.2", 0.5, False),
        ("psnr<41", 1.0, True),
        ("psnr<39", 1.0, False),
        ("diffusers:psnr<41", 1.0, True),
        ("twin:psnr<99", 1.0, False),
        ("psnr<1.1*{}", 1.0, True),
        ("peak_host>2e9", 1.0, None),
        ("peak_host>1000000000", 1.0, True),
    ],
)
def test_conditions(tmp_path: Path, text: str, total: float, broken: bool | None) -> None:
    baseline = tmp_path / "baseline.json"
    baseline.write_text(json.dumps(document(1.0)))
    if broken is None:
        with pytest.raises(SanaError, match="cannot read"):
            parse_condition(text.format(baseline))
        return
    reason = parse_condition(text.format(baseline)).broken_by(document(total))
    assert bool(reason) == broken
    assert not broken or "is " in reason


@pytest.mark.parametrize(
    "text", ["", "total", "total=1", "speed>1", "total>no.json", "total>1.2*no.json"]
)
def test_unreadable_ones(text: str) -> None:
    with pytest.raises(SanaError) as caught:
        parse_condition(text)
    assert caught.value.code == ExitCode.USAGE


def test_a_metric_that_was_not_measured(tmp_path: Path) -> None:
    with pytest.raises(SanaError, match="nothing was measured for step of the first contender"):
        parse_condition("step>1").broken_by(document(1.0))


def test_the_pictures_of_one_contender(tmp_path: Path) -> None:
    alone = {**document(1.0), "pictures": {}}
    with pytest.raises(SanaError, match="nothing was measured for psnr of any contender") as caught:
        parse_condition("psnr<30").broken_by(alone)
    assert "time two contenders" in caught.value.hint


def test_a_file_that_is_no_document(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(SanaError, match="is not a document of sana bench"):
        parse_condition(f"total>1.2*{path}")
