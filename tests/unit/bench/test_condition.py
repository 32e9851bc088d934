"""`--fail-if`: what it reads, and what it decides."""

import json
import re
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
    "text",
    [
        "",
        "total",
        "total=1",
        "speed>1",
        "total>no.json",
        "total>1.2*no.json",
        "psnr",
        "psnr<nan",
        "psnr<inf",
        "psnr<-1",
        "psnr<30<40",
        "psnr<" + "9" * 400,
        "total>1e9",
    ],
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


METRICS = ("total", "diffusers:total", "peak_host", "times_as_fast", "psnr", "diffusers:psnr")
NO_FIGURES = ("NaN", "Infinity", "-Infinity", "-1", '"1"', "true", "[1]", "{}", "9" * 400)


def with_figure(figure: str) -> str:
    """A document of which every figure is this JSON."""
    text = json.dumps(document(0.5, 0.5), separators=(",", ":"))
    return re.sub(r"(:)(?:[0-9.]+|null)(?=[,}])", rf"\g<1>{figure}", text)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("figure", [*NO_FIGURES, "null"])
def test_figures_that_are_none(tmp_path: Path, metric: str, figure: str) -> None:
    """NaN is neither above nor below a limit: a check that never fails. Equal pictures alone have no figure."""
    path = tmp_path / "baseline.json"
    path.write_text(with_figure(figure))
    name = metric.rpartition(":")[2]
    if figure == "null" and name == "psnr":
        assert "below infinite" in parse_condition(f"{metric}<2*{path}").broken_by(document(1.0))
        return
    with pytest.raises(SanaError, match=f"nothing was measured for {name} of .* in {path}"):
        parse_condition(f"{metric}>2*{path}")
    with pytest.raises(SanaError, match=f"nothing was measured for {name}"):
        parse_condition(f"{metric}>2").broken_by(json.loads(path.read_text()))


@pytest.mark.parametrize("metric", [*METRICS, "nobody:psnr", "nobody:total", "step"])
@pytest.mark.parametrize(
    "lacking", [{"contenders": {}}, {"contenders": {"sana": None}, "pictures": None}]
)
def test_a_file_that_lacks_the_figure(tmp_path: Path, metric: str, lacking: dict[str, Any]) -> None:
    """It is refused before anything is measured."""
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(lacking))
    with pytest.raises(SanaError, match="nothing was measured") as caught:
        parse_condition(f"{metric}<1.2*{path}")
    assert caught.value.hint
    assert str(path) in caught.value.message


def test_a_file_that_is_no_document(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(SanaError, match="is not a document of sana bench"):
        parse_condition(f"total>1.2*{path}")
