"""Ways to decode and plans, the fastest first."""

from dataclasses import replace

import pytest

from sana_cli.config.choices import Decode, DecodeMode, PlanName
from sana_cli.memory.plans import NAMED, WHOLE, Plan, decode_plans, exact_tiles


@pytest.mark.parametrize(
    ("mode", "tile", "expected"),
    [
        ("auto", None, ["whole", "exact-tiles 512", "exact-tiles 256", "exact-tiles 128"]),
        ("whole", None, ["whole"]),
        ("exact-tiles", None, ["exact-tiles 512"]),
        ("exact-tiles", 96, ["exact-tiles 96"]),
        ("blended-tiles", None, ["blended-tiles 1024"]),
        ("blended-tiles", 64, ["blended-tiles 64"]),
    ],
)
def test_ways_to_decode(mode: DecodeMode, tile: int | None, expected: list[str]) -> None:
    assert [str(plan) for plan in decode_plans(mode, tile, 1024, 1024)] == expected


def test_options_and_plans_have_the_same_names() -> None:
    assert {mode.value for mode in Decode} == {
        "auto", "whole", "exact-tiles", "blended-tiles",
    }  # fmt: skip
    assert {name.value for name in PlanName} == {"auto", *NAMED}


def test_strips_where_the_first_stages_are_the_larger_part() -> None:
    assert exact_tiles(512, 1024, 1024).strip is None
    assert exact_tiles(512, 2048, 2048).strip == 512
    assert exact_tiles(32, 4096, 4096).strip == 32, "at least a position"


def test_smaller_and_smaller() -> None:
    assert [p.tile for p in decode_plans("auto", None, 4096, 4096)] == [0, 512, 256, 128]
    assert WHOLE.smaller(64, 64) == exact_tiles(128, 64, 64)
    blended = decode_plans("blended-tiles", None, 1024, 1024)[0].smaller(1024, 1024)
    assert str(blended) == "exact-tiles 512"


def test_every_plan_is_followed_by_a_smaller_one_until_the_last() -> None:
    def chain(two_branches: bool) -> list[str]:
        plan: Plan | None = Plan()
        found = []
        while (plan := plan.smaller_denoise(two_branches=two_branches)) is not None:
            found.append(str(plan))
        return found

    assert chain(True) == [
        "stages, decode whole",
        "branches, decode whole",
        "branches, transformer streamed, decode whole",
    ]
    assert len(chain(False)) == 2
    warm = Plan(keeps_text=True)
    assert str(warm) == "resident, with the text encoder, decode whole"
    assert warm.smaller_text() == warm.smaller_denoise(two_branches=True) == Plan()
    streamed = Plan().smaller_text()
    assert streamed is not None
    assert streamed.streams_text
    assert streamed.smaller_text() is None


def test_plans_are_told_by_the_names_of_the_option() -> None:
    for name, plan in NAMED.items():
        assert str(plan) == f"{name}, decode whole"
    between = replace(NAMED["stages"], streams_text=True, streams_blocks=True)
    assert str(between) == "stages, text encoder streamed, transformer streamed, decode whole"
